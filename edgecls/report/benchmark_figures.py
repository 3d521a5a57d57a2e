"""Pictures of a measurement, drawn from its JSON: as PNG, and as SVG in the colours of the page that holds them."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgecls.errors import MissingExtraError
from edgecls.report.figures import GRID, INK, MUTED, TARGET_COLOURS, canvas, take_text_as_it_is

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

MARKERS = {"fp32": "o", "fp16": "s", "bf16": "^", "int8": "D"}
LINES = {"fp32": "--", "int8": "-"}
STEP_COLOURS = {"decode": "#7c3aed", "preprocess": "#d97706", "copy": "#db2777", "inference": "#2563eb",
                "postprocess": "#059669"}  # fmt: skip
PAGE_COLOURS = {INK: "var(--ink)", MUTED: "var(--soft)", GRID: "var(--line)"}
Row = Mapping[str, Any]


def one_at_a_time(rows: Sequence[Row]) -> list[Row]:
    """The rows of a measurement that answer one image after the other."""
    return [row for row in rows if row["batch"] == 1 and row["streams"] == 1]


def pareto(rows: Sequence[Row], front: Sequence[str]) -> Any:
    """Latency against accuracy, a mark for each row that has both; those in the `front` (keys) are linked."""
    shown = [row for row in rows if row["latency"] and row["top1"] is not None]
    figure, axes = canvas(1, 1, width_in=8.5, height_in=4.0)
    for row in shown:
        axes.plot(
            [row["latency"]["p50_ms"]], [100 * row["top1"]], MARKERS.get(row["precision"], "o"),
            color=_colour(row, rows), markersize=9,
            label=f"{row['key']}: {row['latency']['p50_ms']:.2f} ms, {100 * row['top1']:.2f} %",
        )  # fmt: skip
    linked = [(r["latency"]["p50_ms"], 100 * r["top1"]) for key in front for r in shown if r["key"] == key]
    if len(linked) > 1:
        axes.step(*zip(*linked, strict=True), where="post", color=MUTED, linewidth=1, linestyle="--", zorder=0)
    axes.set_xlabel("median latency, host to host (ms, logarithmic); left is faster", color=INK)
    axes.set_ylabel("top-1 (%)", color=INK)
    _log_latency(axes)
    if shown:
        percents = [100 * row["top1"] for row in shown]
        room = max(0.75, 0.15 * (max(percents) - min(percents)))
        axes.set_ylim(min(percents) - room, min(max(percents) + room, 100.3))
        _legend(axes)
    return figure


def distribution(rows: Sequence[Row]) -> Any:
    """The share of calls that took at most so long, over all calls of each row."""
    import numpy as np

    figure, axes = canvas(1, 1, width_in=8.5, height_in=3.6)
    for row in (row for row in rows if row["latency"]):
        quantiles = row["quantiles_ms"]
        shares, style = np.linspace(0, 100, len(quantiles)), LINES.get(row["precision"], ":")
        axes.plot(quantiles, shares, color=_colour(row, rows), label=row["key"], linestyle=style)
    axes.set_xlabel("latency of a call (ms, logarithmic)", color=INK)
    axes.set_ylabel("calls (%)", color=INK)
    _log_latency(axes)
    _legend(axes)
    return figure


def batch_sweep(rows: Sequence[Row]) -> Any | None:
    """Images per second over the batch size; None where only one size was measured."""
    timed = [row for row in rows if row["latency"]]
    if len({row["batch"] for row in timed}) < 2:
        return None
    figure, axes = canvas(1, 1, width_in=8.5, height_in=3.6)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in timed:
        groups.setdefault((row["name"], row["streams"], row["threads"]), []).append(row)
    for (name, streams, threads), members in groups.items():
        members.sort(key=lambda row: int(row["batch"]))
        message = (
            name
            + ("" if streams == 1 else f", {streams or 'best'} streams")
            + (f", {threads} threads" if threads else "")
        )
        axes.plot([row["batch"] for row in members], [row["images_per_s_interval"]["value"] for row in members],
                  marker=MARKERS.get(members[0]["precision"], "o"), color=_colour(members[0], rows),
                  linestyle="-" if streams == 1 else "--", label=message)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({row["batch"] for row in timed}), [str(b) for b in sorted({row["batch"] for row in timed})])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("images in a batch", color=INK)
    axes.set_ylabel("images/s", color=INK)
    _legend(axes)
    return figure


def breakdown(parts: Sequence[Mapping[str, Any]]) -> Any:
    """What each step from file to label takes, stacked, a bar for each model; the fastest on top."""
    ordered = sorted(parts, key=lambda part: -sum(part["steps_ms"].values()))
    figure, axes = canvas(1, 1, width_in=8.5, height_in=1.2 + 0.42 * len(ordered))
    for position, part in enumerate(ordered):
        left = 0.0
        for step, took_ms in part["steps_ms"].items():
            axes.barh(position, took_ms, left=left, color=STEP_COLOURS[step], label=None if position else step)
            left += took_ms
        axes.text(left, position, f" {left:.2f} ms", va="center", color=INK, fontsize=9)
    axes.set_yticks(range(len(ordered)), [part["name"] for part in ordered], color=INK)
    axes.margins(x=0.12)
    axes.set_xlabel("median time (ms), one image after the other", color=INK)
    _legend(axes)
    return figure


def svg(figure: Any) -> Markup:
    """A figure as SVG for an HTML page, transparent and in the page's own colours. Raises `MissingExtraError`.

    It is the one value that a page takes as it is: matplotlib draws text as outlines and escapes it in comments.
    """
    try:
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtraError("markupsafe", "train", "writing a page") from error
    picture = io.StringIO()
    take_text_as_it_is(figure)
    figure.savefig(picture, format="svg", transparent=True)
    text = picture.getvalue()
    text = re.sub(r'(<svg [^>]*?)\swidth="[^"]*"\sheight="[^"]*"|(<svg [^>]*?)\sheight="[^"]*"', r"\1\2", text, count=1)
    for colour, variable in PAGE_COLOURS.items():
        text = text.replace(colour, variable)
    return Markup(text[text.index("<svg") :])


def _colour(row: Row, rows: Sequence[Row]) -> str:
    targets = sorted({each["target"] for each in rows})
    return TARGET_COLOURS[targets.index(row["target"]) % len(TARGET_COLOURS)]


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=INK, fontsize=8)


def _log_latency(axes: Axes) -> None:
    """A logarithmic axis that is labelled with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.15)
