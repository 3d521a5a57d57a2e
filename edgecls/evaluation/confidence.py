"""How far a network's confidence can be trusted: temperature scaling, and when it had better not answer.

Both are fitted on validation images: test images would flatter themselves.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgecls.runtime.scores import scaled, softmax

if TYPE_CHECKING:
    from numpy import bool_, float32, int64
    from numpy.typing import NDArray

TEMPERATURES = (0.05, 20.0)
GOLDEN_SECTION = (math.sqrt(5) - 1) / 2
STEPS = 40
MIN_ANSWERED = 10
"""A threshold that leaves fewer answered validation images than this says nothing about the next image."""


def fit_temperature(scores: NDArray[float32], labels: NDArray[int64]) -> float:
    """The temperature at which confidences of scores (N, C) fit labels (N,) best (Guo et al. 2017, arXiv:1706.04599).

    The log loss has one minimum over it; it is found by golden-section search over the temperature's logarithm. A
    network that makes no mistake on these images is given 1: its loss falls for ever.
    """
    import numpy as np

    if not len(labels) or bool((scores.argmax(axis=1) == labels).all()):
        return 1.0

    def loss(log_temperature: float) -> float:
        probabilities = softmax(scaled(scores, math.exp(log_temperature)))
        return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())

    low, high = (math.log(bound) for bound in TEMPERATURES)
    for _ in range(STEPS):
        left, right = high - GOLDEN_SECTION * (high - low), low + GOLDEN_SECTION * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def fit_threshold(scores: NDArray[float32], labels: NDArray[int64], precision: float) -> float | None:
    """The smallest confidence from which on answers are right at least as often as `precision`.

    `scores` (N, C) are scaled already. None where no threshold that leaves enough answers reaches that.
    """
    probabilities = softmax(scores)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    return _least_confidence(confidence, right, precision, min(MIN_ANSWERED, len(labels)))


def fit_class_thresholds(scores: NDArray[float32], labels: NDArray[int64], precision: float) -> dict[int, float]:
    """By class, the smallest confidence from which on answers of this class are right at least as often as `precision`.

    `scores` (N, C) are scaled already. A class that is answered less than `MIN_ANSWERED` times has none: the threshold
    of all answers is better founded. One of whose answers even the most confident are wrong too often has 1.
    """
    probabilities = softmax(scores)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    thresholds = {}
    for index in range(scores.shape[1]):
        mine = predicted == index
        if int(mine.sum()) >= MIN_ANSWERED:
            found = _least_confidence(confidence[mine], labels[mine] == index, precision, 1)
            thresholds[index] = 1.0 if found is None else found
    return thresholds


def _least_confidence(
    confidence: NDArray[float32], right: NDArray[bool_], precision: float, fewest: int
) -> float | None:
    """The confidence of the last of the most confident answers, `fewest` at least, that are right often enough.

    0 where all of them are, None where nothing is.
    """
    import numpy as np

    order = np.argsort(-confidence, kind="stable")
    share_right = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = [index for index in range(max(fewest, 1) - 1, len(order)) if share_right[index] >= precision]
    if not enough:
        return None
    last = max(enough)
    return 0.0 if last == len(order) - 1 else float(confidence[order[last]])


def answered(
    scores: NDArray[float32], labels: NDArray[int64], threshold: float | NDArray[float32]
) -> tuple[float, float | None]:
    """The share of images that get an answer, and the share of these answers that are right.

    `threshold` is that of all classes, or one for each of them (C,).
    """
    import numpy as np

    probabilities = softmax(scores)
    predicted = probabilities.argmax(axis=1)
    sure = probabilities.max(axis=1) >= np.broadcast_to(threshold, scores.shape[1])[predicted]
    right = predicted == labels
    return float(sure.mean()), float(right[sure].mean()) if sure.any() else None
