"""How near a folder of images comes to what the processor allows.

    python benchmarks/folder.py MODEL FOLDER [--cores N] [--images N] [--rounds N]

In turn, so many rounds: `classify` over the folder, as `edgecls predict` opens the model, and what it consists of,
one image after another in one thread: decoding (with reading), preprocessing, inference. The limit is the number of
cores over the sum of their processor times an image. Prints the median of each figure and its range.

On a machine with other work only the last figure says something: how much of the processor time that `classify` takes
goes into its parts. The ratio to the limit needs an idle machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from edgecls.runtime.classifier import Classifier

PARTS = ("decode", "preprocess", "infer")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cores", type=int, help="How many of the processors to use; all unless given.")
    parser.add_argument("--images", type=int, default=600, help="At most so many.")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])  # before a library counts them

    from edgecls.imaging.decode import find_images
    from edgecls.runtime import machine
    from edgecls.runtime.batch import classify
    from edgecls.runtime.classifier import load

    paths, cores = find_images(given.folder)[: given.images], len(os.sched_getaffinity(0))
    print(f"{machine.this_machine().cpu}, {cores} cores, {len(paths)} images, {given.model.name}")
    figures: dict[str, list[float]] = {}
    with load(given.model, streams=None, check=False) as model:
        for turn in range(given.rounds + 1):
            wall_s, spent_s = timed(lambda: list(classify(model, paths)))
            if not turn:  # a warm-up
                continue
            parts = spent_ms(model, paths)
            limit = 1000 * cores / sum(parts.values())
            found = {
                "classify, images/s": len(paths) / wall_s,
                "classify, ms of processor an image": 1000 * spent_s / len(paths),
                **{f"{name}, ms of processor an image": value for name, value in parts.items()},
                "limit, images/s": limit,
                "classify / limit": len(paths) / wall_s / limit,
                "processor time of the parts / of classify": sum(parts.values()) / (1000 * spent_s / len(paths)),
            }
            for name, value in found.items():
                figures.setdefault(name, []).append(value)
    for name, values in figures.items():
        print(f"{name:44s} {statistics.median(values):8.3f}  ({min(values):.3f} to {max(values):.3f})")


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    begun_s, spent_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun_s, time.process_time() - spent_s


def spent_ms(model: Classifier, paths: Sequence[Path]) -> dict[str, float]:
    """Processor time of each part for an image, by itself."""
    from edgecls.imaging.decode import read_image
    from edgecls.imaging.opencv import single_threaded

    preprocess, spent = model.card.preprocess, dict.fromkeys(PARTS, 0.0)
    with single_threaded():
        for path in paths:
            begun = time.process_time()
            image = read_image(path, None, preprocess)
            decoded = time.process_time()
            pixels = preprocess(image)[None]
            prepared = time.process_time()
            model.session.infer(pixels)
            spent["decode"] += decoded - begun
            spent["preprocess"] += prepared - decoded
            spent["infer"] += time.process_time() - prepared
    return {name: 1000 * seconds / len(paths) for name, seconds in spent.items()}


if __name__ == "__main__":
    main()
