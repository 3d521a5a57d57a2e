"""Limits of the page's connections, so that idle, slow and greedy clients lock nobody out."""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Limits:
    """How many connections and endless answers (pictures, updates) there may be, and how slow they may be.

    `head_s` is the time for a whole request head, counted from the connection or the last answer; `stalled_s` the time
    in which a client must take what waits for it, and `idle_s` that between an answer and the next head, where it is
    longer. There are more connections than endless answers, so that some are always left for the page, /healthz and
    /metrics.
    """

    connections: int = 256
    connections_per_client: int = 64
    streams: int = 64
    streams_per_client: int = 24
    head_s: float = 10.0
    stalled_s: float = 30.0
    head_bytes: int = 16 * 1024
    idle_s: float | None = None


LIMITS = Limits()
SWEEP_S = 0.5
"""How often slow connections are looked for."""


def client_of(address: Any) -> str:
    """Who counts as one client: an IPv4 address, or an IPv6 network of 64 bits, which one subscriber has."""
    try:
        ip = ipaddress.ip_address(address[0].partition("%")[0])
    except (TypeError, ValueError, IndexError):
        return ""
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))


class Connection(Protocol):
    """What is known of a connection. `since_s` is when it began to wait for its client."""

    client_key: str
    since_s: float

    @property
    def at_work(self) -> bool:
        """Whether it is being answered and takes its answer."""

    @property
    def patience_s(self) -> float:
        """How long its client may be waited for."""

    def drop(self) -> None:
        """End it at once."""


class Connections:
    """All open connections. Everybody is let in; where there are too many, who has kept us waiting longest goes.

    Where nobody keeps us waiting, the latest that is being answered goes, as old ones are those of viewers.
    """

    def __init__(self, limits: Limits):
        self._limits = limits
        self._open: set[Connection] = set()

    def add(self, new: Connection) -> None:
        """Let a connection in, and end another one where there are too many."""
        self._open.add(new)
        clients = Counter(each.client_key for each in self._open)
        if clients[new.client_key] > self._limits.connections_per_client:
            self._end_one_of(new.client_key, new)
        elif len(self._open) > self._limits.connections:
            self._end_one_of(clients.most_common(1)[0][0], new)

    def _end_one_of(self, client: str, new: Connection) -> None:
        own = [each for each in self._open if each.client_key == client and each is not new] or [new]
        victim = min(own, key=lambda each: (each.at_work, -each.since_s if each.at_work else each.since_s))
        self._open.discard(victim)
        victim.drop()

    def remove(self, gone: Connection) -> None:
        """A connection has ended."""
        self._open.discard(gone)

    def sweep(self, now_s: float) -> None:
        """End the connections whose clients are too slow."""
        for each in [*self._open]:
            if not each.at_work and now_s - each.since_s > each.patience_s:
                self._open.discard(each)
                each.drop()


class Viewers:
    """Counts endless answers."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._clients: Counter[str] = Counter()

    @contextmanager
    def slot(self, client: str) -> Iterator[bool]:
        """Whether there is a place for one more, kept until the block ends."""
        own, all_of_them = self._clients[client], sum(self._clients.values())
        free = own < self._limits.streams_per_client and all_of_them < self._limits.streams
        self._clients[client] += free
        try:
            yield free
        finally:
            self._clients[client] -= free
            if not self._clients[client]:
                del self._clients[client]


def _as_text(message: str) -> tuple[str, bytes]:
    return "text/plain; charset=utf-8", message.encode() + b"\n"


def http_protocol(
    limits: Limits, headers: dict[str, str], refusal: Callable[[str], tuple[str, bytes]] = _as_text
) -> type[Any]:
    """Uvicorn's HTTP protocol within `limits`; what it answers by itself has `headers`, and the media type and content
    that `refusal` makes of a message.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    connections = Connections(limits)
    sweeping: list[asyncio.TimerHandle] = []

    def sweep(loop: asyncio.AbstractEventLoop) -> None:
        connections.sweep(loop.time())
        sweeping[:] = [loop.call_later(SWEEP_S, sweep, loop)]

    class Guarded(H11Protocol):  # type: ignore[misc]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.client_key = client_of(self.client)
            self.since_s = self.loop.time()
            connections.add(self)
            if not sweeping:
                sweep(self.loop)

        def connection_lost(self, exc: Exception | None) -> None:
            connections.remove(self)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.is_idle:
                self.since_s = self.loop.time()  # a head begins
            # h11 limits a head only while it is incomplete, so it gets no more than that at once.
            for begin in range(0, len(data), limits.head_bytes):
                if not self.transport.is_closing():
                    super().data_received(data[begin : begin + limits.head_bytes])

        @property
        def at_work(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete and not self.flow.write_paused

        @property
        def is_idle(self) -> bool:
            """Whether an answer was taken and nothing of another request has come."""
            return self.cycle is not None and self.cycle.response_complete and not self.conn.trailing_data[0]

        @property
        def patience_s(self) -> float:
            if self.transport.get_write_buffer_size():
                return limits.stalled_s
            return limits.idle_s if limits.idle_s is not None and self.is_idle else limits.head_s

        def drop(self) -> None:
            self.transport.abort()

        def pause_writing(self) -> None:
            self.since_s = self.loop.time()
            super().pause_writing()

        def on_response_complete(self) -> None:
            self.since_s = self.loop.time()
            super().on_response_complete()

        def send_400_response(self, msg: str) -> None:
            media_type, content = refusal(msg)
            named = {"Content-Type": media_type, "Connection": "close", **headers}
            head = h11.Response(status_code=400, headers=[*named.items()], reason=b"Bad Request")
            try:
                for event in (head, h11.Data(data=content), h11.EndOfMessage()):
                    self.transport.write(self.conn.send(event))
            except h11.LocalProtocolError:
                pass  # an answer is under way already
            self.transport.close()

    return Guarded
