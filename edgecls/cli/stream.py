"""`edgecls stream`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecls.cli.common import console, messages, opened, shown
from edgecls.errors import UsageError

if TYPE_CHECKING:
    from edgecls.stream.loop import Summary
    from edgecls.stream.sinks import Sink

DISPLAYS = ("auto", "window", "terminal", "none")


def stream(
    camera: Annotated[
        str, typer.Option(help="A camera's number, a URL, a video or image file, a folder, or demo.")
    ] = "0",
    model: Annotated[
        Path | None,
        typer.Option(help="A bundle, a model file or a run; the fastest verified bundle of the latest run."),
    ] = None,
    display: Annotated[
        str, typer.Option(help=f"{', '.join(DISPLAYS)}; auto is a window where there is a screen.")
    ] = "auto",
    record: Annotated[
        Path | None, typer.Option(help="Write an annotated video (.mp4, .avi, .mkv), over an older one.")
    ] = None,
    events: Annotated[Path | None, typer.Option(help="Append one JSON line per change of label.")] = None,
    duration: Annotated[float | None, typer.Option(help="End after so many seconds.")] = None,
    frames: Annotated[int | None, typer.Option(help="End after so many decisions.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads; the runtime's choice unless given.")] = None,
) -> None:
    """Classify a camera, a stream or a video, live."""
    from edgecls.card import Golden
    from edgecls.stream.loop import StreamConfig, run_stream
    from edgecls.stream.sources import open_source

    if display not in DISPLAYS:
        raise UsageError(f"--display takes {', '.join(DISPLAYS)}, not {display!r}")
    config = StreamConfig(duration, frames)
    config.check()
    with ExitStack() as stack:
        stop, received = stack.enter_context(_stopping_on_signals())
        classifier = stack.enter_context(opened(model, threads))
        golden = Golden.read(classifier.place) if camera == "demo" and classifier.place.is_dir() else None
        source = stack.enter_context(open_source(camera, golden))
        messages.print(f"model: {shown(classifier.place)}", soft_wrap=True)
        if not (classifier.card.verified or classifier.card.is_parent):
            messages.print(
                "warning: nothing says that this model was compared with its parent; prefer its whole folder"
            )
        sinks = _sinks(display, f"{source.name} · {classifier.card.name}", record, events, source.fps, stop)
        summary = run_stream(source, classifier, sinks, config, stop)
    _report(summary, source.live, record, events)
    if received:
        raise typer.Exit(128 + received[0])


@contextmanager
def _stopping_on_signals() -> Iterator[tuple[threading.Event, list[int]]]:
    """An event that Ctrl-C and SIGTERM set, and the signals that did; a second Ctrl-C ends the program at once."""
    stop, received = threading.Event(), list[int]()

    def handle(number: int, _frame: object) -> None:
        received.append(number)
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop, received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sinks(
    display: str, title: str, record: Path | None, events: Path | None, fps: float, stop: threading.Event
) -> list[Sink]:
    from edgecls.env import has_display
    from edgecls.errors import OutputError
    from edgecls.stream.sinks import EventSink, TerminalSink, VideoSink, WindowSink

    sinks: list[Sink] = []
    if record:
        sinks.append(VideoSink(record, fps))
    if events:
        sinks.append(EventSink(events))
    if display == "window" or (display == "auto" and has_display()):
        try:
            return [*sinks, WindowSink(stop)]
        except OutputError:
            if display == "window":
                raise
    if display != "none":
        sinks.append(TerminalSink(console, title))
    return sinks


def _report(summary: Summary, live: bool, record: Path | None, events: Path | None) -> None:
    rate = summary.decided / summary.seconds if summary.seconds else 0.0
    console.print(f"{summary.decided} frames in {summary.seconds:.1f} s, {rate:.1f} frames/s")
    if summary.inference:
        console.print(
            f"preprocess to scores: p50 {summary.inference.p50_ms:.2f} ms, p99 {summary.inference.p99_ms:.2f} ms"
        )
    if live and summary.age:
        console.print(
            f"frame age: p50 {summary.age.p50_ms:.1f} ms, p99 {summary.age.p99_ms:.1f} ms; "
            f"{summary.captured} captured, {summary.dropped} dropped"
        )
    if summary.skipped:
        console.print(f"skipped {summary.skipped} images that cannot be read")
    for path in (record, events):
        if path and path.exists():
            console.print(f"written: {shown(path)}", soft_wrap=True)
