"""What a search is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgecls import models
from edgecls.bounds import LONGEST_S, check_bounds
from edgecls.errors import UsageError
from edgecls.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """What to search for. `base` holds what every trial shares; its learning rate, batch size, weight decay and
    augmentation are searched for.

    `archs` and `sizes_px` are what to choose from, `epochs` the fewest and the most. A network slower than
    `max_latency_ms` in ONNX Runtime on this machine is not trained. `storage` is a database's URL, which several
    machines may share; a file in `folder` unless given.
    """

    base: TrainConfig
    folder: Path
    archs: tuple[str, ...] = (models.DEFAULT_ARCH,)
    sizes_px: tuple[int, ...] = ()
    epochs: tuple[int, int] | None = None
    trials: int = 20
    timeout_s: float | None = None
    max_latency_ms: float | None = None
    storage: str | None = None
    name: str = "edgecls"

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        if self.trials < 1:
            raise UsageError(f"--trials must be at least 1, not {self.trials}")
        if self.timeout_s is not None:
            check_bounds("--minutes", self.timeout_s / 60, 0.0, LONGEST_S / 60)
        if self.epochs is not None and not 1 <= self.epochs[0] <= self.epochs[1]:
            raise UsageError("--epochs is a number or a range such as 5-15, of at least 1")
        check_bounds("--max-latency-ms", self.max_latency_ms, 1e-6, 1e9)
        for arch in self.archs:
            for size in self.sizes_px or (None,):
                replace(self.base, arch=arch, size_px=size).check()
