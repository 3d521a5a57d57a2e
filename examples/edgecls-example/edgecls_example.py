"""A backend, a source and a sink that edgecls finds by the entry points in this package's pyproject.toml.

pip install ./examples/edgecls-example
edgecls export --target onnx-reference
edgecls stream --camera noise:64x48x100 --sink tally:tally.json --display none
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edgecls import Card, UsageError
from edgecls.artifact.card import Runtime
from edgecls.backends.base import Backend, BuildOptions, OnProgress, Parallelism, Session
from edgecls.files import write_text
from edgecls.streaming.config import CameraOptions
from edgecls.streaming.decision import Decision
from edgecls.streaming.frames import Frame
from edgecls.streaming.sinks.base import Sink
from edgecls.streaming.sources.files import FiniteSource


class ReferenceSession(Session):
    """ONNX's own evaluator in Python: slow, and right by definition."""

    def __init__(self, file: Path, card: Card):
        from onnx.reference import ReferenceEvaluator

        super().__init__(card)
        self._evaluator = ReferenceEvaluator(str(file))

    def _infer(self, images: np.ndarray) -> np.ndarray:
        [name] = self._evaluator.input_names
        return self._evaluator.run(None, {name: images})[0]


class ReferenceBackend(Backend):
    """Graphs as they are."""

    name = "onnx-reference"
    package = "onnx"

    def _open(self, file: Path, card: Card, parallelism: Parallelism, on_progress: OnProgress) -> Session:
        return ReferenceSession(file, card)

    def _build(self, graph: Path, card: Card, out: Path, options: BuildOptions) -> tuple[Runtime, list[str]]:
        (out / "model.onnx").write_bytes(graph.read_bytes())
        return Runtime(self.name, self.version() or "", "CPU"), ["model.onnx"]


BACKEND = ReferenceBackend()


class NoiseSource(FiniteSource):
    """So many frames of noise."""

    def __init__(self, width: int, height: int, frames: int, options: CameraOptions):
        super().__init__("noise", options.geometry)
        self._shape, self._frames = (height, width, 3), frames

    def __iter__(self) -> Iterator[Frame]:
        generator = np.random.default_rng(0)
        for _ in range(self._frames):
            yield self._framed(generator.integers(0, 256, self._shape, dtype=np.uint8))


def noise(text: str, options: CameraOptions) -> NoiseSource:
    """The source that `--camera noise:WIDTHxHEIGHTxFRAMES` means."""
    if not (match := re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})x([0-9]{1,6})", text)):
        raise UsageError(f"noise: takes WIDTHxHEIGHTxFRAMES, such as noise:64x48x100, not {text!r}")
    width, height, frames = map(int, match.groups())
    return NoiseSource(width, height, frames, options)


class Tally(Sink):
    """Counts how often each label was decided, and writes that as JSON in the end: `--sink tally:FILE`."""

    name = "tally"
    accepts_events = False
    every_frame = True
    durable = True

    def __init__(self, argument: str):
        if not argument:
            raise UsageError("tally takes the file to write, as tally:FILE")
        self._path, self._labels = Path(argument), Counter[str]()

    def write(self, frame: Frame, decision: Decision) -> None:
        """See `Sink.write`."""
        self._labels[decision.label] += 1

    def close(self) -> None:
        """See `Sink.close`."""
        write_text(self._path, json.dumps(self._labels, indent=2) + "\n")
