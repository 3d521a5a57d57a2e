"""`edgecls stream`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecls.cli.common import console, messages, opened, shown
from edgecls.errors import OutputError, UsageError

if TYPE_CHECKING:
    from edgecls.streaming.loop import Summary
    from edgecls.streaming.sinks.base import Sink
    from edgecls.streaming.sinks.web import WebSink
    from edgecls.streaming.sources import Source

DISPLAYS = ("auto", "window", "terminal", "none")
TOKEN_VARIABLE, MQTT_VARIABLE, WEBHOOK_VARIABLE = "EDGECLS_WEB_TOKEN", "EDGECLS_MQTT", "EDGECLS_WEBHOOK"
"""Where secrets can come from: the command line is seen by everybody on a machine."""
PICTURE, DECISIONS, SINKS, RUNNING = "Picture", "Decisions", "Where to", "Running"


def stream(
    context: typer.Context,
    camera: Annotated[
        list[str] | None,
        typer.Option(
            help="A camera's number or name, a URL, a video or image file, a folder, a GStreamer pipeline, "
            "csi:0, screen:, - for raw frames, or demo; give it several times for several, NAME=... to name one. "
            "\\[default: 0]",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="A bundle, a model file or a run; the fastest verified bundle of the latest run."),
    ] = None,
    width: Annotated[int | None, typer.Option(help="Ask the camera for this width.", rich_help_panel=PICTURE)] = None,
    height: Annotated[int | None, typer.Option(help="And this height.", rich_help_panel=PICTURE)] = None,
    fps: Annotated[float | None, typer.Option(help="And this rate.", rich_help_panel=PICTURE)] = None,
    rotate: Annotated[int, typer.Option(help="90, 180 or 270 degrees clockwise.", rich_help_panel=PICTURE)] = 0,
    flip: Annotated[str | None, typer.Option(help="horizontal, vertical or both.", rich_help_panel=PICTURE)] = None,
    roi: Annotated[
        str | None,
        typer.Option(
            help="Look only at left,top,width,height: pixels, or fractions such as 0.25,0,0.5,1.",
            rich_help_panel=PICTURE,
        ),
    ] = None,
    realtime: Annotated[
        bool,
        typer.Option(
            "--realtime",
            help="Play video files at their pace, over and over, as live cameras.",
            rich_help_panel=PICTURE,
        ),
    ] = False,
    smooth: Annotated[
        float,
        typer.Option(
            help="Average probabilities over about so many seconds; 0 takes each frame for itself.",
            rich_help_panel=DECISIONS,
        ),
    ] = 0.5,
    majority: Annotated[
        int | None, typer.Option(help="Vote among so many latest frames instead.", rich_help_panel=DECISIONS)
    ] = None,
    hysteresis: Annotated[
        float, typer.Option(help="Lead that another class needs to take over.", rich_help_panel=DECISIONS)
    ] = 0.1,
    dwell: Annotated[float, typer.Option(help="Seconds for which it must lead.", rich_help_panel=DECISIONS)] = 0.3,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            help='Below it the decision is "unsure"; the card\'s threshold unless given.', rich_help_panel=DECISIONS
        ),
    ] = None,
    display: Annotated[
        str,
        typer.Option(help=f"{', '.join(DISPLAYS)}; auto is a window where there is a screen.", rich_help_panel=SINKS),
    ] = "auto",
    record: Annotated[
        Path | None,
        typer.Option(help="Write an annotated video (.mp4, .avi, .mkv), over an older one.", rich_help_panel=SINKS),
    ] = None,
    segment: Annotated[
        float | None,
        typer.Option(help="Begin a new video, named by its time, after so many minutes.", rich_help_panel=SINKS),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(help="Append one JSON line per change of decision or of a camera's state.", rich_help_panel=SINKS),
    ] = None,
    snapshots: Annotated[
        Path | None, typer.Option(help="Folder for the first picture of each event.", rich_help_panel=SINKS)
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="Append one line per frame (.csv or .jsonl).", rich_help_panel=SINKS)
    ] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(
            help="Send events to a broker: mqtt://\\[user:password@]host\\[:port]\\[/prefix].",
            envvar=MQTT_VARIABLE,
            rich_help_panel=SINKS,
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(help="POST events as JSON to this address.", envvar=WEBHOOK_VARIABLE, rich_help_panel=SINKS),
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(help="NAME or NAME:ARGUMENT of a sink that another package brings.", rich_help_panel=SINKS),
    ] = None,
    web: Annotated[
        str | None,
        typer.Option(
            help="Serve a page with pictures, and Prometheus' /metrics: a port of this machine alone, or host:port.",
            rich_help_panel=SINKS,
        ),
    ] = None,
    web_token: Annotated[
        str | None,
        typer.Option(
            help="What the page asks for; drawn where others can reach it.",
            envvar=TOKEN_VARIABLE,
            rich_help_panel=SINKS,
        ),
    ] = None,
    web_token_file: Annotated[
        Path | None, typer.Option(help="A file whose only line is the page's token.", rich_help_panel=SINKS)
    ] = None,
    max_fps: Annotated[
        float | None, typer.Option(help="Decide at most so often a second, for each camera.", rich_help_panel=RUNNING)
    ] = None,
    duration: Annotated[float | None, typer.Option(help="End after so many seconds.", rich_help_panel=RUNNING)] = None,
    frames: Annotated[int | None, typer.Option(help="End after so many decisions.", rich_help_panel=RUNNING)] = None,
    give_up: Annotated[
        float | None,
        typer.Option(
            help="End with an error when no camera gave a frame for so many seconds. Otherwise lost cameras are waited "
            "for, and only a local one that is not there at the start is an error.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Processor threads; the runtime's choice unless given.", rich_help_panel=RUNNING)
    ] = None,
    spin: Annotated[
        bool,
        typer.Option(
            "--spin",
            help="Keep processors spinning between a camera's frames: about a millisecond less for several times "
            "the processor time.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Print a systemd unit for this command, and end.", rich_help_panel=RUNNING)
    ] = False,
) -> None:
    """Classify cameras, streams or videos, live."""
    from edgecls.artifact.golden import Golden
    from edgecls.runtime.machine import this_machine
    from edgecls.runtime.store import resolve
    from edgecls.streaming.config import StreamConfig
    from edgecls.streaming.decision import Smoothing
    from edgecls.streaming.frames import Geometry, Region
    from edgecls.streaming.loop import Stream
    from edgecls.streaming.service import Supervisor
    from edgecls.streaming.sinks.base import from_other_package
    from edgecls.streaming.sinks.web import read_token
    from edgecls.streaming.sources import CameraOptions, open_source
    from edgecls.streaming.sources.camera import CaptureFormat
    from edgecls.streaming.sources.live import ReconnectPolicy

    if web_token_file is not None:
        if web_token is not None:
            raise UsageError(f"give --web-token-file or the token itself (--web-token, {TOKEN_VARIABLE}), not both")
        web_token = read_token(web_token_file)
    named = camera or ["0"]
    if display not in DISPLAYS:
        raise UsageError(f"--display takes {', '.join(DISPLAYS)}, not {display!r}")
    smoothing = Smoothing(
        seconds=smooth, majority=majority, hysteresis=hysteresis, dwell_s=dwell, min_confidence=min_confidence
    )
    config = StreamConfig(duration_s=duration, frames=frames, max_fps=max_fps, smoothing=smoothing, snapshots=snapshots)
    config.check()
    options = CameraOptions(
        capture=CaptureFormat(width=width, height=height, fps=fps),
        geometry=Geometry(rotate=rotate, flip=flip, region=Region.parse(roi) if roi is not None else None),
        reconnect=ReconnectPolicy(give_up_s=give_up),
        realtime=realtime,
    )
    options.check()
    if systemd:
        after = sys.argv[sys.argv.index(context.info_name or "") + 1 :]
        given = [argument for argument in after if argument != "--systemd"]
        print(_unit(given, named, mqtt, webhook, web_token), end="")
        return
    supervisor = Supervisor()
    with ExitStack() as stack:
        stop, received = stack.enter_context(_stopping_on_signals())
        artifact = resolve(model, this_machine().name)
        place = artifact.place
        demo = any(each.endswith("demo") for each in named) and place.is_dir()
        golden = Golden.read(place, artifact.card) if demo else None
        sources: list[Source] = [stack.enter_context(open_source(each, golden, options)) for each in named]
        sinks = _kept(sources, record, segment, events, log, mqtt, webhook, web, web_token)
        sinks += [from_other_package(each) for each in sink or ()]
        sinks += _shown(display, " · ".join([*(source.name for source in sources), artifact.card.name]), stop)
        # A camera wants its answer soon, and the processor for others in between; a file wants all of its answers.
        live = sources[0].live
        classifier = stack.enter_context(opened(place, threads, 1 if live else None, spinning=spin or not live))
        running = Stream(sources, classifier, sinks, config, supervisor.beat)
        messages.print(f"model: {shown(classifier.place)}", soft_wrap=True)
        if not (classifier.card.verified or classifier.card.is_parent):
            messages.print(
                "warning: nothing says that this model was compared with its parent; prefer its whole folder",
                soft_wrap=True,
            )
        stack.callback(supervisor.stopping)
        summary = running.run(stop)
    _report(summary, sources[0].live, [path for path in (record, events, log) if path])
    _fail_for(summary, running.sinks)
    if received:
        raise typer.Exit(128 + received[0])


def _unit(
    given: list[str], cameras: Sequence[str], mqtt: str | None, webhook: str | None, web_token: str | None
) -> str:
    """The systemd unit for these arguments; says which of them are secrets and where they belong."""
    from edgecls.streaming.service import SECRETS_FILE, unit
    from edgecls.urls import SecretUrl

    addresses = {f"EDGECLS_CAMERA_{number}": SecretUrl(each) for number, each in enumerate(cameras)}
    addresses |= {MQTT_VARIABLE: SecretUrl(mqtt or ""), WEBHOOK_VARIABLE: SecretUrl(webhook or "", secret_path=True)}
    secrets = {name: address.reveal() for name, address in addresses.items() if address.holds_secrets}
    secrets |= {TOKEN_VARIABLE: web_token} if web_token else {}
    secrets = {name: secret for name, secret in secrets.items() if any(secret in argument for argument in given)}
    if secrets:
        messages.print(
            f"the unit holds no secrets: write {', '.join(f'{name}=…' for name in secrets)} into {SECRETS_FILE}, "
            "one a line, readable by root alone",
            soft_wrap=True,
        )
    if not any(argument.partition("=")[0] == "--display" for argument in given):
        given = [*given, "--display", "none"]
    return unit(given, [str(SecretUrl(each)) for each in cameras], secrets)


def _announced(page: WebSink) -> Callable[[str], None]:
    """Says where the page is; whole only on a terminal, as what is written elsewhere is read by others too."""
    from edgecls.urls import SecretUrl

    def tell(url: str) -> None:
        if messages.is_terminal or not page.token:
            messages.print(f"web view: {url}", soft_wrap=True)
        else:
            hint = f"; its token was drawn and is not shown here: choose one by {TOKEN_VARIABLE} or --web-token-file"
            messages.print(f"web view: {SecretUrl(url)}{hint if page.drawn else ''}", soft_wrap=True)

    return tell


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


def _kept(
    sources: Sequence[Source],
    record: Path | None,
    segment: float | None,
    events: Path | None,
    log: Path | None,
    mqtt: str | None,
    webhook: str | None,
    web: str | None,
    web_token: str | None,
) -> list[Sink]:
    """The sinks that others look at."""
    from edgecls.streaming.sinks.files import EventSink, LogSink, VideoSink
    from edgecls.streaming.sinks.network import MqttSink, WebhookSink
    from edgecls.streaming.sinks.web import WebSink

    sinks: list[Sink] = []
    if segment is not None and record is None:
        raise UsageError("--segment divides what --record writes; give both")
    if record:
        sinks.append(VideoSink(record, sources, segment * 60 if segment is not None else None))
    if events:
        sinks.append(EventSink(events))
    if log:
        sinks.append(LogSink(log))
    if mqtt:
        sinks.append(MqttSink(mqtt))
    if webhook:
        sinks.append(WebhookSink(webhook))
    if web is not None:
        page = WebSink(web, web_token)
        page.announce = _announced(page)
        sinks.append(page)
    return sinks


def _shown(display: str, title: str, stop: threading.Event) -> list[Sink]:
    """The sinks for whoever stands in front of the machine."""
    from edgecls.runtime.machine import has_display
    from edgecls.streaming.sinks.local import TerminalSink, WindowSink

    if display == "window" or (display == "auto" and has_display()):
        window = WindowSink(stop)
        if display == "window" or window.works():
            return [window]
    return [] if display == "none" else [TerminalSink(console, messages, title)]


def _report(summary: Summary, live: bool, written: Sequence[Path]) -> None:
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
    for camera in summary.cameras:
        if camera.reconnects:
            console.print(f"{camera.camera}: lost {camera.reconnects} times", soft_wrap=True)
    if summary.skipped:
        console.print(f"skipped {summary.skipped} images that cannot be read")
    for path in written:
        if path.exists():
            console.print(f"written: {shown(path)}", soft_wrap=True)


def _fail_for(summary: Summary, sinks: Sequence[Sink]) -> None:
    """Say what the sinks lost; what was meant to be kept and was not is the command's failure."""
    failed = []
    for sink, health in zip(sinks, summary.sinks, strict=True):
        if health.lost:
            messages.print(f"warning: {health.sink} was too slow and left {health.lost} out", soft_wrap=True)
        if health.error is None:
            continue
        failures = f"{health.failed} of {health.failed + health.written} failed; " if health.failed else ""
        said = f"{health.sink}: {failures}{health.error}"
        messages.print(f"warning: {said}", soft_wrap=True)
        if sink.durable:
            failed.append(said)
    if failed:
        raise OutputError("; ".join(failed))
