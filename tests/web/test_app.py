"""What a request may bring."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgecls.web.app import LARGEST_BODY_BYTES, read_object
from edgecls.web.limits import Limits


def read(pieces: list[bytes], ends: bool = True) -> Any:
    from starlette.requests import Request

    waiting = [*pieces]

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()  # the client sends nothing more
        piece = waiting.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(waiting) or not ends}

    return asyncio.run(read_object(Request({"type": "http", "method": "POST"}, receive), Limits(head_s=0.1)))


def test_an_object_is_read_in_any_pieces():
    assert read([b'{"a"', b": 1}"]) == {"a": 1}


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b"1", b"{", b"\xff", b"[" * 60_000, b'{"a": "' + b"x" * LARGEST_BODY_BYTES]
)
def test_another_thing_is_none(body: bytes):
    assert read([body]) is None


def test_what_does_not_come_to_its_end_is_not_waited_for():
    assert read([b'{"a"'], ends=False) is None


def test_what_never_ends_is_not_kept():
    assert read([b"x" * LARGEST_BODY_BYTES] * 3, ends=False) is None
