"""What a request may bring, and who waits for whom."""

from __future__ import annotations

import asyncio
import threading
from http.client import HTTPConnection
from typing import Any

import pytest
from starlette.routing import Route

from edgecls.web.app import LARGEST_BODY_BYTES, guarded, posted, read_object, updates
from edgecls.web.limits import Limits
from edgecls.web.server import Server


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


def test_updates_go_on_while_slow_work_takes_all_its_threads():
    going_on, waiting = threading.Event(), 40

    def slow(_given: dict[str, Any], _client: str) -> None:
        going_on.wait(60)

    async def stream(_request: Any) -> Any:
        return updates(lambda: "news", lambda: going_on.is_set())

    server = Server("0")
    server.serve(lambda: guarded([Route("/updates", stream), posted("/slow", slow, lambda _: None)], None))
    address = server.url.removeprefix("http://").rstrip("/")
    asked = [HTTPConnection(address, timeout=60) for _ in range(waiting)]
    try:
        for each in asked:
            each.request("POST", "/slow", b"{}")
        viewer = HTTPConnection(address, timeout=20)
        viewer.request("GET", "/updates")
        answer = viewer.getresponse()
        assert [answer.readline() for _ in range(6)] == [b'data: "news"\n', b"\n"] * 3
        going_on.set()
        assert [each.getresponse().status for each in asked] == [200] * waiting
    finally:
        going_on.set()
        server.close()
