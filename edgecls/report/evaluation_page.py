"""An evaluation as one HTML page that needs nothing else: figures, pictures, classes, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgecls.adapting.verdict import Verdict
from edgecls.evaluation.detail import Evaluation
from edgecls.evaluation.evaluation import EvaluationReport
from edgecls.report import figures, page

MAX_PICTURES = 40
MAX_PAIRS = 15
Row = tuple[str, int, float, float, float, float | None, float | None]
"""A class, its images, precision, recall, F1, and the areas below its two curves."""


def write_page(report: EvaluationReport, path: Path) -> None:
    """Write the page. Raises `MissingExtraError`."""
    evaluation, classes = report.figures, report.artifact.card.classes
    shown = [(each, report.samples[each.position].key) for each in evaluation.mistakes[:MAX_PICTURES]]
    page.write(
        path,
        "evaluation",
        artifact=report.artifact,
        source=report.source,
        report=report,
        folds=_folds(report),
        relearned=_verdict(report),
        figures=evaluation,
        rows=_rows(evaluation, classes),
        confusion=page.data_url("png", figures.confusion_matrix(evaluation.metrics.confusion, classes)),
        confused=[(classes[truth], classes[given], count) for truth, given, count in evaluation.confused[:MAX_PAIRS]],
        reliability=page.data_url("png", figures.reliability_diagram(evaluation.reliability)),
        curves=page.data_url("png", figures.class_curves(evaluation.curves, classes)),
        mistakes=[
            (page.thumbnail(report.source, key), key, classes[each.truth], classes[each.predicted], each.confidence)
            for each, key in shown
        ],
    )


def _verdict(report: EvaluationReport) -> Verdict | None:
    """That on what the model learned again; None where it did not, or its record cannot be read."""
    try:
        return Verdict.from_json(report.artifact.card.lineage.relearned or {})
    except (KeyError, TypeError):
        return None


def _folds(report: EvaluationReport) -> list[tuple[int, int, str, str]]:
    """Number, images, top-1 and macro F1 of each fold of the run's cross-validation."""
    folds = report.folds.folds if report.folds else ()
    return [
        (number, fold.images, page.percent(fold.top1), page.percent(fold.macro_f1))
        for number, fold in enumerate(folds, start=1)
    ]


def _rows(evaluation: Evaluation, classes: Sequence[str]) -> list[Row]:
    """The classes that have images or were given, the worst first, and two averages."""
    metrics = evaluation.metrics
    counts = metrics.confusion.sum(axis=1)
    rows: list[Row] = [
        (name, int(count), precision, recall, f1, curves.roc_auc, curves.average_precision)
        for name, count, precision, recall, f1, curves in zip(
            classes, counts, metrics.precision, metrics.recall, metrics.f1, evaluation.curves, strict=True
        )
        if count or precision
    ]
    averages = (("macro average", evaluation.macro), ("weighted average", evaluation.weighted))
    means: list[Row] = [(name, metrics.images, a.precision, a.recall, a.f1, None, None) for name, a in averages]
    return sorted(rows, key=lambda row: row[4]) + means
