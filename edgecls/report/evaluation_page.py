"""An evaluation as one HTML page that needs nothing else: figures, pictures, classes, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from edgecls.data.sources import Source
from edgecls.data.splits import Sample
from edgecls.evaluation.detail import Evaluation, Mistake
from edgecls.evaluation.evaluation import EvaluationReport
from edgecls.report import figures, page

MAX_PICTURES = 40
MAX_PAIRS = 15


def write_page(report: EvaluationReport, path: Path) -> None:
    """Write the page. Raises `MissingExtraError`."""
    artifact, evaluation, source, samples = report.artifact, report.figures, report.source, report.samples
    card, metrics = artifact.card, evaluation.metrics
    title = f"{card.arch}, {card.name}"
    page.write(
        path,
        title,
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft">{metrics.images} images from {escape(source.name)} · {escape(str(artifact.path))}</p>',
            _facts(evaluation),
            "<h2>Classes</h2>" + _classes(evaluation, card.classes),
            "<h2>Confusion</h2>"
            + page.chart(figures.confusion_matrix(metrics.confusion, card.classes))
            + _confused(evaluation, card.classes),
            "<h2>Confidence</h2>" + page.chart(figures.reliability_diagram(evaluation.reliability)),
            "<h2>Each class against the rest</h2>" + page.chart(figures.class_curves(evaluation.curves, card.classes)),
            _mistakes(evaluation.mistakes, source, samples, card.classes),
        ],
    )


def _facts(evaluation: Evaluation) -> str:
    low, high = evaluation.top1_interval
    low_f1, high_f1 = evaluation.macro_f1_interval
    return page.facts(
        [
            ("top-1", page.percent(evaluation.metrics.top1), f"95 %: {100 * low:.1f} to {100 * high:.1f}"),
            ("top-5", page.percent(evaluation.top5), ""),
            ("macro F1", page.percent(evaluation.macro.f1), f"95 %: {100 * low_f1:.1f} to {100 * high_f1:.1f}"),
            ("expected calibration error", page.percent(evaluation.calibration_error), "15 bins"),
            ("log loss", f"{evaluation.log_loss:.3f}", "nats"),
        ]
    )


def _classes(evaluation: Evaluation, classes: Sequence[str]) -> str:
    metrics = evaluation.metrics
    counts = metrics.confusion.sum(axis=1)
    rows = [
        (name, int(count), precision, recall, f1, curves.roc_auc, curves.average_precision)
        for name, count, precision, recall, f1, curves in zip(
            classes, counts, metrics.precision, metrics.recall, metrics.f1, evaluation.curves, strict=True
        )
        if count or precision
    ]
    lines = "".join(_row(*row) for row in sorted(rows, key=lambda row: row[4]))
    means = "".join(
        _row(name, metrics.images, averages.precision, averages.recall, averages.f1, None, None)
        for name, averages in (("macro average", evaluation.macro), ("weighted average", evaluation.weighted))
    )
    heads = "".join(
        f"<th>{name}</th>" for name in ("class", "images", "precision", "recall", "F1", "ROC AUC", "average precision")
    )
    return f"<table><tr>{heads}</tr>{lines}{means}</table>"


def _row(name: str, images: int, *fractions: float | None) -> str:
    cells = "".join(f"<td>{page.percent(fraction)}</td>" for fraction in fractions)
    return f"<tr><td>{escape(name)}</td><td>{images}</td>{cells}</tr>"


def _confused(evaluation: Evaluation, classes: Sequence[str]) -> str:
    if not evaluation.confused:
        return "<p>Nothing was confused.</p>"
    lines = "".join(
        f"<tr><td>{escape(classes[truth])}</td><td>{escape(classes[predicted])}</td><td>{images}</td></tr>"
        for truth, predicted, images in evaluation.confused[:MAX_PAIRS]
    )
    return f"<table><tr><th>true</th><th>given</th><th>images</th></tr>{lines}</table>"


def _mistakes(mistakes: Sequence[Mistake], source: Source, samples: Sequence[Sample], classes: Sequence[str]) -> str:
    if not mistakes:
        return "<h2>Mistakes</h2><p>None.</p>"
    shown = mistakes[:MAX_PICTURES]
    pictures = "".join(
        f"<figure>{page.thumbnail(source, samples[each.position].key)}<figcaption>"
        f'<span class="bad">{escape(classes[each.predicted])} {100 * each.confidence:.0f} %</span><br>'
        f'<span class="soft">truth: {escape(classes[each.truth])}<br>'
        f"{escape(page.printable(samples[each.position].key))}</span></figcaption></figure>"
        for each in shown
    )
    rest = (
        f'<p class="soft">{len(mistakes) - len(shown)} more are in the JSON.</p>' if len(mistakes) > len(shown) else ""
    )
    return f'<h2>Mistakes, the most confident first</h2><div class="gallery">{pictures}</div>{rest}'
