"""How faithful explanations are: deletion and insertion (Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421).

    python benchmarks/explain.py MODEL IMAGES... [--images 60]

The image is blurred part by part, what speaks most for its class first (deletion), and brought back out of its blurred
self in the same order (insertion). Given is the mean probability of the class on the way, with a bootstrap interval: of
a faithful map it falls early and rises early. `random` orders the parts by chance, `centre` by their distance from the
middle, as a map would that knows nothing of the image.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgecls.artifact.card import HEAD_FILE
from edgecls.backends import LOW_LATENCY
from edgecls.imaging.decode import image_paths, read_image
from edgecls.imaging.opencv import cv2
from edgecls.runtime.classifier import Classifier
from edgecls.runtime.explanation import BLUR, OcclusionExplainer, open_explainer
from edgecls.runtime.scores import as_logits, softmax
from edgecls.runtime.store import candidates

PARTS = 14
"""To each side; each step of a curve covers as many as one row."""
Places = Callable[[np.ndarray, int], np.ndarray]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=60)
    given = parser.parse_args()
    generator = np.random.default_rng(0)
    artifacts = candidates(given.model)
    artifact = next((each for each in artifacts if HEAD_FILE in each.card.lineage.files), artifacts[0])
    paths = image_paths(given.paths)
    chosen = [paths[index] for index in sorted(generator.permutation(len(paths))[: given.images])]
    with open_explainer(artifact) as explainer:
        occlusion = OcclusionExplainer(Classifier(artifact.card, artifact.open(LOW_LATENCY), artifact.path))
        methods: dict[str, Places] = {
            explainer.name: explainer.places,
            occlusion.name: occlusion.places,
            "random": lambda _pixels, _index: generator.normal(size=(7, 7)),
            "centre": lambda _pixels, _index: -np.hypot(*np.mgrid[-3:4, -3:4]),
        }
        areas: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
        taken_ms: dict[str, list[float]] = {name: [] for name in methods}
        for path in chosen:
            pixels = artifact.card.preprocess(read_image(path))
            index = int(explainer.classifier.session.infer(pixels[None]).argmax())
            for name, places in methods.items():
                begun = time.perf_counter()
                found = places(pixels, index)
                taken_ms[name].append(1000 * (time.perf_counter() - begun))
                areas[name].append(_areas(explainer.classifier, pixels, index, found))
        occlusion.close()
    print(f"{artifact.card.arch}, {artifact.card.name}, {len(chosen)} images")
    print(f"{'':22s}{'deletion':>24s}{'insertion':>24s}{'ms':>8s}")
    for name, pairs in areas.items():
        cells = [_interval(np.array(column), generator) for column in zip(*pairs, strict=True)]
        print(f"{name:22s}{cells[0]:>24s}{cells[1]:>24s}{np.median(taken_ms[name]):8.1f}")


def _areas(model: Classifier, pixels: np.ndarray, index: int, places: np.ndarray) -> tuple[float, float]:
    """The mean probability of a class while the image is blurred, and while it comes back."""
    grid = cv2.resize(places.astype(np.float32), (PARTS, PARTS), interpolation=cv2.INTER_CUBIC)
    order = (-grid).ravel().argsort(kind="stable")
    blurred = cv2.GaussianBlur(pixels, (0, 0), max(pixels.shape) * BLUR)
    return _mean(model, pixels, blurred, order, index), _mean(model, blurred, pixels, order, index)


def _mean(model: Classifier, begin: np.ndarray, end: np.ndarray, order: np.ndarray, index: int) -> float:
    rows, columns = (np.linspace(0, length, PARTS + 1).astype(int) for length in begin.shape[:2])
    current, steps = begin.copy(), [begin.copy()]
    for position, part in enumerate(order, start=1):
        y, x = divmod(int(part), PARTS)
        region = slice(rows[y], rows[y + 1]), slice(columns[x], columns[x + 1])
        current[region] = end[region]
        if position % PARTS == 0:
            steps.append(current.copy())
    scores = as_logits(model.session.infer(np.stack(steps)), model.card.output)
    return float(softmax(scores)[:, index].mean())


def _interval(values: np.ndarray, generator: np.random.Generator) -> str:
    drawn = generator.choice(values, (2000, len(values))).mean(axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
