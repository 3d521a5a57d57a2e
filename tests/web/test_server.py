"""Where a page's server listens, and its token."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgecls.errors import UsageError
from edgecls.web.server import Server, read_token


@pytest.mark.parametrize("address", ["here", "host:", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(address: str):
    with pytest.raises(UsageError, match="`web` takes a port"):
        Server(address)


@pytest.mark.parametrize(("content", "token"), [(b"abc\n", "abc"), (b" t\xc3\xbcr\r\n", "t\u00fcr"), (b"a b", "a b")])
def test_the_token_can_come_from_a_file(tmp_path: Path, content: bytes, token: str):
    (tmp_path / "token").write_bytes(content)
    assert read_token(tmp_path / "token") == token


@pytest.mark.parametrize("content", [b"", b"\n", b"SECRET\nSECRET", b"SECRET\0", b"SECRET\xff", b"SECRET" * 1000])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UsageError, match="`web_token_file`: ") as refused:
        read_token(tmp_path / "token")
    assert "SECRET" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_what_is_no_file_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "none", "n" * 300, "a\0b", "a\nb", "/dev/zero", "/dev/full"):
        with pytest.raises(UsageError, match="`web_token_file`: ") as refused:
            read_token(tmp_path / name)
        assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("token", ["a\nb", "\udce9", "t" * 2000, "\0"])
def test_a_token_that_no_header_could_carry_is_refused(token: str):
    with pytest.raises(UsageError, match="printable characters"):
        Server("0", token)
