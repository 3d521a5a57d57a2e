"""`edgecls predict`."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecls.bulk.config import BulkConfig
from edgecls.bulk.stores import is_uri
from edgecls.bulk.stores import shown as shown_location
from edgecls.cli.common import console, messages, opening, shown
from edgecls.cli.options import configured
from edgecls.errors import DataError, UsageError
from edgecls.imaging.decode import counted
from edgecls.settings import settings_of

if TYPE_CHECKING:
    from edgecls.bulk.config import Answering
    from edgecls.bulk.listing import Inputs
    from edgecls.runtime.batch import ImageResult

SCALE = "Many images, many machines"


@configured(panels={SCALE: tuple(setting.name for setting in settings_of(BulkConfig))})
def predict(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images, or folders, globs, tar files, CSV, JSONL or Parquet files of them; paths or URIs (s3://...).",
            metavar="IMAGES",
        ),
    ] = None,
    list_file: Annotated[
        str | None,
        typer.Option("--list", help="A text file with one image's path or URI a line; - is standard input."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="A bundle, a model file or a run; the fastest verified bundle of the latest run."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many classes to tell for each image.")] = 1,
    background: Annotated[
        str | None,
        typer.Option(
            help="Lay transparent images over black, grey, white or #rrggbb. Otherwise their pixels have the "
            "colour that is stored below the transparency, as in training."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Write a .csv, .jsonl or .parquet file instead of printing; or FOLDER/, which may be a URI: parts of "
            "a table, by which the same command goes on where it was."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")] = False,
    threads: Annotated[int | None, typer.Option(help="Processor threads; the runtime's choice unless given.")] = None,
    unknown: Annotated[
        bool, typer.Option("--unknown", help='Say "unknown" of what the model was not trained for.')
    ] = False,
    false_refusals: Annotated[float, typer.Option(help='Share of known images that "unknown" may be said of.')] = 0.01,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Replay the model's golden inputs the first time that it is opened on a machine.",
        ),
    ] = True,
    *,
    config: BulkConfig,
) -> None:
    """Classify images: tell label and score of each."""
    from edgecls.bulk.config import Answering
    from edgecls.bulk.listing import Inputs
    from edgecls.imaging.decode import parse_colour

    if bool(images) == (list_file is not None):
        raise UsageError("give images or folders, or --list FILE; see edgecls predict --help")
    if out is not None and as_json:
        raise UsageError("--json prints and --out writes; give one of them")
    answering = Answering(
        model=model, top=top, background=parse_colour(background) if background is not None else None, unknown=unknown,
        false_refusals=false_refusals, check=check, threads=threads,
    )  # fmt: skip
    config.check()
    inputs = Inputs(tuple(images or ()), list_file, config.column)
    if out is not None and out.endswith("/"):
        _predict_parts(inputs, out, answering, config)
        return
    if config.engine != "local":
        raise UsageError("--engine ray writes parts: give a folder, --out FOLDER/")
    if out is not None and is_uri(out):
        raise UsageError("--out takes a URI of a folder, which ends in a slash")
    _predict_rows(inputs, Path(out) if out is not None else None, as_json, answering, config)


def _predict_rows(inputs: Inputs, out: Path | None, as_json: bool, answering: Answering, config: BulkConfig) -> None:
    """Print the answers in order, or write them to one file."""
    from edgecls.bulk.run import predict_rows
    from edgecls.runtime.batch import table

    top = answering.top
    begun, count, errors = time.perf_counter(), 0, list[str]()
    left_out: Counter[str] = Counter()
    with ExitStack() as stack:
        add = stack.enter_context(table(out, top)) if out else None
        with opening() as on_progress:
            answers = stack.enter_context(predict_rows(inputs, answering, config, left_out, on_progress))
        if not as_json:
            messages.print(f"model: {shown(answers.model)}", soft_wrap=True)
            if left_out:
                messages.print(f"left out, no images: {counted(left_out)}", soft_wrap=True)
        for answer in _watched(answers.rows, answers.total) if out else answers.rows:
            count += 1
            if answer.error is not None:
                errors.append(answer.error)
            if add:
                add(answer)
            elif as_json:
                print(json.dumps(answer.to_json(top), ensure_ascii=False))
            else:
                _print(answer, top)
    if out:
        rate = count / (time.perf_counter() - begun)
        messages.print(f"{count} images, {rate:.0f} images/s; written: {shown(out)}", soft_wrap=True)
    if errors:
        more = f" ({len(errors)} of {count} images cannot be read)" if count > 1 else ""
        raise DataError(errors[0] + more)


def _predict_parts(inputs: Inputs, out: str, answering: Answering, config: BulkConfig) -> None:
    """Write parts, and say what is in them."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from edgecls.bulk.run import Progress as Done
    from edgecls.bulk.run import predict_parts

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("parts, {task.fields[rate]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal) as progress:
        task = progress.add_task("listing", total=None, rate="")

        def watch(done: Done) -> None:
            rate = f"{done.images / done.seconds:.0f} images/s" if done.images else ""
            progress.update(task, description="classifying", completed=done.parts, total=done.of_parts, rate=rate)

        summary = predict_parts(inputs, out, answering, config, watch)
    total, place = summary.total, shown_location(out)
    if summary.left_out:
        messages.print(f"left out, no images: {counted(summary.left_out)}", soft_wrap=True)
    found = f"; {summary.found_parts} parts were there" if summary.found_parts else ""
    rate = f", {summary.answered / summary.seconds:.0f} images/s" if summary.answered else ""
    messages.print(
        f"{total.images} images, each in one row of {summary.parts} parts{rate}{found}; written: {place}",
        soft_wrap=True,
    )
    if total.unreadable:
        raise DataError(f"{total.first_error} ({total.unreadable} of {total.images} images cannot be read)")


def _print(answer: ImageResult, top: int) -> None:
    if answer.prediction is None:
        console.print(f"{answer.image}  unreadable", soft_wrap=True)
        return
    best = "  ".join(f"{label} {score:.1%}" for label, score in answer.prediction.top(top))
    text = f"{answer.prediction.label} (nearest {best})" if answer.prediction.nearest else best
    console.print(f"{answer.image}  {text}", soft_wrap=True)


def _watched(answers: Iterator[ImageResult], total: int | None) -> Iterator[ImageResult]:
    """The answers, with a progress bar on standard error where that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("classifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal) as progress:
        yield from progress.track(answers, total)
