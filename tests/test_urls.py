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


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("postgresql://me:SECRET@host/db", "password authentication failed: 'SECRET'"),
        ("postgresql://me:SEC%2FRET%40@host/db", "no such role: SEC/RET@"),
        ("rtsp://me:a@SECRET@host/s", "bad a@SECRET"),
        ("http://SECRET@host/", "no user SECRET"), ("http://host/s?key=SECRET+1&x=y", "bad key 'SECRET 1'"),
        ("http://host/s?SECRET", "GET /s?SECRET"), ("http://host/#SECRET", "no SECRET"),
        ("http://me:RET@host/", "no user RET"),
    ],
)  # fmt: skip
def test_secrets_alone_are_not_shown_either(address: str, said: str) -> None:
    scrubbed = SecretUrl(address).scrubbed(said)
    assert "***" in scrubbed
    assert "RET" not in scrubbed


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
