"""`edgecls export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from edgecls.cli.common import console, megabytes, percent, shown, working
from edgecls.errors import UsageError

if TYPE_CHECKING:
    from edgecls.card import Quality


class ExportCommand(TyperCommand):
    """Names the targets in its help. They come from the registry, which `edgecls --help` need not load."""

    def get_params(self, ctx: Any) -> Any:
        """The parameters, with the targets in the help of `--target`."""
        from edgecls.backends import exportable

        parameters = super().get_params(ctx)
        for parameter in parameters:
            if parameter.name == "target":
                parameter.help = f"The runtime to build for: {', '.join(exportable())}."  # type: ignore[attr-defined]
        return parameters


def export(
    run: Annotated[Path | None, typer.Argument(help="A run's folder; the latest run unless given.")] = None,
    target: Annotated[str, typer.Option(help="The runtime to build for.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Quantize to 8-bit integers, calibrated on images.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Half precision.")] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="Folder of images to calibrate with; the run's training images unless given.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", "--compute-capability",
            help="What to build for: CPU, GPU or NPU (openvino); compute capabilities such as 8.6,8.9 (tensorrt).",
        ),
    ] = None,
    max_drop: Annotated[float, typer.Option(help="Points of top-1 that int8 may lose on held-out images.")] = 1.0,
    require: Annotated[
        bool, typer.Option("--require", help="Fail where int8 or fp16 is not faster than float32 on this machine.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the bundle; inside the run unless given.")] = None,
) -> None:  # fmt: skip
    """Build a verified bundle from a run for one runtime."""
    from edgecls.export.bundle import ExportConfig
    from edgecls.export.bundle import export as run_export

    if int8 and fp16:
        raise UsageError("--int8 and --fp16 exclude each other; choose one")
    precision = "int8" if int8 else "fp16" if fp16 else "fp32"
    with working(f"exporting {target} {precision}") as spinner:
        bundle = run_export(
            ExportConfig(target, run, precision, calibration, device, out, max_drop, require),
            tell=lambda step: spinner.update(f"exporting {target} {precision}: {step}"),
        )
    card, quality = bundle.card, bundle.card.quality
    console.print(f"bundle: {shown(bundle.place)}  ({megabytes(bundle.size_bytes())})", soft_wrap=True)
    measured = f"top-1 {percent(quality.top1)}, " if quality.top1 is not None else ""
    console.print(
        f"verified with {quality.verified_with} on {quality.images} {quality.split} images: {measured}"
        f"agreement {percent(quality.agreement)}, scores differ by up to {quality.max_score_difference:.3g}",
        soft_wrap=True,
    )
    if quality.latency_ms is not None:
        console.print(f"median latency here: {quality.latency_ms:.2f} ms{_verdict(quality)}", soft_wrap=True)
    if card.runtime and card.runtime.note:
        console.print(f"note: {card.runtime.note}", soft_wrap=True)


def _verdict(quality: Quality) -> str:
    """What lowering the precision brought, in words."""
    if quality.gain is None or quality.latency_ms is None:
        return ""
    beside = f"{quality.latency_ms * quality.gain:.2f} ms in float32"
    if quality.gain < 1:
        return f", {beside}: it does not pay on this machine, prefer the float bundle"
    return f", {quality.gain:.1f}x as fast as {beside}"
