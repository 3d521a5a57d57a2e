"""Pictures, drawn by matplotlib without a screen."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.errors import MissingExtraError
from edgecls.evaluation.detail import Curves
from edgecls.files import write_bytes
from edgecls.training.history import read_history
from edgecls.tuning.search import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy import int64
    from numpy.typing import NDArray

CURVES_FILE = "curves.png"
MAX_NAMED_CLASSES = 40
LONGEST_NAME = 24
"""Characters of a class's name in a figure."""
"""With more classes a confusion matrix shows colours only: names and counts would not be readable."""
INK, MUTED, GRID = "#1f2933", "#616e7c", "#e4e7eb"
TARGET_COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#db2777")


def training_curves(run: Path) -> Path:
    """Draw loss and validation accuracy over the epochs of a run into `curves.png`; return its path."""
    history = read_history(run)
    epochs = [epoch.epoch for epoch in history]
    figure, (left, right) = canvas(1, 2, width_in=9.0, height_in=3.6)
    left.plot(
        epochs,
        [epoch.train_loss for epoch in history],
        color=TARGET_COLOURS[0],
        label="training (augmented, smoothed labels)",
    )
    left.plot(epochs, [epoch.val_loss for epoch in history], color=TARGET_COLOURS[1], label="validation")
    left.set_title("Cross-entropy loss", loc="left", color=INK)
    left.legend(frameon=False)
    best = max(history, key=lambda epoch: epoch.merit)
    by_f1 = best.selected_by == "macro-f1"
    right.plot(epochs, [100 * epoch.val_top1 for epoch in history], color=TARGET_COLOURS[2], label="top-1")
    if by_f1:
        right.plot(epochs, [100 * epoch.val_macro_f1 for epoch in history], color=TARGET_COLOURS[3], label="macro F1")
        right.legend(frameon=False)
    right.plot([best.epoch], [100 * best.merit[0]], "o", color=TARGET_COLOURS[3 if by_f1 else 2])
    what = "macro F1" if by_f1 else "accuracy"
    right.set_title(f"Validation {what}: {best.merit[0]:.1%} in epoch {best.epoch}", loc="left", color=INK)
    right.set_ylabel("%" if by_f1 else "top-1 (%)")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    return _save(figure, run / CURVES_FILE)


def search_history(trials: Sequence[Trial]) -> bytes:
    """A PNG of each trial's best validation accuracy, and of the best one so far."""
    figure, axes = canvas(1, 1, width_in=9.0, height_in=3.4)
    best, line = 0.0, []
    for trial in trials:
        if trial.val_top1 is not None:
            complete = trial.state == "complete"
            best = max(best, trial.val_top1) if complete else best
            colour = TARGET_COLOURS[0] if complete else MUTED
            axes.plot([trial.number], [100 * trial.val_top1], "o" if complete else "x", color=colour)
        line.append((trial.number, 100 * best))
    axes.step(*zip(*line, strict=True), where="post", color=TARGET_COLOURS[1], label="best so far")
    axes.set_xlabel("trial (crosses were ended early)")
    axes.set_ylabel("validation top-1 (%)")
    axes.legend(frameon=False)
    return png(figure)


