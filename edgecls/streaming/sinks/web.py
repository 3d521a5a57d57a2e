"""The web view as a sink."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

from edgecls.streaming.decision import Decision, Event, Health
from edgecls.streaming.frames import Frame
from edgecls.streaming.sinks.base import Sink
from edgecls.web.limits import LIMITS, Limits
from edgecls.web.pictures import Newest
from edgecls.web.server import Server

LATEST_EVENTS = 50


class WebSink(Sink):
    """Serves the stream's page; see `Server` for the address, the token and who may come in."""

    name = "web"

    def __init__(self, address: str, token: str | None = None, limits: Limits = LIMITS):
        self.server = Server(address, token, limits, packages=("prometheus_client",))
        self._pictures: defaultdict[str, Newest] = defaultdict(Newest)
        self._events: OrderedDict[str, Event] = OrderedDict()
        self._events_lock = threading.Lock()
        self.health: Callable[[], Health] = _nothing

    @property
    def closing(self) -> bool:
        """Whether browsers' endless answers are to end."""
        return self.server.closing

    def open(self, health: Callable[[], Health]) -> None:
        """See `Sink.open`."""
        from edgecls.streaming.page import build

        self.health = health
        self.server.serve(lambda: build(self, self.server.token, self.server.limits))

    def write(self, frame: Frame, decision: Decision) -> None:
        """See `Sink.write`."""
        self._pictures[decision.camera].put(frame.index, lambda: frame.image)

    def event(self, event: Event) -> None:
        """See `Sink.event`."""
        with self._events_lock:
            self._events[event.id] = event
            while len(self._events) > LATEST_EVENTS:
                self._events.popitem(last=False)

    def events(self) -> list[dict[str, Any]]:
        """Recent events, newest first."""
        with self._events_lock:
            return [event.to_json() for event in reversed(self._events.values())]

    def picture(self, camera: str, after: int) -> tuple[int, bytes] | None:
        """See `page.Feed.picture`."""
        newest = self._pictures.get(camera)
        return newest.jpeg(after) if newest else None

    def begin_shutdown(self) -> None:
        """See `Sink.begin_shutdown`: browsers' endless answers end."""
        self.server.closing = True

    def close(self) -> None:
        """Stop serving."""
        self.server.close()


def _nothing() -> Health:
    return Health("", 0.0, (), ())
