"""`edgecls import`."""

from __future__ import annotations

from collections.abc import Callable

from edgecls.cli.command import parse_numbers
from edgecls.cli.common import console, percent, shown, working
from edgecls.cli.options import Option, configured
from edgecls.errors import UsageError
from edgecls.importers.config import ImportConfig


def _size(text: str) -> tuple[int, int]:
    """(height, width) of "224" or "320x240", which is width x height as people say it. Raises `UsageError`."""
    try:
        sides = parse_numbers(text.lower(), int, "x")
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise UsageError(f"`size_px` takes 224 or 320x240 (width x height), not {text!r}")
    return sides[-1], sides[0]


def _three(name: str) -> Callable[[str], tuple[float, float, float]]:
    """Reads one number for each colour, or one for all. Raises `UsageError`."""

    def parse(text: str) -> tuple[float, float, float]:
        try:
            numbers = parse_numbers(text, float)
            red, green, blue = 3 * numbers if len(numbers) == 1 else numbers
        except ValueError as error:
            raise UsageError(
                f"`{name}` takes three numbers such as 0.485,0.456,0.406, or one for all, not {text!r}"
            ) from error
        return red, green, blue

    return parse


@configured(
    file=Option(argument="FILE"),
    size_px=Option(parse=_size, metavar="SIZE"),
    mean=Option(parse=_three("mean"), metavar="R,G,B"),
    std=Option(parse=_three("std"), metavar="R,G,B"),
)
def import_(config: ImportConfig) -> None:
    """Turn a model that was trained elsewhere into a run that every other command takes."""
    from edgecls.importers.model import import_model

    with working(f"importing {config.file.name}"):
        remarks: list[str] = []
        run = import_model(config, remarks.append)
    for remark in remarks:
        console.print(remark, soft_wrap=True)
    quality = run.card.quality
    if quality.top1 is not None:
        console.print(f"test split: top-1 {percent(quality.top1)} over {quality.images} images")
    else:
        console.print("accuracy not measured: give --data to check that size, mean, std and crop are right")
    console.print(f"run: {shown(run.path)}", soft_wrap=True)
