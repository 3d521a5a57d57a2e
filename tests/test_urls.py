"""Addresses with secrets."""

import pytest

from edgecls.errors import UsageError
from edgecls.stream.sinks.network import MqttSink, WebhookSink
from edgecls.urls import SecretUrl


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://me:SECRET@host/s", "rtsp://me:a@SECRET@host/s", "rtsp://me:a/SECRET@host/s", "rtsp:/me:SECRET@host",
        "rtsp//me:SECRET@host", "rtps;//me:SECRET@host", "http://host/s?key=SECRET&x=1", "http://host/s?SECRET",
        "http://host/#SECRET", "postgresql://user:SECRET@host/db", "http://SECRET@host/", "http://[me:SECRET@host",
    ],
)  # fmt: skip
def test_secrets_are_never_shown(address: str) -> None:
    url = SecretUrl(address)
    assert "SECRET" not in f"{url} {url!r} {url:>9} {url.scrubbed(f'cannot open {address}')}"
    assert "host" in str(url)
    assert url.reveal() == address


def test_path_of_a_webhook_is_hidden() -> None:
    assert str(SecretUrl("https://host:1/services/SECRET", secret_path=True)) == "https://host:1/***"
    assert str(SecretUrl("rtsp://host/stream")) == "rtsp://host/stream"


@pytest.mark.parametrize(
    "rest",
    ["//[", "//h:99999", "//h:word", "//h:0", "//h\n/x", "//h\x00", "//", "//h/\udce9", "//" + "a" * 70, "//a..b"],
)
def test_addresses_that_cannot_work_are_refused(rest: str) -> None:
    with pytest.raises(UsageError):
        WebhookSink("http:" + rest)
    with pytest.raises(UsageError):
        MqttSink("mqtt:" + rest)


@pytest.mark.parametrize("prefix", ["a/%23", "a/#", "a?b", "+/b", "a" * 65536, "a%00b"])
def test_prefixes_that_no_topic_can_have_are_refused(prefix: str) -> None:
    with pytest.raises(UsageError):
        MqttSink(f"mqtt://host/{prefix}")
