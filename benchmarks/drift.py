"""Does a stream notice that its pictures change, how soon, and how often does it say so where nothing has changed?

    python benchmarks/drift.py BUNDLE OTHERS [--streams N] [--minutes N] [--json FILE]

The bundle lies inside of its run's folder. Streams of the run's test images, of which the reference knows nothing, are
drawn with replacement: a scene lasts 1 to 8 seconds, and one frame a second of it is looked at, as in a stream. Each
stream goes on unchanged for a while and then changes: darker, brighter, warmer light, blur, a camera's noise, images
from the folder OTHERS. Streams that never change say how many false alarms there are: of all classes, of one class
alone, and of two. A day's false alarms are extrapolated from the streams' whole time: the rate is what was
counted, its upper limit at 95 % that of a Poisson process.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from edgecls.artifact.reference import FALSE_REFUSALS, Reference
from edgecls.imaging.opencv import cv2
from edgecls.runtime.pipeline import outputs_of
from edgecls.runtime.scores import as_logits
from edgecls.streaming.drift import DriftMonitor

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

    Image = NDArray[uint8]
    Answers = tuple[NDArray[float32], NDArray[float32]]

DAY_S = 86_400


def darker(image: Image) -> Image:
    """A third of the light."""
    return (image * 0.33).astype(np.uint8)


def brighter(image: Image) -> Image:
    """Overexposed by two thirds of a stop."""
    return np.clip(image * 1.6, 0, 255).astype(np.uint8)


def warmer(image: Image) -> Image:
    """A lamp's light in place of the day's; RGB."""
    return np.clip(image * np.array([1.25, 1.0, 0.6]), 0, 255).astype(np.uint8)


def blurred(image: Image) -> Image:
    """Out of focus: a fiftieth of the width."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), image.shape[1] / 50))


def noisy(image: Image) -> Image:
    """Another camera at night: noise of 20 grey levels."""
    noise = np.random.default_rng(int(image.sum())).normal(0, 20, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[Image], Image]] = {
    "darker": darker, "brighter": brighter, "warmer": warmer, "blurred": blurred, "noisy": noisy,
}  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("others", type=Path)
    parser.add_argument("--streams", type=int, default=20, help="Of each kind.")
    parser.add_argument("--minutes", type=int, default=60, help="Of an unchanged stream; others change after 10.")
    parser.add_argument("--json", type=Path, help="Write the figures to this file too.")
    given = parser.parse_args()

    from edgecls.data.dataset import open_recorded
    from edgecls.imaging.decode import find_images, read_image
    from edgecls.runtime import machine, store

    artifact = store.find(given.bundle)
    preprocess, output = artifact.card.preprocess, artifact.card.output
    reference = Reference.read(given.bundle, artifact.card)
    assert reference is not None
    dataset = open_recorded(given.bundle.parents[1])
    samples = dataset.splits["test"]
    images = [preprocess(dataset.source.read_for(sample.key, preprocess)) for sample in samples]
    paths = find_images(given.others)
    paths = [paths[index] for index in np.random.default_rng(0).permutation(len(paths))[:300]]
    others = [preprocess(read_image(path, None, preprocess)) for path in paths]
    with artifact.open(tensors=("embedding",)) as session:

        def asked(raw: Sequence[Image]) -> Answers:
            scores, embeddings = outputs_of(session, raw)
            assert embeddings is not None
            return as_logits(scores, output), embeddings

        plain = asked(images)
        changed = {name: asked([change(image) for image in images]) for name, change in CHANGES.items()}
        changed["other objects"] = asked(others)
    labels = np.array([sample.label for sample in samples])
    print(f"{machine.this_machine().cpu}; {given.bundle}, {len(images)} test images, {reference.measure}")
    watch = Watch(reference, len(artifact.card.classes))
    rows = [*unchanged(watch, plain, labels, given), *noticed(watch, plain, changed, given)]
    if given.json:
        given.json.write_text(json.dumps({**environment(), "rows": rows}, indent=1) + "\n")


