"""`edgecls compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgecls.cli.common import console, percent, require_two_files, shown, working
from edgecls.cli.options import Option, configured, listed
from edgecls.evaluation.config import CompareConfig


@configured(
    first=Option(argument="FIRST"),
    second=Option(argument="SECOND"),
    by=Option(parse=listed, text=",".join, metavar="COLUMN,..."),
)
def compare(
    config: CompareConfig,
    html: Annotated[Path, typer.Option(help="The page to write.")] = Path("comparison.html"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures as JSON too.")] = None,
) -> None:
    """Show what changed between two models: answers, accuracy, confidence, layers and speed."""
    from edgecls.exporting.compare import compare as run_comparison
    from edgecls.files import write_text
    from edgecls.report.compare_page import write_page

    require_two_files(html, json_file)
    with working("comparing") as spinner:
        comparison = run_comparison(config, lambda step: spinner.update(f"comparing: {step}"))
        write_page(comparison, html)
        if json_file:
            write_text(json_file, json.dumps(comparison.to_json(), indent=2) + "\n")
    low, high = comparison.agreement_interval
    a, b = comparison.first, comparison.second
    console.print(
        f"{a.name} → {b.name} on {comparison.images} images: agreement {percent(comparison.agreement)} "
        f"(95 %: {100 * low:.1f} to {100 * high:.1f}), {len(comparison.flips)} answers changed",
        soft_wrap=True,
    )
    if comparison.drop_points is not None:
        console.print(
            f"top-1 {percent(a.top1)} → {percent(b.top1)}: a drop of {comparison.drop_points:.2f} points "
            f"(95 %: {comparison.drop_low_points:.2f} to {comparison.drop_high_points:.2f}); "
            f"calibration error {percent(a.calibration_error)} → {percent(b.calibration_error)}",
            soft_wrap=True,
        )
    for line in comparison.remarks:
        console.print(line, soft_wrap=True)
    for each in comparison.slices:
        if each.verdict != "not decided":
            console.print(
                f"{each.verdict} in {each.name}: top-1 {percent(each.first)} → {percent(each.second)} on {each.images} "
                f"images, a drop of {each.drop}",
                soft_wrap=True,
            )
    if undecided := [each.name for each in comparison.slices if each.verdict == "not decided"]:
        console.print(f"no difference that these images could show in {', '.join(undecided)}", soft_wrap=True)
    if comparison.speedup is not None:
        console.print(f"latency {a.latency_ms:.2f} → {b.latency_ms:.2f} ms: {comparison.speedup:.2f}x as fast")
    if comparison.layers:
        name, worst = min(comparison.layers, key=lambda layer: layer[1])
        console.print(f"noisiest layer: {name}, {worst:.1f} dB", soft_wrap=True)
    console.print(f"written: {shown(html)}" + (f", {shown(json_file)}" if json_file else ""), soft_wrap=True)
    comparison.require(config.min_agreement, config.max_drop_points)
