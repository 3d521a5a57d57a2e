"""`edgecls evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecls.cli.common import console, percent, shown, working
from edgecls.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from edgecls.runtime.store import Artifact


def evaluate(
    model: Annotated[
        Path | None,
        typer.Argument(help="A run, a bundle or a model file, in its own runtime; the latest run unless given."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Argument(
            help="A folder of class folders, or a CSV or JSONL manifest; the run's test split unless given."
        ),
    ] = None,
    html: Annotated[Path, typer.Option(help="The report to write.")] = Path("evaluation.html"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures as JSON too.")] = None,
    min_top1: Annotated[
        float | None, typer.Option(help="Fail where top-1 is below this fraction, such as 0.95.")
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(
            help='Fit a threshold below which the answer is "unsure", so that of the others this fraction is right on '
            "the run's validation images; kept beside the card, in measurements.json."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap intervals.")] = 0,
) -> None:
    """Measure a model on labelled images: accuracy, each class, confusion, confidence, and its worst mistakes."""
    from edgecls.evaluation.confidence import answered
    from edgecls.evaluation.detail import evaluate as measure
    from edgecls.evaluation.evaluation import evaluate_artifact, to_json
    from edgecls.files import write_text
    from edgecls.report.evaluation_page import write_page
    from edgecls.runtime.store import find, latest_run

    if min_top1 is not None and not 0 <= min_top1 <= 1:
        raise UsageError(f"--min-top1 is a fraction, 0 to 1, not {min_top1:g}")
    if precision is not None and not 0 < precision <= 1:
        raise UsageError(f"--precision is a fraction, above 0 and at most 1, not {precision:g}")
    artifact = find(latest_run() if model is None else model)
    if precision is not None:
        artifact = _fit(artifact, precision)
    with working("evaluating") as spinner:
        source, samples, scores, labels = evaluate_artifact(artifact, data)
        spinner.update(f"evaluating {len(samples)} answers")
        found = measure(scores, labels, seed)
        write_page(artifact, found, source, samples, html)
        if json_file:
            write_text(json_file, json.dumps(to_json(artifact, found, samples), indent=2) + "\n")
    low, high = found.top1_interval
    console.print(
        f"{artifact.card.name} on {found.metrics.images} images: top-1 {percent(found.metrics.top1)} "
        f"(95 %: {100 * low:.1f} to {100 * high:.1f}), top-5 {percent(found.top5)}, macro F1 {percent(found.macro.f1)}",
        soft_wrap=True,
    )
    console.print(
        f"precision {percent(found.macro.precision)}, recall {percent(found.macro.recall)} (macro); calibration error "
        f"{percent(found.calibration_error)}",
        soft_wrap=True,
    )
    if threshold := artifact.card.confidence.threshold:
        share, right = answered(scores, labels, threshold)
        console.print(
            f"above the threshold of {threshold:.1%}: {percent(share)} of the images, of which {percent(right)} right",
            soft_wrap=True,
        )
    for truth, answer, images in found.confused[:3]:
        names = artifact.card.classes
        console.print(f"confused: {names[truth]} taken for {names[answer]}, {images} times", soft_wrap=True)
    console.print(f"written: {shown(html)}" + (f", {shown(json_file)}" if json_file else ""), soft_wrap=True)
    if min_top1 is not None and found.metrics.top1 < min_top1:
        raise VerificationError(f"top-1 is {found.metrics.top1:.2%}, at least {min_top1:.2%} was asked for")


def _fit(artifact: Artifact, precision: float) -> Artifact:
    """The artifact with the confidence that its validation images call for, kept beside its card."""
    from dataclasses import replace

    from edgecls.artifact.measurements import keep_confidence
    from edgecls.evaluation.evaluation import fit_confidence
    from edgecls.runtime.store import Artifact

    if not artifact.place.is_dir():
        raise UsageError("--precision is kept beside the card; give the bundle's folder, not the model file")
    with working("fitting the confidence"):
        confidence, images = fit_confidence(artifact, precision)
    keep_confidence(artifact.place, confidence)
    console.print(
        f"fitted on {images} validation images: temperature {confidence.temperature:.3f}, unsure below "
        f"{confidence.threshold:.1%}; kept in {shown(artifact.place)}",
        soft_wrap=True,
    )
    return Artifact(artifact.place, replace(artifact.card, confidence=confidence))
