"""`edgecls import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgecls.cli.common import console, percent, shown, working
from edgecls.cli.numbers import parse_numbers
from edgecls.errors import UsageError
from edgecls.imaging.preprocess import MAX_SIDE_PX

if TYPE_CHECKING:
    from edgecls.imaging.preprocess import Resize


def import_(
    file: Annotated[Path, typer.Argument(help="A checkpoint (safetensors, .pt, .pth) or an ONNX file.")],
    arch: Annotated[
        str, typer.Option(help="The checkpoint's architecture, such as resnet50 or timm/NAME; none for an ONNX file.")
    ],
    classes: Annotated[Path, typer.Option(help="Class names in output order: one a line, or JSON.")],
    size: Annotated[str | None, typer.Option(help="The network's input in pixels: 224, or 320x240.")] = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Mean of red, green and blue, or of grey, on a scale of 0 to 1: 0.485,0.456,0.406."),
    ] = None,
    std: Annotated[str | None, typer.Option(help="Standard deviations, on the same scale.")] = None,
    resize: Annotated[
        str | None, typer.Option(help="How an image is brought to size: crop, stretch or letterbox.")
    ] = None,
    crop: Annotated[
        float | None, typer.Option(help="Share of the sides that crop keeps: 0.875 is resize 256, crop 224.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder with one folder of images per class, to measure with and calibrate on.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="The output of an ONNX file that holds the scores, where it has several.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; a new one under runs/ unless given.")] = None,
) -> None:
    """Turn a model that was trained elsewhere into a run that every other command takes."""
    from edgecls.importers.config import ImportConfig
    from edgecls.importers.model import import_model

    config = ImportConfig(
        file=file,
        arch=arch,
        classes=classes,
        size_px=_size(size),
        mean=_three("--mean", mean),
        std=_three("--std", std),
        resize=cast("Resize | None", resize),
        crop=crop,
        data=data,
        out=out,
        output=output,
    )
    with working(f"importing {file.name}"):
        remarks: list[str] = []
        run = import_model(config, remarks.append)
    for remark in remarks:
        console.print(remark, soft_wrap=True)
    quality = run.card.quality
    if quality.top1 is not None:
        console.print(f"test split: top-1 {percent(quality.top1)} over {quality.images} images")
    else:
        console.print("accuracy not measured: give --data to check that size, mean, std and crop are right")
    console.print(f"run: {shown(run.place)}", soft_wrap=True)


def _size(text: str | None) -> tuple[int, int] | None:
    """(height, width) of "224" or "320x240", which is width x height as people say it."""
    if text is None:
        return None
    try:
        sides = parse_numbers(text.lower(), int, "x")
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or not all(1 <= side <= MAX_SIDE_PX for side in sides):
        raise UsageError(f"--size takes 224 or 320x240 (width x height), up to {MAX_SIDE_PX}, not {text!r}")
    return sides[-1], sides[0]


def _three(option: str, text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        numbers = parse_numbers(text, float)
        red, green, blue = 3 * numbers if len(numbers) == 1 else numbers
    except ValueError as error:
        raise UsageError(
            f"{option} takes three numbers such as 0.485,0.456,0.406, or one for all, not {text!r}"
        ) from error
    return red, green, blue
