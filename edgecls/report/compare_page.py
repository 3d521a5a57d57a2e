"""A comparison as one HTML page that needs nothing else: figures, flipped images, classes, layers."""

from __future__ import annotations

from pathlib import Path

from edgecls.exporting.compare import Comparison
from edgecls.report import page

MAX_PICTURES = 60


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the page."""
    page.write(
        path,
        "compare",
        comparison=comparison,
        flips=[(page.thumbnail(comparison.source, flip.path), flip) for flip in comparison.flips[:MAX_PICTURES]],
        recalls=_recalls(comparison),
        most_db=max([1.0, *(decibels for _, decibels in comparison.layers)]),
    )


def _recalls(comparison: Comparison) -> list[tuple[str, float, float]] | None:
    """Each class with its recall in both models, what was lost most first; None without labels."""
    first, second = comparison.first.recall, comparison.second.recall
    if first is None or second is None:
        return None
    rows = sorted(zip(comparison.classes, first, second, strict=True), key=lambda row: row[2] - row[1])
    return [row for row in rows if row[1] or row[2]]
