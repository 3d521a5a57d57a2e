"""Each sink in a thread of its own, behind a queue that is bounded: none of them can slow inference down."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from edgecls.errors import first_line
from edgecls.streaming.decision import Decision, DriftChange, Event, Health, SinkHealth, StateChange
from edgecls.streaming.frames import Frame
from edgecls.streaming.sinks.base import Sink

FRAMES = 8
"""Frames that wait for a sink at most; the oldest makes room."""
EVENTS = 1000
"""Events and changes of state that wait for a sink at most."""
CLOSING_S = 10.0
"""How long a sink may take to finish when the stream ends."""

Message: TypeAlias = "Event | StateChange | DriftChange"


class Outbox:
    """Hands decisions, events and changes of state to one sink, in order: in a thread of its own, or in the one that
    calls `process_next`.

    What a sink raises is counted and kept as its health; it is called again for the next one.
    """

    def __init__(self, sink: Sink):
        self.sink = sink
        self._frames: deque[tuple[Frame, Decision]] = deque()
        self._events: deque[Message] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._written = self._lost = self._failed = 0
        self.error: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"edgecls-{sink.name}", daemon=True)

    def start(self, health: Callable[[], Health]) -> None:
        """Open the sink, and let it work. Raises what the sink raises on opening."""
        self.sink.open(health)
        if not self.sink.foreground:
            self._thread.start()

    def put(self, frame: Frame, decision: Decision, wait: bool) -> None:
        """Queue a decision. With `wait` a full queue is waited for, where the sink wants every frame."""
        if not self.sink.takes_frames or not self.sink.wants(decision):
            return
        with self._changed:
            if wait and self.sink.every_frame:
                self._changed.wait_for(lambda: len(self._frames) < FRAMES or self._closing)
            elif len(self._frames) >= self.sink.queue:
                self._frames.popleft()
                self._lost += self.sink.every_frame
            self._frames.append((frame, decision))
            self._changed.notify_all()

    def send_event(self, event: Message) -> None:
        """Queue an event or a change of state."""
        if not self.sink.accepts_events:
            return
        with self._changed:
            if len(self._events) >= EVENTS:
                self._events.popleft()
                self._lost += 1
            self._events.append(event)
            self._changed.notify_all()

    def health(self) -> SinkHealth:
        """The sink in figures."""
        trouble = self.error or self.sink.trouble
        return SinkHealth(self.sink.name, self._written, self._lost, self._failed, trouble)

    def process_next(self, timeout_s: float) -> None:
        """Hand over one thing that waits, waiting for it for a moment; for sinks that want the main thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._frames or self._events or self._closing, timeout_s)
            event = self._events.popleft() if self._events else None
            waiting = self._frames.popleft() if self._frames and event is None else None
            self._changed.notify_all()
        try:
            if isinstance(event, StateChange):
                self.sink.state(event)
            elif isinstance(event, DriftChange):
                self.sink.drift(event)
            elif event is not None:
                self.sink.event(event)
            elif waiting is not None:
                self.sink.write(*waiting)
            else:
                self.sink.idle()
                return
            self._written += 1
        except Exception as error:
            self._failed += 1
            self.error = first_line(error)

    @property
    def _done(self) -> bool:
        return self._closing and not self._frames and not self._events

    def _run(self) -> None:
        while not self._done:
            self.process_next(0.5)
        self._finish()

    def _finish(self) -> None:
        try:
            self.sink.close()
        except Exception as error:
            self._failed += 1
            self.error = first_line(error)

    def close(self) -> None:
        """Let the sink take what waits, and finish it; one that does not come to an end is left behind."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.sink.begin_shutdown()
        if not self.sink.foreground:
            if self._thread.is_alive():
                self._thread.join(CLOSING_S)
                if self._thread.is_alive():
                    self.error = f"did not finish within {CLOSING_S:g} s"
            return
        while not self._done:
            self.process_next(0.0)
        self._finish()
