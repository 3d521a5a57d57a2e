"""Pictures, drawn by matplotlib without a screen."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.benchmark.run import Row
from edgecls.errors import MissingExtraError
from edgecls.storage import write_bytes
from edgecls.train.loop import read_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES_FILE = "curves.png"
INK, MUTED, GRID = "#1f2933", "#616e7c", "#e4e7eb"
TARGET_COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#db2777")
PRECISION_MARKERS = {"fp32": "o", "fp16": "s", "bf16": "^", "int8": "D"}


def training_curves(run: Path) -> Path:
    """Draw loss and validation accuracy over the epochs of a run into `curves.png`; return its path."""
    history = read_history(run)
    epochs = [epoch.epoch for epoch in history]
    figure, (left, right) = _canvas(1, 2, width_in=9.0, height_in=3.6)
    left.plot(
        epochs,
        [epoch.train_loss for epoch in history],
        color=TARGET_COLOURS[0],
        label="training (augmented, smoothed labels)",
    )
    left.plot(epochs, [epoch.val_loss for epoch in history], color=TARGET_COLOURS[1], label="validation")
    left.set_title("Cross-entropy loss", loc="left", color=INK)
    left.legend(frameon=False)
    right.plot(epochs, [100 * epoch.val_top1 for epoch in history], color=TARGET_COLOURS[2])
    best = max(history, key=lambda epoch: (epoch.val_top1, -epoch.val_loss))
    right.plot([best.epoch], [100 * best.val_top1], "o", color=TARGET_COLOURS[2])
    right.set_title(f"Validation accuracy: {best.val_top1:.1%} in epoch {best.epoch}", loc="left", color=INK)
    right.set_ylabel("top-1 (%)")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    return _save(figure, run / CURVES_FILE)


def latency_accuracy(rows: Sequence[Row], path: Path) -> Path:
    """Draw latency against accuracy, one mark per candidate that ran here and has an accuracy; return the path."""
    figure, axes = _canvas(1, 1, width_in=8.5, height_in=4.2)
    targets = sorted({row.artefact.card.target for row in rows})
    percents: list[float] = []
    for row in rows:
        card, top1 = row.artefact.card, row.artefact.card.quality.top1
        if row.latency is None or top1 is None:
            continue
        percents.append(100 * top1)
        axes.plot(
            [row.latency.p50_ms],
            [100 * top1],
            PRECISION_MARKERS.get(card.precision, "o"),
            color=TARGET_COLOURS[targets.index(card.target) % len(TARGET_COLOURS)],
            markersize=9,
            label=f"{row.name}: {row.latency.p50_ms:.2f} ms, {100 * top1:.2f} %",
        )
    axes.set_xlabel("median latency at batch 1, host to host (ms, logarithmic); left is faster")
    axes.set_ylabel("top-1 on held-out images (%)")
    axes.set_title("Latency against accuracy", loc="left", color=INK)
    _log_latency(axes)
    if percents:
        room = max(0.75, 0.15 * (max(percents) - min(percents)))
        axes.set_ylim(min(percents) - room, min(max(percents) + room, 100.3))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return _save(figure, path)


def _log_latency(axes: Axes) -> None:
    """A logarithmic axis that is labelled with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.15)


def _canvas(rows: int, columns: int, width_in: float, height_in: float) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "train", "drawing a picture") from error
    figure = Figure(figsize=(width_in, height_in), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns)
    for each in figure.axes:
        _style(each)
    return figure, axes


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _save(figure: Any, path: Path) -> Path:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_bytes(path, picture.getvalue())
    return path
