"""What is known about a model that was trained elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from edgecls import models
from edgecls.errors import ArtifactError, OutputError, UsageError
from edgecls.imaging.preprocess import MAX_SHIFT, MIN_STD, Resize

NO_ARCH = "none"
"""In place of an architecture: the file is a graph."""


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """What is known about somebody's model; None means what the architecture or the graph says.

    `arch` is an architecture's name for a checkpoint and "none" for an ONNX file. `size_px` is (height, width).
    `output` names the output of an ONNX file that holds the scores, where it has several.
    """

    file: Path
    arch: str
    classes: Path
    size_px: tuple[int, int] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    resize: Resize | None = None
    crop: float | None = None
    data: str | None = None
    out: Path | None = None
    output: str | None = None

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense together."""
        if not self.file.is_file():
            raise ArtifactError(f"there is no file {self.file}")
        is_graph = self.file.suffix.lower() == ".onnx"
        if is_graph != (self.arch == NO_ARCH):
            wanted = "an ONNX file goes with --arch none" if is_graph else "a checkpoint needs --arch NAME"
            raise UsageError(f"{wanted}; {self.file.name} with --arch {self.arch} cannot be imported")
        if self.output is not None and not is_graph:
            raise UsageError("--output is for ONNX files; a checkpoint's network has one output")
        if not is_graph:
            models.find(self.arch)
        if self.resize is not None and self.resize not in get_args(Resize):
            raise UsageError(f"--resize takes {', '.join(get_args(Resize))}, not {self.resize!r}")
        if self.crop is not None and not 0 < self.crop <= 1:
            raise UsageError(
                f"--crop is the share of the image's sides that is kept, above 0 and up to 1, not {self.crop}"
            )
        if self.size_px is not None and not all(8 <= side <= 4096 for side in self.size_px):
            raise UsageError(f"--size is between 8 and 4096 pixels, not {'x'.join(map(str, self.size_px))}")
        if self.std is not None and not all(MIN_STD <= value <= MAX_SHIFT for value in self.std):
            raise UsageError(f"--std holds numbers from {MIN_STD:g} to {MAX_SHIFT:g}")
        if self.mean is not None and not all(abs(value) <= MAX_SHIFT for value in self.mean):
            raise UsageError(f"--mean holds numbers from -{MAX_SHIFT:g} to {MAX_SHIFT:g}")
        if self.out is not None and self.out.exists():
            raise OutputError(f"{self.out} exists already; choose another --out or remove it")
