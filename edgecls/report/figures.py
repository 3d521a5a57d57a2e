"""Pictures, drawn by matplotlib without a screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.benchmark.run import Row
from edgecls.errors import MissingExtraError
from edgecls.storage import writing_to
from edgecls.train.loop import read_history

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES_FILE = "curves.png"
INK, MUTED, GRID = "#1f2933", "#616e7c", "#e4e7eb"
TARGET_COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#db2777")
PRECISION_MARKERS = {"fp32": "o", "fp16": "s", "int8": "D"}


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
    figure, axes = _canvas(1, 1, width_in=7.5, height_in=4.6)
    targets = sorted({row.artefact.card.target for row in rows})
    for row in rows:
        top1 = row.artefact.card.quality.top1
        if row.latency is None or top1 is None:
            continue
        card = row.artefact.card
        colour = TARGET_COLOURS[targets.index(card.target) % len(TARGET_COLOURS)]
        marker = PRECISION_MARKERS.get(card.precision, "o")
        axes.plot(row.latency.p50_ms, 100 * top1, marker, color=colour, markersize=9)
        label = f"{row.name}  {row.latency.p50_ms:.2f} ms"
        axes.annotate(
            label, (row.latency.p50_ms, 100 * top1), (8, 6), textcoords="offset points", color=INK, fontsize=9
        )
    axes.set_xlabel("median latency at batch 1, host to host (ms); left is faster")
    axes.set_ylabel("top-1 on held-out images (%)")
    axes.set_title("Latency against accuracy", loc="left", color=INK)
    axes.margins(x=0.25, y=0.3)
    axes.set_xlim(left=0)
    return _save(figure, path)


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
    with writing_to(path):
        figure.savefig(path)
    return path
