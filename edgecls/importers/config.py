"""What is known about a model that was trained elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecls.errors import ArtifactError, OutputError, UsageError
from edgecls.imaging.preprocess import MAX_SHIFT, MIN_STD, Resize
from edgecls.settings import Config, setting

NO_ARCH = "none"
"""In place of an architecture: the file is a graph."""
MIN_SIDE_PX, MAX_SIDE_PX = 8, 4096


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Config):
    """What is known about somebody's model; None means what the architecture or the graph says.

    `size_px` is (height, width).
    """

    file: Path = setting(help="A checkpoint (safetensors, .pt, .pth) or an ONNX file.")
    arch: str = setting(help="The checkpoint's architecture, such as resnet50 or timm/NAME; none for an ONNX file.")
    classes: Path = setting(help="Class names in output order: one a line, or JSON.")
    size_px: tuple[int, int] | None = setting(
        None, "The network's input in pixels: 224, or 320x240.", low=MIN_SIDE_PX, high=MAX_SIDE_PX
    )
    mean: tuple[float, float, float] | None = setting(
        None,
        "Mean of red, green and blue, or of grey, on a scale of 0 to 1: 0.485,0.456,0.406.",
        low=-MAX_SHIFT, high=MAX_SHIFT,
    )  # fmt: skip
    std: tuple[float, float, float] | None = setting(
        None, "Standard deviations, on the same scale.", low=MIN_STD, high=MAX_SHIFT
    )
    resize: Resize | None = setting(None, "How an image is brought to size.")
    crop: float | None = setting(
        None, "Share of the sides that crop keeps: 0.875 is resize 256, crop 224.", low=1e-6, high=1.0
    )
    data: str | None = setting(None, "Folder with one folder of images per class, to measure with and calibrate on.")
    output: str | None = setting(None, "The output of an ONNX file that holds the scores, where it has several.")
    out: Path | None = setting(None, "Folder of the run; a new one under runs/ unless given.")

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        from edgecls import models

        super().check()
        if not self.file.is_file():
            raise ArtifactError(f"there is no file {self.file}")
        is_graph = self.file.suffix.lower() == ".onnx"
        if is_graph != (self.arch == NO_ARCH):
            wanted = "an ONNX file goes with `arch` none" if is_graph else "a checkpoint needs `arch` NAME"
            raise UsageError(f"{wanted}; {self.file.name} with `arch` {self.arch} cannot be imported")
        if self.output is not None and not is_graph:
            raise UsageError("`output` is for ONNX files; a checkpoint's network has one output")
        if not is_graph:
            models.find(self.arch)
        if self.out is not None and self.out.exists():
            raise OutputError(f"{self.out} exists already; choose another `out` or remove it")
