"""What an export is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.artifact.terms import Precision
from edgecls.errors import UsageError
from edgecls.quantization.terms import Strategy
from edgecls.settings import Config, setting

if TYPE_CHECKING:
    from edgecls.backends.base import BuildOptions


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Config):
    """What an export is asked for; None means what suits the run and the target.

    With `require_gain` a bundle of lowered precision that is not measured to be faster than float32 is an error.
    """

    run: Path | None = setting(None, "A run's folder; the latest run unless given.")
    target: str = setting("onnx", "The runtime to build for.")
    precision: Precision = setting("fp32", "Of the arithmetic; int8 is calibrated on images.")
    calibration: Path | None = setting(
        None, "Folder or manifest of images to calibrate with; the run's training images unless given."
    )
    recipe: Path | None = setting(None, "TOML file that says how to quantize; the target's own recipe unless given.")
    strategy: Strategy = setting("fastest", "What to prefer among int8 recipes.")
    device: str | None = setting(
        None,
        "What to build for: x86, x86-vnni or arm (onnx); CPU, GPU or NPU (openvino); compute capabilities such as "
        "8.6,8.9 (tensorrt).",
    )
    batch: tuple[int, int, int] | None = setting(
        None,
        "Batch sizes that engines are built for (tensorrt): smallest, usual, largest; 1,1,8 by default.",
        low=1,
    )
    workspace_mib: int | None = setting(
        None, "Memory that building an engine may use on the GPU (tensorrt).", low=1, unit="MiB"
    )
    max_drop_points: float = setting(1.0, "Points of top-1 that int8 may lose on held-out images.", low=0.0, high=100.0)
    require_gain: bool = setting(False, "Fail where lowered precision is not faster than float32 on this machine.")
    verify_images: int = setting(1000, "How many held-out images to compare on, at most.", low=1)
    explain: bool = setting(
        False,
        "Add the last layers as a file of their own, with which the bundle shows in one pass what it looked at.",
    )
    out: Path | None = setting(None, "Folder of the bundle; inside the run unless given.")

    @property
    def options(self) -> BuildOptions:
        """What the target's build is asked for."""
        from edgecls.backends.base import BuildOptions

        return BuildOptions(device=self.device, batch=self.batch, workspace_mib=self.workspace_mib)

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        from edgecls import backends

        super().check()
        backend = backends.find_exportable(self.target)
        backend.check_request(self.precision, self.options)
        if self.precision != "int8":
            for name in ("calibration", "recipe"):
                if getattr(self, name) is not None:
                    raise UsageError(f"`{name}` is for int8; float exports need none")
        if self.require_gain and self.precision == "fp32":
            raise UsageError("`require_gain` is for int8, fp16 and bf16: it asks that they are faster than float32")
