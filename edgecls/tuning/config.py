"""What a search is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgecls.errors import UsageError
from edgecls.settings import Config, setting
from edgecls.training.config import MAX_SIZE_PX, MIN_SIZE_PX, TrainConfig


@dataclass(frozen=True, kw_only=True)
class TuneConfig(Config):
    """What to search for. `base` holds what every trial shares; its learning rate, batch size, weight decay and
    augmentation are searched for.
    """

    base: TrainConfig = TrainConfig()
    archs: tuple[str, ...] = setting((), "Architectures to choose from.")
    sizes_px: tuple[int, ...] = setting((), "Input sizes to choose from.", low=MIN_SIZE_PX, high=MAX_SIZE_PX)
    epochs: tuple[int, int] | None = setting(None, "A number, or a range to choose from, such as 5-15.", low=1)
    trials: int = setting(20, "How many to run, beside those that the study holds.", low=1)
    minutes: float | None = setting(None, "Begin no trial after so many minutes.", low=0.0)
    max_latency_ms: float | None = setting(
        None, "Train no network that is slower here, float32 in ONNX Runtime at batch 1.", low=1e-6
    )
    out: Path = setting(Path("runs/tune"), "Folder of the study, its best run and its report.")
    storage: str | None = setting(
        None,
        "A database that machines share, such as postgresql://...; a file beside the report unless given.",
        secret=True,
    )
    name: str = setting("edgecls", "Name of the study in its storage.")

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        super().check()
        if self.epochs is not None and self.epochs[0] > self.epochs[1]:
            raise UsageError("`epochs` is a number or a range such as 5-15, the smaller number first")
        for arch in self.archs or (self.base.arch,):
            for size in self.sizes_px or (self.base.size_px,):
                replace(self.base, arch=arch, size_px=size).check()
