"""Figures of a cross-validation: one model for each fold, each judged on the images that it has not seen."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecls.evaluation.detail import macro_averages
from edgecls.evaluation.metrics import Metrics
from edgecls.files import read_text

EVALUATION_FILE = "evaluation.json"


@dataclass(frozen=True)
class Spread:
    """The mean over the folds, and their standard deviation."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """That of at least one value."""
        return cls(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0)

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f} ± {100 * self.deviation:.2f} %"


@dataclass(frozen=True)
class Fold:
    """One model on its fold: fractions, `recall` by class; macro F1 and recall are of the classes that it holds."""

    images: int
    top1: float
    macro_f1: float
    recall: Mapping[str, float]

    @classmethod
    def of(cls, metrics: Metrics, classes: Sequence[str]) -> Fold:
        """From the figures on its images."""
        present = [index for index, count in enumerate(metrics.confusion.sum(axis=1)) if count]
        recall = {classes[index]: metrics.recall[index] for index in present}
        return cls(metrics.images, metrics.top1, macro_averages(metrics).f1, recall)


@dataclass(frozen=True)
class CrossValidation:
    """All folds; together they are the training and validation images, each judged once."""

    folds: tuple[Fold, ...]

    @property
    def top1(self) -> Spread:
        """Of the folds' top-1."""
        return Spread.of([fold.top1 for fold in self.folds])

    @property
    def macro_f1(self) -> Spread:
        """Of the folds' macro F1."""
        return Spread.of([fold.macro_f1 for fold in self.folds])

    @property
    def recall(self) -> dict[str, Spread]:
        """Of each class's recall, over the folds that hold it; the worst first."""
        classes = dict.fromkeys(name for fold in self.folds for name in fold.recall)
        spreads = {name: Spread.of([f.recall[name] for f in self.folds if name in f.recall]) for name in classes}
        return dict(sorted(spreads.items(), key=lambda item: item[1].mean))

    def __str__(self) -> str:
        return f"cross-validation of {len(self.folds)} folds: top-1 {self.top1}, macro F1 {self.macro_f1}"

    def to_json(self) -> dict[str, Any]:
        """Plain values: each fold, and mean and standard deviation over them."""
        return {
            "folds": [vars(fold) for fold in self.folds],
            "top1": vars(self.top1),
            "macro_f1": vars(self.macro_f1),
            "recall": {name: vars(spread) for name, spread in self.recall.items()},
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> CrossValidation:
        """Read what `to_json` wrote. Raises `KeyError` or `TypeError` for anything else."""
        return cls(tuple(Fold(f["images"], f["top1"], f["macro_f1"], dict(f["recall"])) for f in record["folds"]))


def cross_validation_of(run: Path) -> CrossValidation | None:
    """That of a run; None where it had none, or its record cannot be read."""
    try:
        record = json.loads(read_text(run / EVALUATION_FILE))
        return CrossValidation.from_json(record["cross_validation"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
