"""`edgecls evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecls.cli.common import console, percent, points, require_two_files, shown, working
from edgecls.cli.options import Option, configured, listed
from edgecls.evaluation.config import EvaluateConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from edgecls.evaluation.slices import Slice


@configured(
    model=Option(argument="MODEL"),
    data=Option(argument="DATA"),
    by=Option(parse=listed, text=",".join, metavar="COLUMN,..."),
)
def evaluate(
    config: EvaluateConfig,
    html: Annotated[Path, typer.Option(help="The report to write.")] = Path("evaluation.html"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures as JSON too.")] = None,
) -> None:
    """Measure a model on labelled images: accuracy, each class, confusion, confidence, and its worst mistakes."""
    from edgecls.evaluation.evaluation import evaluate as run_evaluation
    from edgecls.files import write_text
    from edgecls.report.evaluation_page import write_page
    from edgecls.runtime.store import BUNDLES_FOLDER, bundles_of

    require_two_files(html, json_file)
    with working("evaluating") as spinner:
        report = run_evaluation(config, lambda step: spinner.update(f"evaluating: {step}"))
        spinner.update("writing the report")
        write_page(report, html)
        if json_file:
            write_text(json_file, json.dumps(report.to_json(), indent=2) + "\n")
    if report.fitted_on is not None:
        confidence = report.artifact.card.confidence
        console.print(
            f"fitted on {report.fitted_on} validation images: temperature {confidence.temperature:.3f}, unsure below "
            f"{confidence.threshold:.1%}; kept in {shown(report.artifact.path)}",
            soft_wrap=True,
        )
        if config.class_thresholds:
            own = ", ".join(f"{name} {value:.1%}" for name, value in confidence.thresholds.items()) or "none"
            console.print(f"classes with a threshold of their own: {own}", soft_wrap=True)
        if report.artifact.is_run and (bundles := bundles_of(report.artifact.path)):
            each = " --class-thresholds" if config.class_thresholds else ""
            console.print(
                f"its bundles ({', '.join(bundle.path.name for bundle in bundles)}) keep what they were exported with, "
                f"as their answers differ from the run's; fit each with: edgecls evaluate "
                f"{shown(report.artifact.path)}/{BUNDLES_FOLDER}/NAME --precision {config.precision:g}{each}",
                soft_wrap=True,
            )
    figures = report.figures
    (low, high), metrics, macro = figures.top1_interval, figures.metrics, figures.macro
    console.print(
        f"{report.artifact.card.name} on {metrics.images} images: top-1 {percent(metrics.top1)} "
        f"(95 %: {100 * low:.1f} to {100 * high:.1f}), top-5 {percent(figures.top5)}, macro F1 {percent(macro.f1)}",
        soft_wrap=True,
    )
    console.print(
        f"precision {percent(macro.precision)}, recall {percent(macro.recall)} (macro); calibration error "
        f"{percent(figures.calibration_error)}",
        soft_wrap=True,
    )
    if report.answered:
        share, right = report.answered
        confidence = report.artifact.card.confidence
        which = "thresholds of the classes" if confidence.thresholds else f"threshold of {confidence.threshold:.1%}"
        console.print(
            f"above the {which}: {percent(share)} of the images, of which {percent(right)} right", soft_wrap=True
        )
    for line in report.remarks:
        console.print(line, soft_wrap=True)
    if report.slices:
        console.print(_slices_table(report.slices))
    if report.folds:
        console.print(f"{report.folds} (mean ± standard deviation)", soft_wrap=True)
    for truth, predicted, images in figures.confused[:3]:
        names = report.artifact.card.classes
        console.print(f"confused: {names[truth]} taken for {names[predicted]}, {images} times", soft_wrap=True)
    console.print(f"written: {shown(html)}" + (f", {shown(json_file)}" if json_file else ""), soft_wrap=True)
    report.require(config)


def _slices_table(slices: Sequence[Slice]) -> Table:
    """The slices, the worst first."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("slice", "images", "top-1 %", "95 %", "macro F1 %", "95 %"):
        table.add_column(heading, justify="left" if heading == "slice" else "right", no_wrap=heading != "slice")
    for each in slices:
        intervals = [f"{100 * low:.1f}…{100 * high:.1f}" for low, high in (each.top1_interval, each.macro_f1_interval)]
        top1, macro_f1 = points(each.top1), points(each.macro_f1)
        table.add_row(Text(each.name), str(each.images), top1, intervals[0], macro_f1, intervals[1])
    return table
