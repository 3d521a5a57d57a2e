"""`edgecls stream`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgecls.cli.command import parse_size, size_text
from edgecls.cli.common import console, messages, opening, shown
from edgecls.cli.options import Option, configured
from edgecls.cli.serving import TOKEN_VARIABLE, announced, stopping_on_signals
from edgecls.errors import OutputError, UsageError
from edgecls.streaming.config import StreamConfig
from edgecls.streaming.frames import Region
from edgecls.streaming.sinks.keep import KeepSink

if TYPE_CHECKING:
    from edgecls.streaming.loop import Summary
    from edgecls.streaming.sinks.base import Sink

Display = Literal["auto", "window", "terminal", "none"]
MQTT_VARIABLE, WEBHOOK_VARIABLE = "EDGECLS_MQTT", "EDGECLS_WEBHOOK"
"""Where secrets can come from, as the page's token can: the command line is seen by everybody on a machine."""
PICTURE, DECISIONS, SINKS, NOTICE, RUNNING = "Picture", "Decisions", "Where to", "What is new", "Running"


def _reasons(text: str) -> tuple[str, ...]:
    """Reasons as people write them, "unsure,changed"."""
    return tuple(reason.strip() for reason in text.split(","))


@configured(
    panels={
        PICTURE: ("width", "height", "fps", "rotate", "flip", "region", "realtime", "decoder"),
        DECISIONS: ("smooth_s", "majority", "hysteresis", "dwell_s", "min_confidence"),
        SINKS: (
            "record", "segment_minutes", "events", "snapshots", "log", "mqtt", "webhook", "others", "web", "web_token",
            "web_token_file",
        ),
        NOTICE: ("unknown", "false_refusals", "drift", "keep", "keep_to", "keep_max_bytes", "keep_per_hour"),
        RUNNING: ("max_fps", "duration_s", "frames", "give_up_s", "threads", "spin", "golden_check"),
    },
    left_out=("stale_s", "stall_s", "retry_s", "retry_max_s", "must_exist"),
    cameras=Option(names=("--camera",)),
    region=Option(names=("--roi",), parse=Region.parse, metavar="LEFT,TOP,WIDTH,HEIGHT"),
    golden_check=Option(names=("--check",)),
    segment_minutes=Option(names=("--segment",)),
    others=Option(names=("--sink",)),
    keep=Option(parse=_reasons, metavar="REASON,..."),
    keep_max_bytes=Option(names=("--keep-max",), parse=parse_size, text=size_text, metavar="SIZE"),
    mqtt=Option(variable=MQTT_VARIABLE),
    webhook=Option(variable=WEBHOOK_VARIABLE),
    web_token=Option(variable=TOKEN_VARIABLE),
)  # fmt: skip
def stream(
    context: typer.Context,
    config: StreamConfig,
    display: Annotated[
        Display, typer.Option(help="auto is a window where there is a screen.", rich_help_panel=SINKS)
    ] = "auto",
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Print a systemd unit for this command, and end.", rich_help_panel=RUNNING)
    ] = False,
) -> None:
    """Classify cameras, streams or videos, live."""
    from edgecls.streaming.run import open_stream
    from edgecls.streaming.service import Supervisor
    from edgecls.streaming.sinks.web import WebSink

    config.check()
    if systemd:
        after = sys.argv[sys.argv.index(context.info_name or "") + 1 :]
        print(_unit([argument for argument in after if argument != "--systemd"], config), end="")
        return
    supervisor = Supervisor()
    with ExitStack() as stack:
        stop, received = stack.enter_context(stopping_on_signals())
        with opening("cameras and model") as on_progress:
            running = stack.enter_context(
                open_stream(config, lambda title: _display(display, title, stop), supervisor.beat, on_progress)
            )
        for sink in running.sinks:
            if isinstance(sink, WebSink):
                sink.server.announce = announced(sink.server)
        classifier = running.classifier
        messages.print(f"model: {shown(classifier.path)}", soft_wrap=True)
        if not (classifier.card.verified or classifier.card.is_parent):
            messages.print(
                "warning: nothing says that this model was compared with its parent; prefer its whole folder",
                soft_wrap=True,
            )
        stack.callback(supervisor.stopping)
        summary = running.run(stop)
    written = (config.sinks.record, config.sinks.events, config.sinks.log, config.keeping.keep_to)
    _report(summary, running.live, [path for path in written if path])
    _fail_for(summary, running.sinks)
    if received:
        raise typer.Exit(128 + received[0])


def _unit(given: list[str], config: StreamConfig) -> str:
    """The systemd unit for these arguments; says which of them are secrets and where they belong."""
    from edgecls.streaming.config import split_name
    from edgecls.streaming.service import SECRETS_FILE, unit
    from edgecls.urls import SecretUrl

    cameras, sinks = config.cameras, config.sinks
    token = sinks.token()
    addresses = {f"EDGECLS_CAMERA_{number}": SecretUrl(each) for number, each in enumerate(cameras)}
    addresses |= {
        MQTT_VARIABLE: SecretUrl(sinks.mqtt or ""),
        WEBHOOK_VARIABLE: SecretUrl(sinks.webhook or "", secret_path=True),
    }
    secrets = {name: address.reveal() for name, address in addresses.items() if address.holds_secrets}
    secrets |= {TOKEN_VARIABLE: token} if token else {}
    secrets = {name: secret for name, secret in secrets.items() if any(secret in argument for argument in given)}
    variables = [name for name in (TOKEN_VARIABLE, MQTT_VARIABLE, WEBHOOK_VARIABLE) if name in os.environ]
    if needed := [*secrets, *(name for name in variables if name not in secrets)]:
        messages.print(
            f"the unit holds no secrets: write {', '.join(f'{name}=…' for name in needed)} into {SECRETS_FILE}, "
            "one a line, readable by root alone",
            soft_wrap=True,
        )
    if not any(argument.partition("=")[0] == "--display" for argument in given):
        given = [*given, "--display", "none"]
    return unit(given, [name or str(SecretUrl(rest)) for name, rest in map(split_name, cameras)], secrets)


def _display(display: Display, title: str, stop: threading.Event) -> list[Sink]:
    """The sinks for whoever stands in front of the machine."""
    from edgecls.runtime.machine import has_display
    from edgecls.streaming.sinks.local import TerminalSink, WindowSink

    if display == "window" and not has_display():
        raise UsageError("`display` window needs a screen, and this session has none; choose terminal or none")
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
    for sink in summary.sinks:
        if sink.sink == KeepSink.name:
            console.print(f"frames kept for review: {sink.written}")


def _fail_for(summary: Summary, sinks: Sequence[Sink]) -> None:
    """Say what the sinks lost; what was meant to be kept and was not is the command's failure."""
    failed = []
    for sink, health in zip(sinks, summary.sinks, strict=True):
        if health.lost:
            messages.print(f"warning: {health.sink} was too slow and left {health.lost} out", soft_wrap=True)
        if health.error is None:
            continue
        failures = f"{health.failed} of {health.failed + health.written} failed; " if health.failed else ""
        message = f"{health.sink}: {failures}{health.error}"
        messages.print(f"warning: {message}", soft_wrap=True)
        if sink.durable:
            failed.append(message)
    if failed:
        raise OutputError("; ".join(failed))
