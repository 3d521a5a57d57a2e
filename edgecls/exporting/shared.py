"""What exports of one run have in common: each step is done once, for whichever export asks for it first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edgecls.exporting.graph import float_graph
from edgecls.exporting.head import write_head
from edgecls.exporting.verification import Verifier
from edgecls.quantization import calibration
from edgecls.quantization.calibration import Calibration
from edgecls.runtime.store import Artifact

T = TypeVar("T")


@dataclass(frozen=True)
class SharedSteps:
    """The steps of exports that do not depend on the target. Their files lie below `scratch`.

    A step that fails is tried again by the next export that asks for it.
    """

    run: Artifact
    scratch: Path
    on_progress: Callable[[str], None]
    _done: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, step: Callable[[], T]) -> T:
        """What `step` gave when it was done first under `key`."""
        if key not in self._done:
            self._done[key] = step()
        return self._done[key]

    def graph(self, half: bool = False) -> Path:
        """The run's graph in float32, or in float16."""
        return self.once(("graph", half), lambda: self._traced(half))

    def _traced(self, half: bool) -> Path:
        self.on_progress("tracing the graph in float16" if half else "tracing the graph")
        path = self.scratch / ("float16.onnx" if half else "float.onnx")
        float_graph(self.run.path / self.run.card.model_file, self.run.card, path, half=half)
        return path

    def head(self) -> Path:
        """The run's last layers as a graph of their own. Raises as `write_head` does."""
        return self.once("head", self._head_written)

    def _head_written(self) -> Path:
        path = self.scratch / "head.onnx"
        write_head(self.graph(), path)
        return path

    def calibration(self, count: int, given: Path | None) -> Calibration:
        """Up to `count` calibration images, checked. Raises `DataError`; see `calibration.choose` and `check`."""
        return self.once(("calibration", count, given), lambda: self._chosen(count, given))

    def _chosen(self, count: int, given: Path | None) -> Calibration:
        images = calibration.choose(self.run, count, given, sparing=True)
        calibration.check(images, self.run)
        return images

    def verifier(self, limit: int, images: Calibration | None = None) -> Verifier:
        """What compares bundles with the run on up to `limit` images; see `Verifier`."""
        spare = (images.source.location, images.spare) if images and images.spare else None
        return self.once(("verifier", limit, spare), lambda: Verifier(self.run, limit, self.on_progress, images))

    def folder(self) -> Path:
        """A new folder in scratch space."""
        return Path(tempfile.mkdtemp(dir=self.scratch))


@contextmanager
def shared_steps(run: Artifact, on_progress: Callable[[str], None]) -> Iterator[SharedSteps]:
    """Steps in scratch space that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="edgecls-") as scratch:
        yield SharedSteps(run, Path(scratch), on_progress)
