"""A camera of a stream: its source, what became of its frames, and what is known of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timezone

from edgecls.clock import milliseconds_since, now_ns
from edgecls.streaming.decision import CameraHealth, EventLog, Smoother, State
from edgecls.streaming.drift import DriftFigures
from edgecls.streaming.frames import Frame
from edgecls.streaming.sources import LiveSource, Source

RECENT = 30
"""Decisions over which the shown rate and latency are averaged."""


@dataclass
class Camera:
    """A source and what became of its frames."""

    source: Source
    smoother: Smoother
    events: EventLog
    decided: int = 0
    taken: int = 0
    discarded: int = 0
    due_ns: int = 0
    state: State = State.CONNECTING
    reason: str = ""
    since: str = ""
    label: str | None = None
    score: float = 0.0
    nearest: str | None = None
    drift: DriftFigures | None = None
    moments_ns: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    inference_ms: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    age_ms: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def drifted(self) -> bool:
        """Whether its pictures have moved away from those that the model knows."""
        return self.drift is not None and bool(self.drift.signs)

    @property
    def dropped(self) -> int:
        """Frames that nobody decided about."""
        return self.source.dropped + self.discarded

    def fps(self) -> float:
        """Recent decisions a second; 0 where there was none for two seconds."""
        if len(self.moments_ns) < 2:
            return 0.0
        if milliseconds_since(self.moments_ns[-1]) > 2000:
            return 0.0
        return (len(self.moments_ns) - 1) * 1e9 / max(1, self.moments_ns[-1] - self.moments_ns[0])

    def schedule_next(self, max_fps: float) -> None:
        """A decision is made: the next is due an interval after this one was, or after now where it was late."""
        interval_ns = int(1e9 / max_fps)
        self.due_ns = max(self.due_ns, now_ns() - interval_ns) + interval_ns
        if isinstance(self.source, LiveSource):
            self.source.due_ns = self.due_ns

    def take(self) -> Frame | None:
        """The newest frame of a live source; taking and counting are one step for whoever looks at the counters."""
        assert isinstance(self.source, LiveSource)
        with self.source.changed:
            frame = self.source.take()
            self.taken += frame is not None
        return frame

    def health(self) -> CameraHealth:
        """The camera in figures, from any thread."""
        live = isinstance(self.source, LiveSource)
        with self.source.changed if isinstance(self.source, LiveSource) else nullcontext():
            captured, dropped, taken, decided = self.source.captured, self.dropped, self.taken, self.decided
            waiting = int(self.source.ready) if isinstance(self.source, LiveSource) else captured - taken
            reconnects = self.source.reconnects if isinstance(self.source, LiveSource) else 0
        in_flight = waiting + taken - decided - self.discarded
        return CameraHealth(
            self.source.name, self.state, self.reason, self.since, captured, decided, dropped, in_flight, reconnects,
            self.fps(), mean(self.inference_ms), mean(self.age_ms) if live else 0.0, self.label, self.score,
            self.drift, self.nearest,
        )  # fmt: skip


def mean(values: Iterable[float]) -> float:
    """The mean, 0 of nothing; `values` may grow meanwhile."""
    kept = list(values)
    return sum(kept) / len(kept) if kept else 0.0


def utc_now() -> str:
    """The time now in ISO format."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def one_line(name: str) -> str:
    """A camera's name as rows, headers, topics and files take it: control characters and broken UTF-8 are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
