"""What the rounding of weights does to a network's answers, with 7 and with 8 bits.

    python benchmarks/rounding.py RUN [--calibration 100] [--images 400] [--estimator minmax]

Quantizes a run that knows its images for ONNX Runtime, its weights rounded to the nearest values and by GPTQ, and
compares each graph with the float one on images that it was not calibrated on. Integers are computed exactly, so that
the processor at hand does not matter.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from edgecls.backends import of_every_install
from edgecls.data.dataset import balanced, open_recorded
from edgecls.evaluation.inference import prepared
from edgecls.evaluation.metrics import wilson
from edgecls.exporting.graph import float_graph
from edgecls.quantization.quantize import Quantizer, prepare
from edgecls.quantization.recipe import candidates_for
from edgecls.runtime.pipeline import scores_of
from edgecls.runtime.store import find_run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--calibration", type=int, default=100, help="how many images to calibrate with")
    parser.add_argument("--images", type=int, default=400, help="how many images to compare on")
    parser.add_argument("--estimator", default="minmax")
    given = parser.parse_args()
    run, backend = find_run(given.run), of_every_install()
    dataset = open_recorded(run.path)
    samples = [sample for split in ("test", "val", "train") for sample in dataset.splits[split]]
    drawn = balanced(samples, len(samples), dataset.seed)[: given.images + given.calibration]
    raw = list(prepared(dataset.source, drawn, run.card.preprocess))
    images, calibration = raw[: given.images], raw[given.images :]
    with tempfile.TemporaryDirectory() as scratch:
        graph, ready, out = (Path(scratch) / name for name in ("float.onnx", "ready.onnx", "int8.onnx"))
        float_graph(run.path / run.card.model_file, run.card, graph)
        prepare(graph, ready)
        with backend.open_exact(ready, run.card) as session:
            wanted = scores_of(session, images)
        quantizer = Quantizer(ready, lambda count: islice(calibration, count))
        print(f"{'bits':>4s}  {'rounding':8s}  {'agreement (%, 95 %)':>22s}  {'mean square error':>17s}  {'s':>5s}")
        for device, bits in (("x86", 7), ("x86-vnni", 8)):
            recipe = next(each.recipe for each in candidates_for("onnx", device) if each.recipe.rounding == "gptq")
            for rounding in ("nearest", "gptq"):
                begun = time.perf_counter()
                changed = replace(recipe, rounding=rounding, estimator=given.estimator, samples=len(calibration))
                quantizer.quantize(changed, out)
                seconds = time.perf_counter() - begun
                with backend.open_exact(out, run.card) as session:
                    scores = scores_of(session, images)
                agreed = float((scores.argmax(axis=1) == wanted.argmax(axis=1)).mean())
                low, high = (100 * bound for bound in wilson(agreed, len(images)))
                error = float(np.square(scores - wanted).mean())
                interval = f"{100 * agreed:.2f} ({low:.1f} to {high:.1f})"
                print(f"{bits:4d}  {rounding:8s}  {interval:>22s}  {error:17.4f}  {seconds:5.1f}", flush=True)


if __name__ == "__main__":
    main()
