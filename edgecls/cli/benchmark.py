"""`edgecls benchmark`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecls.benchmarking.config import BenchmarkConfig
from edgecls.cli.command import parse_numbers
from edgecls.cli.common import console, draw, messages, percent, points, shown, working
from edgecls.cli.options import Option, configured
from edgecls.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from edgecls.benchmarking.suite import BenchmarkResult
    from edgecls.evaluation.benchmark import BenchmarkReport

PICTURE_FILE, PAGE_FILE = "benchmark.png", "benchmark.html"
WHAT, HOW, SELECTION = "What to measure", "How", "Selection"


def _parallel(name: str) -> Callable[[str], tuple[int | None, ...]]:
    """Reads numbers of an option, of which one can be left to the runtime. Raises `UsageError`."""

    def parse(text: str) -> tuple[int | None, ...]:
        try:
            return tuple(None if each.strip() == "auto" else parse_numbers(each, int)[0] for each in text.split(","))
        except ValueError:
            raise UsageError(f"`{name}` takes numbers separated by commas, or auto; not {text!r}") from None

    return parse


def _joined(numbers: Sequence[int | None]) -> str:
    return ",".join("auto" if number is None else str(number) for number in numbers)


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(parse_numbers(text, int))
    except ValueError:
        raise UsageError(f"`batches` takes numbers separated by commas, not {text!r}") from None


def parse_share(text: str) -> float:
    """A fraction of "10%" or "0.1". Raises `UsageError`."""
    try:
        [value] = parse_numbers(text.removesuffix("%"), float)
    except ValueError:
        value = -1.0
    value /= 100 if text.endswith("%") else 1
    if not 0 < value < 10:
        raise UsageError(f"`fail_if_slower` takes a share such as 10%, not {text!r}")
    return value


@configured(
    panels={
        WHAT: ("threads", "batches", "streams", "data"),
        HOW: ("rounds", "seconds"),
        SELECTION: ("max_latency_ms", "min_accuracy", "max_size_mb", "baseline", "fail_if_slower"),
    },
    models=Option(argument="MODEL"),
    threads=Option(parse=_parallel("threads"), text=_joined),
    batches=Option(names=("--batch",), parse=_counts, text=_joined),
    streams=Option(parse=_parallel("streams"), text=_joined),
    fail_if_slower=Option(parse=parse_share),
)
def benchmark(
    config: BenchmarkConfig,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for benchmark.json, .html and .png; the run's unless given.", rich_help_panel=HOW),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of the table.", rich_help_panel=HOW)
    ] = False,
) -> None:
    """Which model to ship on this machine: every bundle of a run, and its torch parent, measured in turn."""
    from edgecls.benchmarking import suite
    from edgecls.evaluation.benchmark import benchmark as run_benchmark
    from edgecls.files import make_folder

    with working("benchmark") as spinner:
        report = run_benchmark(config, lambda step: spinner.update(f"benchmark, {step}"))
    if as_json:
        print(suite.as_text(report.record))
    else:
        console.print(_table(report.results))
        console.print("image in to scores out, one at a time; ±: where another run's p50 lies (95 %)")
        _print_findings(report, str(config.constraints))
    first = report.artifacts[0].path
    folder = out or (first if first.is_dir() else None)
    if folder is not None:
        suite.write(report.record, make_folder(folder) / suite.RESULT_FILE)
        messages.print(f"written: {shown(folder / suite.RESULT_FILE)}", soft_wrap=True)
        draw(lambda: _picture(report.record, folder / PICTURE_FILE))
        draw(lambda: _page(report, folder / PAGE_FILE))
    if config.baseline is not None:
        _print_changes(report, config, messages if as_json else console)
    report.require(config)


def _table(results: Sequence[BenchmarkResult]) -> Table:
    from rich import box
    from rich.table import Table

    settings = {
        name: [str(getattr(each.candidate, name) or "auto") for each in results]
        for name in ("batch", "streams", "threads")
    }
    settings = {name: values for name, values in settings.items() if len(set(values)) > 1}
    last = () if settings else ("start s", "speedup")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False, show_edge=False)
    table.add_column("model", overflow="fold")
    for heading in (*settings, "top-1", "agree", "p50 ms", "±", "p99", "img/s", "MB", *last):
        table.add_column(heading, justify="right", no_wrap=True)
    parent = next((each.p50_interval for each in results if each.candidate.artifact.is_run and each.latency), None)
    for number, result in enumerate(results):
        quality, latency = result.candidate.artifact.card.quality, result.latency
        agreement = "parent" if result.candidate.artifact.is_run else points(quality.agreement)
        start = [
            result.candidate.name,
            *(values[number] for values in settings.values()),
            points(result.accuracy),
            agreement,
        ]
        megabytes = f"{result.size_bytes / 1e6:.1f}"
        interval, rate = result.p50_interval, result.throughput_interval
        if latency is None or interval is None or rate is None:
            table.add_row(*start, "built", "", "", "", megabytes)
            continue
        cells = [f"{interval.value:.2f}", f"{interval.width / 2:.0%}", f"{latency.p99_ms:.2f}", f"{rate.value:.0f}"]
        if last:
            cold = f"{(result.cold_start_ms or 0.0) / 1000:.1f}"
            cells += [megabytes, cold, f"{parent.value / interval.value:.1f}x" if parent else ""]
        else:
            cells += [megabytes]
        table.add_row(*start, *cells)
    return table


def _print_findings(report: BenchmarkReport, constraints: str) -> None:
    for result in report.results:
        artifact = result.candidate.artifact
        if result.reason:
            console.print(f"{result.candidate.key}: not timed here, {result.reason}", soft_wrap=True)
        if not artifact.card.verified and not artifact.is_run:
            warning = f"warning: {artifact.card.name} was never compared with its parent; export it again"
            console.print(warning, soft_wrap=True)
    for remark in report.record["remarks"]:
        console.print(f"note: {remark}", soft_wrap=True)
    if len(report.front) > 1:
        keys = ", ".join(result.candidate.key for result in report.front)
        console.print(f"Pareto front, the fastest first: {keys}", soft_wrap=True)
    best = report.best
    if best and best.p50_interval:
        rule = f" with {constraints}" if constraints else ""
        figures = f"{best.candidate.key} ({best.p50_interval.value:.2f} ms, top-1 {percent(best.accuracy)})"
        console.print(f"fastest verified here{rule}: {figures}", soft_wrap=True)


def _print_changes(report: BenchmarkReport, config: BenchmarkConfig, out: Console) -> None:
    if not report.same_machine:
        messages.print("warning: the baseline was measured on another machine", soft_wrap=True)
    for change in report.changes:
        slowdown = change.slowdown
        out.print(
            f"{change.key}: {slowdown.value:+.1%} ({slowdown.low:+.1%} to {slowdown.high:+.1%}) against the baseline"
            + (f", slower than {config.allowed_slowdown:.0%} allows" if change.slower else ""), soft_wrap=True,
        )  # fmt: skip


def _picture(record: dict[str, Any], path: Path) -> Path:
    from edgecls.files import write_bytes
    from edgecls.report.benchmark_figures import one_at_a_time, pareto
    from edgecls.report.figures import png

    write_bytes(path, png(pareto(one_at_a_time(record["rows"]), record["selection"]["front"])))
    return path


def _page(report: BenchmarkReport, path: Path) -> Path:
    from edgecls.report.benchmark_page import write_page
    from edgecls.runtime.layers import profile_layers

    best = report.best
    layers = (best.candidate.key, profile_layers(best.candidate.artifact)) if best else None
    write_page(report.record, path, layers)
    return path
