"""`edgecls predict`."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecls.cli.common import console, messages, opening, shown
from edgecls.errors import DataError, UsageError

if TYPE_CHECKING:
    from edgecls.runtime.batch import ImageResult


def predict(
    images: Annotated[
        list[Path] | None, typer.Argument(help="Image files, or folders of them.", metavar="IMAGES")
    ] = None,
    list_file: Annotated[
        Path | None, typer.Option("--list", help="A text file with one image's path a line; - is standard input.")
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
    out: Annotated[Path | None, typer.Option(help="Write a .csv, .jsonl or .parquet file instead of printing.")] = None,
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
) -> None:
    """Classify images: tell label and score of each."""
    from edgecls.imaging.decode import counted, image_paths, parse_colour
    from edgecls.runtime.batch import classify, listed, table
    from edgecls.runtime.classifier import load

    if bool(images) == (list_file is not None):
        raise UsageError("give images or folders, or --list FILE; see edgecls predict --help")
    if out is not None and as_json:
        raise UsageError("--json prints and --out writes; give one of them")
    colour = parse_colour(background) if background is not None else None
    left_out: Counter[str] = Counter()
    named = image_paths(images, left_out) if images else None
    paths: Iterable[Path] = named if named is not None else listed(list_file or Path("-"))
    begun, count, errors = time.perf_counter(), 0, list[str]()
    with ExitStack() as stack:
        add = stack.enter_context(table(out, top)) if out else None
        with opening() as on_progress:
            classifier = stack.enter_context(
                load(
                    model, threads, on_progress, streams=None, check=check, unknown=unknown,
                    false_refusals=false_refusals,
                )
            )  # fmt: skip
        if not as_json:
            messages.print(f"model: {shown(classifier.path)}", soft_wrap=True)
            if left_out:
                messages.print(f"left out, no images: {counted(left_out)}", soft_wrap=True)
        answers = stack.enter_context(closing(classify(classifier, paths, colour)))
        for answer in _watched(answers, len(named) if named else None) if out else answers:
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
