"""Addresses with secrets."""

import re

import pytest

from edgecls.errors import UsageError
from edgecls.streaming.sinks.network import MqttSink, WebhookSink
from edgecls.urls import SecretUrl


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://me:SECRET@host/s", "rtsp://me:a@SECRET@host/s", "rtsp://me:a/SECRET@host/s", "rtsp:/me:SECRET@host",
        "rtsp//me:SECRET@host", "rtps;//me:SECRET@host", "http://host/s?key=SECRET&x=1", "http://host/s?SECRET",
        "http://host/#SECRET", "me:SECRET@rtsp://host", "me:SECRET@://host", "1a:SECRET@x://host",
        "rtsp://host/user=admin&password=SECRET&channel=1", "rtsp://host/user=me_password=SECRET_channel=1_stream=0.sdp",
        "rtsp://host/live;password=SECRET", "rtsp://host/live;SECRET", "rtsp://host/live/password/SECRET",
        "rtsp://host/Password/a/SECRET/b", "rtsp://host/me:SECRET/live", "rtsp://host/api_key/SECRET", "rtsp://host;SECRET/",
        "rtsp://host/live%3Bpassword%3DSECRET", "rtsp://host/user-admin-SECRET", "rtsp:/host/password=SECRET",
        "postgresql://user:SECRET@host/db", "http://SECRET@host/", "http://[me:SECRET@host",
    ],
)  # fmt: skip
def test_secrets_are_never_shown(address: str) -> None:
    url = SecretUrl(address)
    assert "SECRET" not in f"{url} {url!r} {url:>9} {url.scrubbed(f'cannot open {address}')}"
    assert "host" in str(url)
    assert url.reveal() == address


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql://me:SECRET@host/db", "password authentication failed: 'SECRET'"),
        ("postgresql://me:SEC%2FRET%40@host/db", "no such role: SEC/RET@"),
        ("rtsp://me:a@SECRET@host/s", "bad a@SECRET"),
        ("http://SECRET@host/", "no user SECRET"), ("http://host/s?key=SECRET+1&x=y", "bad key 'SECRET 1'"),
        ("http://host/s?SECRET", "GET /s?SECRET"), ("http://host/#SECRET", "no SECRET"),
        ("http://me:RET@host/", "no user RET"), ("http://host/s?key=U0VDRET==", "bad key U0VDRET"),
        ("http://host/s?x=1&RET", "bad RET"), ("rtsp://me:a://RET@host", "bad a://RET"),
        ("rtsp://host/user=me_password=SECRET_channel=1", "bad SECRET"), ("me:SECRET@rtsp://host", "bad SECRET"),
        ("rtsp://host/live/password/SECRET/x", "bad SECRET"), ("rtsp://host/user=me&password=SECRET", "no SECRET"),
    ],
)  # fmt: skip
def test_secrets_alone_are_not_shown_either(address: str, message: str) -> None:
    scrubbed = SecretUrl(address).scrubbed(message)
    assert "***" in scrubbed
    assert "RET" not in scrubbed


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://ip/user=admin&password=SEC@RET&channel=1", "http://ip/s?key=SEC@RET", "http://ip?key=SEC@RET",
        "rtsp://me:SEC@ip/live/password/SEC@RET", "rtsp://ip:554/me:SEC@RET/live", "rtsp://[::1]/me:SEC@RET",
        "rtsp://me:SEC/R=T@RET/s", "http://ip/#SEC@RET",
    ],
)  # fmt: skip
def test_an_address_that_can_be_read_in_two_ways_shows_no_secret_of_either(address: str) -> None:
    url = SecretUrl(address)
    assert not re.search("SEC|RET", f"{url} {url.scrubbed(f'cannot open {address}')}")


@pytest.mark.parametrize(
    "address", ["rtsp://host/stream", "rtsp://host:554/Streaming/Channels/101", "rtsp://host/keynote/passage.sdp"]
)
def test_a_path_without_secrets_is_shown(address: str) -> None:
    assert str(SecretUrl(address)) == address
    assert not SecretUrl(address).holds_secrets


def test_path_of_a_webhook_is_hidden() -> None:
    assert str(SecretUrl("https://host:1/services/SECRET", secret_path=True)) == "https://host:1/***"


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