class Watch:
    """What a stream makes of answers, a second for each frame."""

    def __init__(self, reference: Reference, classes: int):
        self._reference, self._classes = reference, classes

    def alarms(self, answers: Answers, order: Sequence[int], monitor: DriftMonitor, begun_s: int = 0) -> list[int]:
        """The seconds at which a drift began, of frames in an order."""
        begun, before = [], bool(monitor.figures.signs)
        for second, index in enumerate(order, begun_s):
            logits, embedding = answers[0][index], answers[1][index]
            monitor.take(float(second), logits, embedding)
            if monitor.figures.signs and not before:
                begun.append(second)
            before = bool(monitor.figures.signs)
        return begun

    def monitor(self) -> DriftMonitor:
        """A new one."""
        return DriftMonitor(self._reference, self._classes, FALSE_REFUSALS)


def scenes(generator: np.random.Generator, choices: NDArray[Any], seconds: int) -> list[int]:
    """Which image is seen in each second."""
    order: list[int] = []
    while len(order) < seconds:
        order += [int(generator.choice(choices))] * int(generator.integers(1, 9))
    return order[:seconds]


def unchanged(watch: Watch, plain: Answers, labels: NDArray[Any], given: argparse.Namespace) -> list[dict[str, Any]]:
    """False alarms of streams in which only the classes' shares differ from those of the validation images."""
    classes = np.unique(labels)
    kinds = {
        "all classes": lambda _: np.arange(len(labels)),
        "one class alone": lambda stream: np.flatnonzero(labels == classes[stream % len(classes)]),
        "two classes alone": lambda stream: np.flatnonzero(
            np.isin(labels, [classes[stream % len(classes)], classes[(stream + 3) % len(classes)]])
        ),
    }
    rows, seconds = [], 60 * given.minutes
    for name, choose in kinds.items():
        counts = []
        for stream in range(given.streams):
            order = scenes(np.random.default_rng(stream), choose(stream), seconds)
            counts.append(len(watch.alarms(plain, order, watch.monitor())))
        days, total = given.streams * seconds / DAY_S, sum(counts)
        row = {
            "stream": name, "hours": given.streams * seconds / 3600, "false_alarms": total, "per_day": total / days,
            "per_day_at_most": poisson_limit(total) / days, "streams_with_any": sum(count > 0 for count in counts),
        }  # fmt: skip
        print(
            f"unchanged, {name:18s}: {total} false alarms in {row['hours']:.0f} h, {row['per_day']:.2f} a day "
            f"(95 %: at most {row['per_day_at_most']:.2f}), in {row['streams_with_any']} of {given.streams} streams"
        )
        rows.append(row)
    return rows


def noticed(
    watch: Watch, plain: Answers, changed: dict[str, Answers], given: argparse.Namespace
) -> list[dict[str, Any]]:
    """How many changed streams are noticed within ten minutes, and after how long."""
    rows = []
    for name, answers in changed.items():
        delays = []
        for stream in range(given.streams):
            generator, monitor = np.random.default_rng(1000 + stream), watch.monitor()
            watch.alarms(plain, scenes(generator, np.arange(len(plain[0])), 600), monitor)
            order = scenes(generator, np.arange(len(answers[0])), 600)
            delays += [second - 600 for second in watch.alarms(answers, order, monitor, 600)[:1]]
        row = {
            "change": name, "noticed": len(delays) / given.streams,
            "delay_s": float(np.median(delays)) if delays else None,
        }  # fmt: skip
        if name in CHANGES:
            row["answers_kept"] = float((answers[0].argmax(axis=1) == plain[0].argmax(axis=1)).mean())
        shown = "" if row["delay_s"] is None else f", after {row['delay_s']:.0f} s (median)"
        kept = f"; {row['answers_kept']:.0%} of the answers stay" if "answers_kept" in row else ""
        print(f"changed, {name:14s}: noticed in {row['noticed']:.0%} of {given.streams} streams{shown}{kept}")
        rows.append(row)
    return rows


def poisson_limit(count: int) -> float:
    """The mean that a Poisson count as low as this would have at most, with 95 % confidence."""
    from math import exp, factorial

    low, high = float(count), 3.0 * count + 10
    while high - low > 1e-3:
        middle = (low + high) / 2
        tail = sum(exp(-middle) * middle**each / factorial(each) for each in range(count + 1))
        low, high = (middle, high) if tail > 0.05 else (low, middle)
    return high


def environment() -> dict[str, Any]:
    """What was measured on, and with what."""
    from edgecls.runtime import machine

    return {"machine": machine.this_machine().to_json(), "versions": machine.versions()}


if __name__ == "__main__":
    main()
