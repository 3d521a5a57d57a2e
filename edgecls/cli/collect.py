"""`edgecls collect`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import typer

from edgecls.adapting.classes import LEAST_CLASSES
from edgecls.cli.common import console, messages, shown
from edgecls.cli.options import NAMES, Option, configured
from edgecls.cli.serving import TOKEN_VARIABLE, announced, stopping_on_signals
from edgecls.collecting.config import CollectConfig
from edgecls.collecting.labelled import Counts
from edgecls.errors import UsageError
from edgecls.streaming.frames import Region

PICTURE, BY_ITSELF, PAGE = "Picture", "Without the page", "Page"
_UNITS = {"": 1.0, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


def _seconds(text: str) -> float:
    """A time such as 2, 2s, 500ms or 5min, in seconds. Raises `UsageError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(ms|s|min|m|h|)", text, re.ASCII)
    if match is None:
        raise UsageError(f"a time is a number with s, ms, min or h, such as 2s; not {text[:40]!r}")
    return float(match[1]) * _UNITS[match[2]]


def _next(counts: Mapping[str, Counts], folder: Path) -> str:
    """What to do when pictures were taken: training takes two classes."""
    filled = [label for label, count in counts.items() if count.images]
    if len(filled) < LEAST_CLASSES:
        return f"collect images of another class, too: a classifier needs two, and there is only {filled[0]}"
    return f"edgecls train {shown(folder)}"


@configured(
    panels={
        PICTURE: ("width", "height", "fps", "rotate", "flip", "region", "decoder", "give_up_s"),
        BY_ITSELF: ("label", "every_s", "series_s", "frames", "duration_s"),
        PAGE: ("web", "web_token", "web_token_file", "per_second", "minimum", "model"),
    },
    left_out=("stale_s", "stall_s", "retry_s", "retry_max_s", "must_exist", "realtime"),
    classes=NAMES,
    region=Option(names=("--roi",), parse=Region.parse, metavar="LEFT,TOP,WIDTH,HEIGHT"),
    every_s=Option(parse=_seconds, metavar="TIME"),
    series_s=Option(parse=_seconds, metavar="TIME", text=lambda seconds: f"{seconds:g}s"),
    duration_s=Option(parse=_seconds, metavar="TIME"),
    web_token=Option(variable=TOKEN_VARIABLE),
)
def collect(config: CollectConfig) -> None:
    """Collect labelled pictures of a camera: in a page, with a button for each class, or by itself."""
    from edgecls.collecting.run import collect as run

    config.check()
    with stopping_on_signals() as (stop, received):
        collected = run(config, stop, lambda server, url: announced(server, "page")(url))
    gone = f", {collected.undone} undone" if collected.undone else ""
    console.print(f"{collected.taken} pictures taken{gone}, {collected.left_out} left out in which nothing had changed")
    if known := sum(collected.known.values()):
        others = [f"{images} as {each}" for each, images in collected.known.items() if each != config.label]
        labelled = f" ({', '.join(others)}; correct labels in: edgecls review)" if others else ""
        console.print(f"{known} left out that {shown(config.out)} holds already{labelled}", soft_wrap=True)
    for label, count in collected.counts.items():
        splits = ", ".join(f"{images} {split}" for split, images in count.splits.items() if images)
        console.print(
            f"{label}: {count.images} images in {count.series} series ({splits or 'none yet'})", soft_wrap=True
        )
    console.print(f"written: {shown(config.out)}", soft_wrap=True)
    if collected.taken:
        messages.print(f"next: {_next(collected.counts, config.out)}", soft_wrap=True)
    if received:
        raise typer.Exit(128 + received[0])
