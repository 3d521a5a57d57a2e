"""`edgecls export`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from edgecls.cli.command import Command, parse_numbers
from edgecls.cli.common import attempts_table, console, megabytes, messages, percent, shown, working
from edgecls.cli.options import Option, configured
from edgecls.errors import EdgeclsError, UsageError
from edgecls.exporting.config import ExportConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from edgecls.artifact.card import Card, Quality
    from edgecls.artifact.terms import Precision
    from edgecls.exporting.bundle import ExportOutcome
    from edgecls.runtime.store import Artifact


class ExportCommand(Command):
    """Names the targets in its help. They come from the registry, which `edgecls --help` need not load."""

    def get_params(self, ctx: Any) -> Any:
        """The parameters, with the targets in the help of `--target`."""
        from edgecls.backends import exportable

        parameters = super().get_params(ctx)
        for parameter in parameters:
            if parameter.name == "target":
                known = ", ".join(exportable())
                parameter.help = f"The runtimes to build for, separated by commas: {known}."  # type: ignore[attr-defined]
        return parameters


COMMAND = ExportCommand
"""In place of the usual one."""


def _batch(text: str) -> tuple[int, int, int]:
    """Three batch sizes as people write them, "1,1,8". Raises `UsageError`."""
    try:
        smallest, usual, largest = parse_numbers(text, int)
    except ValueError:
        wanted = "three numbers, smallest, most frequent and largest, as 1,1,8"
        raise UsageError(f"`batch` takes {wanted}, not {text!r}") from None
    return smallest, usual, largest


@configured(
    left_out=("precision", "target"),
    run=Option(argument="RUN"),
    device=Option(names=("--device", "--compute-capability")),
    batch=Option(parse=_batch, metavar="MIN,OPT,MAX"),
    workspace_mib=Option(metavar="MIB"),
    require_gain=Option(names=("--require",)),
)
def export(
    target: Annotated[str, typer.Option("--target", metavar="TARGET,...")] = ExportConfig.target,
    int8: Annotated[bool, typer.Option("--int8", help="Quantize to 8-bit integers, calibrated on images.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision.")] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="bfloat16, on processors that compute in it (openvino).")
    ] = False,
    *,
    config: ExportConfig,
) -> None:
    """Build a verified bundle from a run for one runtime or several."""
    from edgecls.clock import milliseconds_since, now_ns
    from edgecls.exporting.bundle import export_all
    from edgecls.runtime import machine

    lowered: list[Precision] = []
    for wanted, name in ((int8, "int8"), (fp16, "fp16"), (bf16, "bf16")):
        lowered += [cast("Precision", name)] if wanted else []
    if len(lowered) > 1:
        raise UsageError(f"--{' and --'.join(lowered)} exclude each other; choose one")
    config = replace(config, precision=lowered[0] if lowered else "fp32")
    begun_ns = now_ns()
    with working(f"exporting {target}") as spinner:
        outcomes = export_all(
            [replace(config, target=name.strip()) for name in target.split(",")],
            on_progress=lambda step: spinner.update(f"exporting {step}"),
        )
    for outcome in outcomes:
        if outcome.artifact is not None:
            _report(outcome.artifact, recommends_beside=config.out is None)
    memory_mb = machine.peak_memory_mb()
    held = f", peak memory {memory_mb:.0f} MB" if memory_mb else ""
    if any(outcome.artifact for outcome in outcomes):
        console.print(f"took {milliseconds_since(begun_ns) / 1000:.0f} s{held}")
    _require_all(outcomes)


def _require_all(outcomes: Sequence[ExportOutcome]) -> None:
    """Raise the error of an export that failed; of several, name each that did and end with the first one's code."""
    failed = [outcome.error for outcome in outcomes if outcome.error]
    unexpected = [error for error in failed if not isinstance(error, EdgeclsError)]
    if len(outcomes) > 1:
        for outcome in outcomes:
            if outcome.error:
                messages.print(f"error: {outcome.name} was not exported: {outcome.error}", soft_wrap=True)
    elif failed:
        raise failed[0]
    if unexpected:
        raise unexpected[0]
    if failed:
        raise typer.Exit(getattr(failed[0], "exit_code", 1)) from failed[0]


def _report(bundle: Artifact, recommends_beside: bool) -> None:
    card, quality = bundle.card, bundle.card.quality
    if card.lineage.candidates:
        console.print(_attempts(card))
        if left_out := _left_out(card):
            console.print(left_out, soft_wrap=True)
    console.print(f"bundle: {shown(bundle.path)}  ({megabytes(bundle.size_bytes())})", soft_wrap=True)
    measured = f"top-1 {percent(quality.top1)}, " if quality.top1 is not None else ""
    console.print(
        f"verified with {quality.verified_with} on {quality.images} {quality.split} images: {measured}"
        f"agreement {percent(quality.agreement)}{_interval(quality)}, "
        f"scores differ by up to {quality.max_score_difference:.3g}",
        soft_wrap=True,
    )
    if quality.latency_ms is not None:
        console.print(f"median latency here: {quality.latency_ms:.2f} ms{_verdict(quality)}", soft_wrap=True)
        if quality.recommended is False and recommends_beside:
            beside = bundle.path.with_name(f"{card.target}-fp32")
            console.print(f"recommended here: float32, {shown(beside)}", soft_wrap=True)
    for note in (quality.note, card.runtime.note if card.runtime else None):
        if note:
            console.print(f"note: {note}", soft_wrap=True)


def _interval(quality: Quality) -> str:
    """The 95 % interval of the agreement, in words."""
    from edgecls.evaluation.metrics import wilson

    if quality.agreement is None or not quality.images:
        return ""
    low, high = wilson(quality.agreement, quality.images)
    return f" (95 %: {100 * low:.1f} to {100 * high:.1f})"


def _attempts(card: Card) -> Table:
    """What was tried; `gain` is that over float32."""
    chosen = (card.lineage.recipe or {}).get("candidate")
    tried = [each for each in card.lineage.candidates or () if not each["left_out"]]
    return attempts_table("int8 recipe tried", [{**each, "kept": each["candidate"] == chosen} for each in tried])


def _left_out(card: Card) -> str:
    """Which candidates were not tried and why, one line for each reason."""
    names: dict[str, list[str]] = {}
    for tried in card.lineage.candidates or ():
        if tried["left_out"]:
            names.setdefault(tried["reason"], []).append(tried["candidate"])
    return "\n".join(f"left out: {', '.join(several)}: {reason}" for reason, several in names.items())


def _verdict(quality: Quality) -> str:
    """What lowering the precision brought, in words."""
    if quality.gain is None or quality.latency_ms is None:
        return ""
    message = f", {quality.gain:.2f}x the speed of float32 in the same runtime"
    return message if quality.recommended else f"{message}: not faster than FP32 on this machine"
