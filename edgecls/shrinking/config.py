"""What shrinking is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgecls.errors import OutputError, UsageError
from edgecls.settings import Config, setting

LEVERS = ("size", "prune", "network")
"""A smaller input, narrower layers, and another network; in this order their trainings grow dearer."""
DISTILLED = 3
"""How many times as many epochs a network gets that begins without the run's weights."""


@dataclass(frozen=True)
class Goal:
    """How fast is fast enough: a latency in ms at batch 1, or how many times as fast as the run."""

    latency_ms: float | None = None
    speedup: float | None = None

    @classmethod
    def parse(cls, text: str) -> Goal:
        """Read "3ms" or "2x". Raises `UsageError`."""
        match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?(ms|x)", text.strip(), re.ASCII)
        if match is None:
            raise UsageError(f"`to` is a latency such as 3ms or a factor such as 2x, not {text[:40]!r}")
        value = float(match[1])
        if match[2] == "ms":
            if value <= 0:
                raise UsageError(f"`to` is a latency above 0 ms, not {text!r}")
            return cls(latency_ms=value)
        if value <= 1:
            raise UsageError(f"`to` is a factor above 1, for 1x is as fast as the run; not {text!r}")
        return cls(speedup=value)

    def reached(self, latency_ms: float, parent_ms: float) -> bool:
        """Whether a network of that latency is fast enough; `parent_ms` is the run's, measured in turn with it."""
        if self.speedup is not None:
            return parent_ms / latency_ms >= self.speedup
        return self.latency_ms is not None and latency_ms <= self.latency_ms

    def __str__(self) -> str:
        return f"{self.latency_ms:g} ms" if self.latency_ms is not None else f"{self.speedup:g} times the run's speed"


@dataclass(frozen=True, kw_only=True)
class ShrinkConfig(Config):
    """What shrinking is asked for."""

    run: Path | None = setting(None, "A run's folder; the latest run unless given.")
    to: str = setting(help="How fast: a latency on this machine at batch 1, such as 3ms, or a factor, such as 2x.")
    max_drop_points: float = setting(1.0, "Points of top-1 that may be lost on validation images.", low=0.0, high=100.0)
    target: str = setting("onnx", "The runtime to measure in, in float32.")
    epochs: int = setting(
        10, f"Of each fine-tuning; a network without the run's weights gets {DISTILLED} times as many.", low=1
    )
    levers: tuple[str, ...] = setting(
        LEVERS, "What to try: size, a smaller input; prune, narrower layers; network, a smaller one."
    )
    out: Path | None = setting(None, "Folder of the new run; a new one under runs/ unless given.")

    @property
    def goal(self) -> Goal:
        """`to`, read."""
        return Goal.parse(self.to)

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, and `BackendError` where `target` cannot run here."""
        from edgecls import backends
        from edgecls.errors import BackendError

        super().check()
        _ = self.goal
        for lever in self.levers or ("nothing",):
            if lever not in LEVERS:
                raise UsageError(f"`levers` takes {', '.join(LEVERS)}, not {lever}")
        backend = backends.find_exportable(self.target)
        backend.check_request("fp32")
        if reason := backend.available():
            raise BackendError(f"{self.target} cannot be timed on this machine: {reason}", "target")
        if self.out is not None and self.out.exists():
            raise OutputError(f"{self.out} exists already; choose another `out` or remove it")
