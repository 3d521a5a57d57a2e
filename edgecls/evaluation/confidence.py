"""How far a network's confidence can be trusted: temperature scaling, and when it had better not answer.

Both are fitted on validation images: test images would flatter themselves.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgecls.runtime.scores import scaled, softmax

if TYPE_CHECKING:
    from numpy import float32, int64
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
    import numpy as np

    probabilities = softmax(scores)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    order = np.argsort(-confidence, kind="stable")
    share_right = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = [
        index for index in range(min(MIN_ANSWERED, len(order)) - 1, len(order)) if share_right[index] >= precision
    ]
    if not enough:
        return None
    last = max(enough)
    return 0.0 if last == len(order) - 1 else float(confidence[order[last]])


def answered(scores: NDArray[float32], labels: NDArray[int64], threshold: float) -> tuple[float, float | None]:
    """The share of images that get an answer at this threshold, and the share of these answers that are right."""
    probabilities = softmax(scores)
    sure = probabilities.max(axis=1) >= threshold
    right = probabilities.argmax(axis=1) == labels
    return float(sure.mean()), float(right[sure].mean()) if sure.any() else None
