"""Figures of merit from scores and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy import float32, int64
    from numpy.typing import NDArray


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


def agreement(scores: NDArray[float32], parent: NDArray[float32]) -> float:
    """Fraction of images for which both give the same class."""
    return float((scores.argmax(axis=1) == parent.argmax(axis=1)).mean())
