"""What a run can be made smaller by, what came of it, and who hears of that."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecls.artifact.card import Quality
from edgecls.runtime.store import Artifact
from edgecls.training.history import Epoch


@dataclass(frozen=True)
class Candidate:
    """A smaller network that was not trained yet.

    `weights` is the file that holds its tensors; they are `learned`, by the run, or fresh.
    """

    lever: str
    name: str
    arch: str
    size_px: int
    weights: Path
    learned: bool = True


@dataclass(frozen=True)
class Timed:
    """A candidate with its latency at batch 1, and how many times as fast as the run it was, timed in turn."""

    candidate: Candidate
    latency_ms: float
    speedup: float


@dataclass(frozen=True)
class Attempt:
    """One network that was tried: what was measured on the validation split, or the reason why nothing was."""

    timed: Timed
    name: str
    seconds: float = 0.0
    quality: Quality = field(default_factory=Quality)
    reason: str | None = None
    run: Artifact | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for the lineage."""
        return {
            "candidate": self.name,
            "drop_points": self.quality.drop_points,
            "drop_low_points": self.quality.drop_low_points,
            "drop_high_points": self.quality.drop_high_points,
            "images": self.quality.images,
            "agreement": self.quality.agreement,
            "latency_ms": self.timed.latency_ms,
            "gain": self.timed.speedup,
            "seconds": round(self.seconds, 1),
            "reason": self.reason,
        }


class ShrinkCallbacks:
    """What the search tells about itself. The base is silent."""

    def step(self, line: str) -> None:
        """What is being done."""

    def remark(self, line: str) -> None:
        """Something that the person should know."""

    def epoch(self, attempt: str, epochs: int, epoch: Epoch) -> None:
        """An epoch of an attempt's `epochs` was validated."""

    def ended(self, attempt: Attempt) -> None:
        """An attempt ended."""
