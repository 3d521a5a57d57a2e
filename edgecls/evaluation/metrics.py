"""Figures of merit from scores and labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgecls.runtime.intervals import Drop as Drop
from edgecls.runtime.intervals import drop as drop
from edgecls.runtime.intervals import paired_interval as paired_interval
from edgecls.runtime.intervals import wilson as wilson
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
