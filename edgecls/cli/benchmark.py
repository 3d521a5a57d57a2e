"""`edgecls benchmark`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecls.cli.common import console, draw, messages, percent, points, shown, working
from edgecls.cli.numbers import parse_numbers
from edgecls.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from rich.table import Table

    from edgecls.benchmarking.answers import Limits
    from edgecls.benchmarking.regression import Change
    from edgecls.benchmarking.suite import BenchmarkResult, Candidate
    from edgecls.runtime.store import Artifact

PICTURE_FILE, PAGE_FILE = "benchmark.png", "benchmark.html"
WHAT, HOW, ANSWERS = "What to measure", "How", "Answers"
NUMBERS = "Numbers, separated by commas"


def benchmark(
    models: Annotated[
        list[Path] | None,
        typer.Argument(help="Runs, bundles or model files; a run means all its bundles.", metavar="[MODEL]..."),
    ] = None,
    threads: Annotated[
        str, typer.Option(help=f"{NUMBERS}; auto is the runtime's choice.", rich_help_panel=WHAT)
    ] = "auto",
    batch: Annotated[str, typer.Option(help=f"{NUMBERS} of images at a time.", rich_help_panel=WHAT)] = "1",
    streams: Annotated[
        str,
        typer.Option(help=f"{NUMBERS} of inferences beside each other; auto is the best.", rich_help_panel=WHAT),
    ] = "1",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Measure accuracy too, and the way from file to label: a folder of class folders or a manifest.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Visits of each candidate, interleaved.", rich_help_panel=HOW)] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds of timing per visit.", rich_help_panel=HOW)] = 0.5,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for benchmark.json, .html and .png; the run's unless given.", rich_help_panel=HOW),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of the table.", rich_help_panel=HOW)
    ] = False,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Recommend only what is as fast.", rich_help_panel=ANSWERS)
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="Recommend only what is as accurate: top-1, 0..1.", rich_help_panel=ANSWERS)
    ] = None,
    max_size_mb: Annotated[
        float | None, typer.Option(help="Recommend only what is as small.", rich_help_panel=ANSWERS)
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="An older benchmark.json to compare with.", rich_help_panel=ANSWERS)
    ] = None,
    fail_if_slower: Annotated[
        str | None,
        typer.Option(help="End with exit code 6 where a candidate is slower than that by, say, 10%.",
                     rich_help_panel=ANSWERS),
    ] = None,
) -> None:  # fmt: skip
    """Which model to ship on this machine: every bundle of a run, and its torch parent, measured in turn."""
    from edgecls.benchmarking import answers, conditions, regression, suite
    from edgecls.benchmarking.config import SuiteConfig
    from edgecls.benchmarking.run import remember
    from edgecls.files import make_folder
    from edgecls.runtime.store import find, latest_run

    config = SuiteConfig(
        rounds=rounds,
        seconds=seconds,
        threads=_numbers("threads", threads),
        batches=_counts("batch", batch),
        streams=_numbers("streams", streams),
    )
    limits = answers.Limits(max_latency_ms=max_latency_ms, min_accuracy=min_accuracy, max_size_mb=max_size_mb)
    limits.check()
    if fail_if_slower is not None and baseline is None:
        raise UsageError("--fail-if-slower compares with --baseline FILE; give both")
    limit = regression.allowed(fail_if_slower or "10%")
    before = regression.read_baseline(baseline) if baseline else None
    named = [find(model) for model in models or [latest_run()]]
    chosen = suite.candidates(_with_bundles(named), config)
    state = conditions.now()
    with working("benchmark") as spinner:
        tell: Callable[[str], None] = lambda step: spinner.update(f"benchmark, {step}")  # noqa: E731
        top1 = _accuracies(chosen, data, tell) if data is not None else {}
        results = suite.run(chosen, config, tell)
        results = [replace(result, top1=top1.get(result.candidate.artifact.place)) for result in results]
        changes = regression.compare(before, results, limit, seconds, tell) if before else []
        best = answers.recommended(results, limits)
        parts = _broken_down(results, data, tell) if data is not None else []
    remember([result.to_row() for result in results if result.candidate.is_plain])
    answer: dict[str, Any] = {
        "recommended": best.candidate.key if best else None,
        "front": [result.candidate.key for result in answers.pareto(results)],
        "words": _words(limits),
        "breakdown": parts,
        "changes": [change.to_json() for change in changes],
    }
    record = {**suite.record(results, config, state), "answer": answer}
    if as_json:
        print(json.dumps(record, indent=1))
    else:
        console.print(_table(results))
        console.print("image in to scores out, one at a time; ±: where another run's p50 lies (95 %)")
        _say(results, record["remarks"], best, _words(limits), answer["front"])
    folder = out or (named[0].place if named[0].place.is_dir() else None)
    if folder is not None:
        suite.write(record, make_folder(folder) / suite.RESULT_FILE)
        messages.print(f"written: {shown(folder / suite.RESULT_FILE)}", soft_wrap=True)
        draw(lambda: _picture(record, folder / PICTURE_FILE))
        draw(lambda: _page(record, answer, best, folder / PAGE_FILE))
    if before:
        _judge(changes, limit, fail_if_slower is not None, regression.same_machine(before), as_json)
    if best is None and any(value is not None for value in vars(limits).values()):
        raise VerificationError(f"no verified bundle that ran here keeps to {_words(limits)}")


def _numbers(name: str, text: str) -> tuple[int | None, ...]:
    try:
        return tuple(None if each.strip() == "auto" else parse_numbers(each, int)[0] for each in text.split(","))
    except ValueError:
        raise UsageError(f"--{name} takes numbers separated by commas, or auto; not {text!r}") from None


def _counts(name: str, text: str) -> tuple[int, ...]:
    found = _numbers(name, text)
    if None in found:
        raise UsageError(f"--{name} takes numbers separated by commas, not {text!r}")
    return tuple(number for number in found if number is not None)


def _with_bundles(named: Sequence[Artifact]) -> list[Artifact]:
    from edgecls.runtime.store import bundles_of

    found: list[Artifact] = []
    for artifact in named:
        found += [artifact, *bundles_of(artifact.place)] if artifact.is_run else [artifact]
    return found


def _accuracies(chosen: Sequence[Candidate], data: Path, tell: Callable[[str], None]) -> dict[Path, float]:
    """Top-1 of each artifact that runs here, through its own runtime."""
    from edgecls.evaluation.evaluation import evaluate_artifact
    from edgecls.evaluation.metrics import measure

    found: dict[Path, float] = {}
    for artifact in {each.artifact.place: each.artifact for each in chosen}.values():
        if artifact.backend.available() is None:
            tell(f"accuracy of {artifact.card.name}")
            _, _, scores, labels = evaluate_artifact(artifact, data)
            found[artifact.place] = measure(scores, labels).top1
    return found


def _broken_down(results: Sequence[BenchmarkResult], data: Path, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """The way from file to label of each artifact, on image files of the data."""
    from edgecls.benchmarking.breakdown import FILES, break_down
    from edgecls.data.layout import index_dataset
    from edgecls.data.sources import FolderSource
    from edgecls.files import read_bytes
    from edgecls.imaging.decode import image_paths

    if data.is_dir():
        paths = image_paths([data])
    else:
        layout = index_dataset(str(data))
        if not isinstance(layout.source, FolderSource):
            return []
        paths = [layout.source.root / sample.key for samples in layout.splits.values() for sample in samples]
    files = [read_bytes(path) for path in paths[:: max(1, len(paths) // FILES)][:FILES]]
    found = []
    for result in results:
        if result.visits and result.candidate.is_plain:
            tell(f"from file to label with {result.candidate.key}")
            part = break_down(result.candidate.artifact, files)
            found.append({"name": result.candidate.key, "steps_ms": part.steps_ms, "images": part.images})
    return found


def _words(limits: Limits) -> str:
    said = [
        f"at most {limits.max_latency_ms:g} ms" if limits.max_latency_ms is not None else "",
        f"at least {limits.min_accuracy:.2%} top-1" if limits.min_accuracy is not None else "",
        f"at most {limits.max_size_mb:g} MB" if limits.max_size_mb is not None else "",
    ]
    return ", ".join(filter(None, said))


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
    parent = next((each.latency for each in results if each.candidate.artifact.is_run and each.latency), None)
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
            cells += [megabytes, cold, f"{parent.p50_ms / latency.p50_ms:.1f}x" if parent else ""]
        else:
            cells += [megabytes]
        table.add_row(*start, *cells)
    return table


def _say(
    results: Sequence[BenchmarkResult],
    remarks: Sequence[str],
    best: BenchmarkResult | None,
    words: str,
    front: Sequence[str],
) -> None:
    for result in results:
        artifact = result.candidate.artifact
        if result.reason:
            console.print(f"{result.candidate.key}: not timed here, {result.reason}", soft_wrap=True)
        if not artifact.card.verified and not artifact.is_run:
            said = f"warning: {artifact.card.name} was never compared with its parent; export it again"
            console.print(said, soft_wrap=True)
    for remark in remarks:
        console.print(f"note: {remark}", soft_wrap=True)
    if len(front) > 1:
        console.print(f"Pareto front, the fastest first: {', '.join(front)}", soft_wrap=True)
    if best and best.latency:
        rule = f" with {words}" if words else ""
        found = f"{best.candidate.key} ({best.latency.p50_ms:.2f} ms, top-1 {percent(best.accuracy)})"
        console.print(f"fastest verified here{rule}: {found}", soft_wrap=True)


def _judge(changes: Sequence[Change], limit: float, strict: bool, same: bool, as_json: bool) -> None:
    out = messages if as_json else console
    if not same:
        messages.print("warning: the baseline was measured on another machine", soft_wrap=True)
    for change in changes:
        found = change.slowdown
        out.print(
            f"{change.key}: {found.value:+.1%} ({found.low:+.1%} to {found.high:+.1%}) against the baseline"
            + (f", slower than {limit:.0%} allows" if change.slower else ""), soft_wrap=True,
        )  # fmt: skip
    slower = [change for change in changes if change.slower]
    if slower and strict:
        said = ", ".join(f"{change.key} by {change.slowdown.value:.0%}" for change in slower)
        raise VerificationError(f"slower than the baseline: {said}; {limit:.0%} was allowed")


def _picture(record: dict[str, Any], path: Path) -> Path:
    from edgecls.files import write_bytes
    from edgecls.report.benchmark_figures import one_at_a_time, pareto
    from edgecls.report.figures import png

    write_bytes(path, png(pareto(one_at_a_time(record["rows"]), record["answer"]["front"])))
    return path


def _page(record: dict[str, Any], answer: dict[str, Any], best: BenchmarkResult | None, path: Path) -> Path:
    from edgecls.report.benchmark_page import write_page
    from edgecls.runtime.layers import profile_layers

    write_page(record, answer, path, (best.candidate.key, profile_layers(best.candidate.artifact)) if best else None)
    return path
