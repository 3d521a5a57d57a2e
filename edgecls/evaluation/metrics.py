"""Figures of merit from scores and labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgecls.runtime.scores import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy import float32, int64
    from numpy.typing import NDArray

    from edgecls.artifact.card import Quality


@dataclass(frozen=True)
class Metrics:
    """Classification figures over a set of images; fractions in 0..1, `confusion[true, predicted]` counts images.

    A class that was never predicted has precision 0, one without images recall 0 (scikit-learn's `zero_division=0`).
    """

    images: int
    top1: float
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    confusion: NDArray[int64]

    @property
    def macro_f1(self) -> float:
        """Unweighted mean of the classes' F1."""
        return sum(self.f1) / len(self.f1)

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """Plain values, per class by name."""
        per_class = zip(classes, self.precision, self.recall, self.f1, self.confusion.sum(axis=1), strict=True)
        return {
            "images": self.images,
            "top1": self.top1,
            "macro_f1": self.macro_f1,
            "classes": {
                name: {"precision": p, "recall": r, "f1": f, "images": int(count)} for name, p, r, f, count in per_class
            },
            "confusion": self.confusion.tolist(),
        }


def measure(scores: NDArray[float32], labels: NDArray[int64]) -> Metrics:
    """Metrics of scores (N, C) against labels (N,)."""
    import numpy as np

    classes = scores.shape[1]
    predicted = scores.argmax(axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)
    hits = confusion.diagonal().astype(float)
    precision = hits / np.maximum(confusion.sum(axis=0), 1)
    recall = hits / np.maximum(confusion.sum(axis=1), 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return Metrics(
        images=len(labels),
        top1=float(hits.sum() / max(len(labels), 1)),
        precision=tuple(map(float, precision)),
        recall=tuple(map(float, recall)),
        f1=tuple(map(float, f1)),
        confusion=confusion,
    )


RELIABILITY_BINS = 15
Z_95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


def wilson(fraction: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a fraction of `count` trials (Wilson 1927)."""
    z2 = Z_95**2 / count
    centre = (fraction + z2 / 2) / (1 + z2)
    half = float((fraction * (1 - fraction) * z2 + z2**2 / 4) ** 0.5) / (1 + z2)
    return max(0.0, min(fraction, centre - half)), min(1.0, max(fraction, centre + half))


@dataclass(frozen=True)
class Drop:
    """Points that a model loses against its parent on the same images, and the bounds of the 95 % interval."""

    points: float
    low_points: float
    high_points: float

    @property
    def half_width_points(self) -> float:
        """Half the width of the interval."""
        return (self.high_points - self.low_points) / 2

    def __str__(self) -> str:
        return f"{self.points:.2f} points (95 %: {self.low_points:.2f} to {self.high_points:.2f})"


def drop(scores: NDArray[float32], parent: NDArray[float32], labels: NDArray[int64]) -> Drop:
    """What `scores` lose of top-1 against the parent's; see `paired_interval`."""
    mine, theirs = scores.argmax(axis=1) == labels, parent.argmax(axis=1) == labels
    lost, won = int((theirs & ~mine).sum()), int((mine & ~theirs).sum())
    low, high = paired_interval(int((mine & theirs).sum()), lost, won, len(labels))
    return Drop(100 * (lost - won) / max(len(labels), 1), 100 * low, 100 * high)


def labelled(quality: Quality, scores: NDArray[float32], parent: NDArray[float32], labels: NDArray[int64]) -> Quality:
    """A comparison with the parent, with what the labels say: top-1, macro F1, and the drop with its interval."""
    metrics, lost = measure(scores, labels), drop(scores, parent, labels)
    return replace(
        quality,
        top1=metrics.top1,
        macro_f1=metrics.macro_f1,
        drop_points=lost.points,
        drop_interval_points=lost.half_width_points,
        drop_low_points=lost.low_points,
        drop_high_points=lost.high_points,
    )


def paired_interval(both: int, lost: int, won: int, count: int) -> tuple[float, float]:
    """The 95 % interval of the difference (lost - won) / count of two fractions of the same `count` trials.

    Only those trials make a difference in which one of the two is right and the other wrong (McNemar 1947). `both`,
    `lost` and `won` are the trials in which both are right, the first alone, and the second alone. The Wilson intervals
    of the two fractions are squared and added, less what their correlation takes away: method 10 of Newcombe,
    Statistics in Medicine 17 (1998), 2635-2650, which holds for few trials and for none that differ.
    """
    if not count:
        return 0.0, 0.0
    neither = count - both - lost - won
    first, second = both + lost, both + won
    spread = float(first * (count - first) * second * (count - second)) ** 0.5
    covariance = float(both * neither - lost * won)
    if covariance > 0:
        covariance = max(covariance - count / 2, 0)  # continuity
    correlation = covariance / spread if spread else 0.0
    (low1, high1), (low2, high2) = wilson(first / count, count), wilson(second / count, count)
    below1, above1 = first / count - low1, high1 - first / count
    below2, above2 = second / count - low2, high2 - second / count
    difference = (lost - won) / count
    return (
        difference - _combined(below1, above2, correlation),
        difference + _combined(above1, below2, correlation),
    )


def _combined(one: float, other: float, correlation: float) -> float:
    """The length of two deviations of which a part is common."""
    return float(max(one**2 - 2 * correlation * one * other + other**2, 0.0) ** 0.5)


def reliability(scores: NDArray[float32], labels: NDArray[int64]) -> tuple[tuple[float, float, int], ...]:
    """Mean softmax confidence, accuracy and number of images of each bin of confidence that holds some, in order."""
    import numpy as np

    confidence, right = softmax(scores).max(axis=1), scores.argmax(axis=1) == labels
    which = np.minimum((confidence * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    return tuple(
        (float(confidence[which == b].mean()), float(right[which == b].mean()), int((which == b).sum()))
        for b in sorted(set(which.tolist()))
    )


def calibration_error(scores: NDArray[float32], labels: NDArray[int64]) -> float:
    """Expected calibration error of softmax confidences, a fraction (Guo et al. 2017, arXiv:1706.04599)."""
    gaps = [abs(accuracy - confidence) * images for confidence, accuracy, images in reliability(scores, labels)]
    return sum(gaps) / max(len(labels), 1)
