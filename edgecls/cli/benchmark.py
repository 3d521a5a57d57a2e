"""`edgecls benchmark`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecls.cli.common import console, draw, messages, points, shown, working

if TYPE_CHECKING:
    from rich.table import Table

    from edgecls.benchmark.run import Row

PICTURE_FILE = "benchmark.png"


def benchmark(
    models: Annotated[
        list[Path] | None,
        typer.Argument(help="Runs, bundles or model files; a run means all its bundles.", metavar="[MODEL]..."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Visits of each candidate, interleaved.")] = 3,
    seconds: Annotated[float, typer.Option(help="Seconds of timing per visit.")] = 1.0,
    threads: Annotated[int | None, typer.Option(help="Processor threads; the runtime's choice unless given.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for benchmark.json and benchmark.png; the run's unless given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Time every bundle of a run, and its torch parent, one at a time."""
    from edgecls.benchmark import run as measuring
    from edgecls.report.figures import latency_accuracy
    from edgecls.runs import Artefact, bundles_of, find, latest_run
    from edgecls.storage import make_folder

    named = [find(model) for model in models or [latest_run()]]
    artefacts: list[Artefact] = []
    for artefact in named:
        artefacts += [artefact, *bundles_of(artefact.place)] if artefact.is_run else [artefact]
    config = measuring.BenchmarkConfig(rounds, seconds, threads)
    with working("benchmark") as spinner:
        rows = measuring.benchmark(artefacts, config, tell=lambda step: spinner.update(f"benchmark, {step}"))
    measuring.remember(rows)
    folder = out or (named[0].place if named[0].place.is_dir() else None)
    if as_json:
        print(json.dumps(measuring.result(rows, config), indent=2))
    else:
        console.print(_table(rows))
        console.print("batch 1, host image in to scores out; top-1, agree in %; spread (p90-p10)/p50")
        _recommend(rows)
    if folder is not None:
        measuring.write_result(rows, config, make_folder(folder) / measuring.RESULT_FILE)
        messages.print(f"written: {shown(folder / measuring.RESULT_FILE)}", soft_wrap=True)
        draw(lambda: latency_accuracy(rows, folder / PICTURE_FILE))


def _table(rows: Sequence[Row]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("model", no_wrap=True)
    for heading in ("top-1", "agree", "p50 ms", "p90", "p99", "spread", "img/s", "MB", "speedup"):
        table.add_column(heading, justify="right", no_wrap=True)
    parent = next((row.latency for row in rows if row.artefact.is_run and row.latency), None)
    for row in rows:
        quality, latency = row.artefact.card.quality, row.latency
        accuracy = (points(quality.top1), "parent" if row.artefact.is_run else points(quality.agreement))
        megabytes = f"{row.size_bytes / 1e6:.1f}"
        if latency is None:
            table.add_row(row.name, *accuracy, "built", "", "", "", "", megabytes, "")
            continue
        speed_up = f"{parent.p50_ms / latency.p50_ms:.1f}x" if parent else ""
        table.add_row(
            row.name, *accuracy, f"{latency.p50_ms:.2f}", f"{latency.p90_ms:.2f}", f"{latency.p99_ms:.2f}",
            f"{latency.spread:.0%}", f"{latency.per_second:.0f}", megabytes, speed_up,
        )  # fmt: skip
    return table


def _recommend(rows: Sequence[Row]) -> None:
    for row in rows:
        if row.reason:
            console.print(f"{row.name}: not timed here, {row.reason}", soft_wrap=True)
        if not row.artefact.card.verified and not row.artefact.is_run:
            console.print(f"warning: {row.name} was never compared with its parent; export it again", soft_wrap=True)
    timed = [(row.latency.p50_ms, row.name) for row in rows if row.latency and row.artefact.card.verified]
    if timed:
        latency_ms, name = min(timed)
        console.print(f"fastest verified here: {name} ({latency_ms:.2f} ms)")