def search_slices(trials: Sequence[Trial]) -> bytes:
    """A PNG of validation accuracy against each setting that was searched for."""
    names = sorted({name for trial in trials for name in trial.settings})
    columns = min(3, len(names))
    figure, _ = canvas(-(-len(names) // columns), columns, width_in=9.0, height_in=2.6 * -(-len(names) // columns))
    for axes, name in zip(figure.axes, names, strict=False):
        points = [(t.settings[name], 100 * t.val_top1) for t in trials if t.val_top1 is not None and name in t.settings]
        points.sort()
        numbers = all(isinstance(value, float) for value, _ in points)
        shown = [value if numbers else str(value) for value, _ in points]
        axes.plot(shown, [top1 for _, top1 in points], "o", color=TARGET_COLOURS[0], alpha=0.7)
        axes.set_title(name, loc="left", color=INK)
        if numbers and points:
            low, high = points[0][0], points[-1][0]
            axes.set_xscale("log")
            axes.set_xticks([low, (low * high) ** 0.5, high], [f"{v:.1g}" for v in (low, (low * high) ** 0.5, high)])
            axes.minorticks_off()
    for axes in figure.axes[len(names) :]:
        axes.set_visible(False)
    return png(figure)


def confusion_matrix(confusion: NDArray[int64], classes: Sequence[str]) -> bytes:
    """A PNG of a confusion matrix (true, given), each row as shares of the true class's images."""
    import numpy as np

    side_in = min(2.5 + 0.32 * len(classes), 14.0)
    figure, axes = canvas(1, 1, width_in=side_in + 1, height_in=side_in)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(picture, ax=axes, label="% of the true class", shrink=0.8)
    axes.grid(visible=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(classes) <= MAX_NAMED_CLASSES:
        names = [short(name) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90)
        axes.set_yticks(range(len(classes)), names)
        for truth, answer in zip(*confusion.nonzero(), strict=True):
            ink = "white" if shares[truth, answer] > 0.5 else INK
            axes.text(answer, truth, str(confusion[truth, answer]), ha="center", va="center", color=ink, fontsize=8)
    return png(figure)


def reliability_diagram(bins: Sequence[tuple[float, float, int]]) -> bytes:
    """A PNG of (mean confidence, accuracy, images) bins beside the diagonal of perfect calibration."""
    figure, (left, right) = canvas(1, 2, width_in=9.0, height_in=3.8)
    confidence, accuracy, images = zip(*bins, strict=True)
    left.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle="--", label="perfect")
    left.plot([100 * c for c in confidence], [100 * a for a in accuracy], "o-", color=TARGET_COLOURS[0], label="here")
    left.set_xlabel("confidence (%)")
    left.set_ylabel("accuracy (%)")
    left.set_title("How often it is right when it is so sure", loc="left", color=INK)
    left.legend(frameon=False)
    right.bar([100 * c for c in confidence], images, width=4, color=TARGET_COLOURS[0])
    right.set_xlabel("confidence (%)")
    right.set_ylabel("images")
    right.set_title("How sure it is", loc="left", color=INK)
    right.set_xlim(0, 103)
    return png(figure)


def class_curves(curves: Sequence[Curves], classes: Sequence[str]) -> bytes:
    """A PNG of every class's ROC and precision-recall curve, each class against the rest."""
    figure, (left, right) = canvas(1, 2, width_in=9.5, height_in=4.4)
    named = len(classes) <= len(TARGET_COLOURS) * 2
    for index, (name, curve) in enumerate(zip(classes, curves, strict=True)):
        colour = TARGET_COLOURS[index % len(TARGET_COLOURS)]
        style = "-" if index < len(TARGET_COLOURS) else "--"
        for axes, line in ((left, curve.roc), (right, curve.precision_recall)):
            if line is not None:
                axes.plot(*line, color=colour, linestyle=style, linewidth=1.2, label=name if named else None)
    left.set_title("ROC", loc="left", color=INK)
    left.set_xlabel("false positive rate")
    left.set_ylabel("true positive rate")
    right.set_title("Precision and recall", loc="left", color=INK)
    right.set_xlabel("recall")
    right.set_ylabel("precision")
    if named:
        right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return png(figure)


def canvas(rows: int, columns: int, width_in: float, height_in: float) -> tuple[Any, Any]:
    """An empty figure and its axes, in our style. Raises `MissingExtraError`."""
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
    write_bytes(path, png(figure))
    return path


def png(figure: Any) -> bytes:
    """A figure as PNG."""
    picture = io.BytesIO()
    take_text_as_it_is(figure)
    figure.savefig(picture, format="png")
    return picture.getvalue()


def short(name: str) -> str:
    """A name that leaves room for the figure: the beginning and the end of a long one."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}…{name[1 - LONGEST_NAME // 2 :]}"


def take_text_as_it_is(figure: Any) -> None:
    """Names of classes and files may hold dollar signs, which are no formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
