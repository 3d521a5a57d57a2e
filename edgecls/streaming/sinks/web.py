"""The web view as a sink."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgecls.errors import OutputError
from edgecls.runtime.explanation import Explainer
from edgecls.streaming.decision import Decision, DriftChange, Event, Health
from edgecls.streaming.frames import Frame
from edgecls.streaming.sinks.base import Sink
from edgecls.streaming.sinks.keep import Held, KeepSink
from edgecls.web.limits import LIMITS, Limits
from edgecls.web.pictures import Newest
from edgecls.web.server import Server

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

LATEST_EVENTS = 50
MOST_HELD = 16
"""Pictures that viewers have called wrong and not yet said more of."""


class WebSink(Sink):
    """Serves the stream's page; see `Server` for the address, the token and who may come in.

    `explain` opens the model once more, for pictures of what it looks at, when somebody first asks for one.
    """

    name = "web"

    def __init__(
        self,
        address: str,
        token: str | None = None,
        limits: Limits = LIMITS,
        keep: KeepSink | None = None,
        explain: Callable[[], Explainer] | None = None,
    ):
        self.server = Server(address, token, limits, packages=("prometheus_client",))
        self._pictures: defaultdict[str, Newest] = defaultdict(Newest)
        self._events: OrderedDict[str, Event] = OrderedDict()
        self._events_lock = threading.Lock()
        self._explained: defaultdict[str, Newest] = defaultdict(Newest)
        self._open_explainer = explain
        self._explainer: Explainer | None = None
        self._opening = threading.Lock()
        self._keep = keep
        self._latest: dict[str, tuple[Frame, Decision]] = {}
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._typed: list[str] = []
        """Labels of kept pictures; those that are no classes of the model were typed by somebody."""
        self._drifts: dict[str, DriftChange] = {}
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
        if self.explains:
            self._explained[decision.camera].put(frame.index, lambda: self._what_it_looks_at(frame))
        self._latest[decision.camera] = (frame, decision)

    def event(self, event: Event) -> None:
        """See `Sink.event`."""
        with self._events_lock:
            self._events[event.id] = event
            while len(self._events) > LATEST_EVENTS:
                self._events.popitem(last=False)

    def drift(self, change: DriftChange) -> None:
        """See `Sink.drift`."""
        self._drifts[change.camera] = change

    def drifts(self) -> dict[str, dict[str, Any]]:
        """By camera, how its pictures have moved away from those that the model knows, last."""
        return {camera: change.to_json() for camera, change in list(self._drifts.items()) if change.signs}

    def strange(self, camera: str, number: int) -> bytes | None:
        """See `page.Feed.strange`."""
        change = self._drifts.get(camera)
        return None if change is None else dict(change.strangest).get(number)

    @property
    def classes(self) -> list[str]:
        """See `page.Feed.classes`."""
        latest = next(iter(list(self._latest.values())), None)
        return list(dict.fromkeys([*latest[1].prediction.classes, *self._typed])) if self._keep and latest else []

    def hold(self, camera: str) -> str | None:
        """See `page.Feed.hold`."""
        latest = self._latest.get(camera)
        if self._keep is None or latest is None:
            return None
        held, name = self._keep.hold(*latest), secrets.token_hex(8)
        with self._events_lock:
            self._held[name] = held
            while len(self._held) > MOST_HELD:
                self._held.popitem(last=False)
        return name

    def held(self, name: str) -> bytes | None:
        """See `page.Feed.held`."""
        held = self._held.get(name)
        return held.jpeg if held else None

    def keep(self, name: str, label: str | None) -> bool:
        """See `page.Feed.keep`."""
        with self._events_lock:
            held = self._held.pop(name, None)
        if self._keep is None or held is None:
            return False
        try:
            self._keep.keep_held(held, label)
        except OutputError:
            with self._events_lock:
                self._held[name] = held
            raise
        if label is not None and label not in self._typed:
            self._typed.append(label)
        return True

    def events(self) -> list[dict[str, Any]]:
        """Recent events, newest first."""
        with self._events_lock:
            return [event.to_json() for event in reversed(self._events.values())]

    @property
    def explains(self) -> bool:
        """See `page.Feed.explains`."""
        return self._open_explainer is not None

    def picture(self, camera: str, after: int, explained: bool = False) -> tuple[int, bytes] | None:
        """See `page.Feed.picture`."""
        newest = (self._explained if explained else self._pictures).get(camera)
        return newest.jpeg(after) if newest else None

    def _what_it_looks_at(self, frame: Frame) -> NDArray[uint8]:
        """The frame below the heat of its best class; on the thread of a browser that wants to see it."""
        with self._opening:
            if self._explainer is None and self._open_explainer:
                self._explainer = self._open_explainer()
        image = frame.image
        return self._explainer.explain(image).over(image) if self._explainer else image

    def begin_shutdown(self) -> None:
        """See `Sink.begin_shutdown`: browsers' endless answers end."""
        self.server.closing = True

    def close(self) -> None:
        """Stop serving."""
        self.server.close()
        if self._explainer is not None:
            self._explainer.close()


def _nothing() -> Health:
    return Health("", 0.0, (), ())
