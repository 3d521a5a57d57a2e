"""What an export is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecls import backends
from edgecls.backends.base import BuildOptions
from edgecls.errors import UsageError
from edgecls.exporting.verification import MAX_IMAGES
from edgecls.quantization.search import STRATEGIES, Strategy


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What an export is asked for.

    `device`, `batch` and `workspace_mib` are `BuildOptions`, for targets that build per device. `recipe` replaces the
    target's own int8 recipe. `verify_images` limits the held-out images.
    With `require_gain` a bundle of lowered precision that is not measured to be faster than float32 is an error.
    """

    target: str
    run: Path | None = None
    precision: str = "fp32"
    calibration: Path | None = None
    device: str | None = None
    out: Path | None = None
    max_drop_points: float = 1.0
    require_gain: bool = False
    recipe: Path | None = None
    strategy: Strategy = "fastest"
    verify_images: int = MAX_IMAGES
    batch: tuple[int, int, int] | None = None
    workspace_mib: int | None = None

    @property
    def options(self) -> BuildOptions:
        """What the target's build is asked for."""
        return BuildOptions(device=self.device, batch=self.batch, workspace_mib=self.workspace_mib)

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense together."""
        backend = backends.find(self.target)
        if not backend.exportable:
            raise UsageError(f"{self.target} is no export target; choose one of {', '.join(backends.exportable())}")
        backend.check_request(self.precision, self.options)
        if self.precision != "int8":
            for name, value in (("--calibration", self.calibration), ("--recipe", self.recipe)):
                if value is not None:
                    raise UsageError(f"{name} is for --int8; float exports need none")
        if not 0 <= self.max_drop_points <= 100:
            raise UsageError(f"--max-drop is in points of top-1, 0 to 100, not {self.max_drop_points:g}")
        if self.verify_images < 1:
            raise UsageError(f"--verify-images must be at least 1, not {self.verify_images}")
        if self.strategy not in STRATEGIES:
            raise UsageError(f"--strategy takes {', '.join(STRATEGIES)}, not {self.strategy!r}")
        if self.require_gain and self.precision == "fp32":
            raise UsageError("--require is for --int8, --fp16 and --bf16: it asks that they are faster than float32")
