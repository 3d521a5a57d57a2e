"""What each interpolation costs on frames of usual sizes, and what it does to a run's accuracy.

    python benchmarks/resize.py [RUN [SIDE]]

Times `Preprocess` to 224 pixels, interleaved. With a run, classifies its test split with each interpolation; SIDE
shrinks the run's input to that many pixels, so that images are much larger than it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from edgecls.clock import Latency, sample
from edgecls.data.dataset import open_recorded
from edgecls.evaluation.inference import labels_of, prepared
from edgecls.evaluation.metrics import measure
from edgecls.imaging.opencv import cv2
from edgecls.imaging.preprocess import Interpolation, Preprocess
from edgecls.models.torch_backend import TorchSession, open_module
from edgecls.runtime import store
from edgecls.runtime.pipeline import scores_of

SHAPES = ((480, 640, 3), (1080, 1920, 3), (3000, 4000, 3))
ROUNDS = 3


def main() -> None:
    """Measure and print."""
    cv2.setNumThreads(1)
    for shape in SHAPES:
        frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        samples: dict[str, list[float]] = {name: [] for name in get_args(Interpolation)}
        for _ in range(ROUNDS):
            for name, durations in samples.items():
                preprocess = Preprocess(224, 224, interpolation=name)
                durations += sample(lambda p=preprocess, f=frame: p(f), seconds=0.2, warmup_s=0.05, min_calls=5)
        cells = "  ".join(f"{name} {Latency.of(durations).p50_ms:.2f} ms" for name, durations in samples.items())
        print(f"{shape[1]}x{shape[0]}: {cells}")
    if len(sys.argv) > 1:
        _accuracy(store.find_run(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)


def _accuracy(run: store.Artifact, side_px: int | None) -> None:
    side_px = side_px or run.card.preprocess.height_px
    test = (dataset := open_recorded(run.path)).splits["test"]
    module = open_module(Path(run.path / run.card.model_file), run.card)
    for name in get_args(Interpolation):
        preprocess = replace(run.card.preprocess, interpolation=name, height_px=side_px, width_px=side_px)
        session = TorchSession(replace(run.card, preprocess=preprocess), module)
        metrics = measure(scores_of(session, prepared(dataset.source, test, preprocess)), labels_of(test))
        print(f"{name:8s} top-1 {metrics.top1:.2%} of {metrics.images} test images at {side_px} px")


if __name__ == "__main__":
    main()
