"""What a stream is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecls.bounds import LONGEST_S, MOST, check_bounds
from edgecls.streaming.decision import SMOOTHED, Smoothing
from edgecls.streaming.frames import FASTEST_FPS, SLOWEST_FPS

SHORTEST_S = 1e-3
"""Of a stream that is to end by itself."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """When to end by itself (None means never), how fast to go, and how decisions are made.

    `smoothing` is not used for images that have nothing to do with each other. `snapshots` is a folder for the first
    picture of each event, which gets a sink of its own.
    """

    duration_s: float | None = None
    frames: int | None = None
    max_fps: float | None = None
    smoothing: Smoothing = SMOOTHED
    snapshots: Path | None = None

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        check_bounds("--duration", self.duration_s, SHORTEST_S, LONGEST_S, "seconds")
        check_bounds("--frames", self.frames, 1, MOST)
        check_bounds("--max-fps", self.max_fps, SLOWEST_FPS, FASTEST_FPS, "decisions a second")
        self.smoothing.check()


UNLIMITED = StreamConfig()
