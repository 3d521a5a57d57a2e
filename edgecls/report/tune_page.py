"""A search for settings as one HTML page: its trials, and what mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgecls.report import page
from edgecls.report.figures import search_history, search_slices
from edgecls.tuning.search import Trial, best_of


def write_page(name: str, trials: Sequence[Trial], importances: Mapping[str, float], path: Path) -> None:
    """Write the page."""
    page.write(
        path,
        "tune",
        name=name,
        trials=sorted(trials, key=lambda trial: -(trial.val_top1 or 0.0)),
        best=best_of(trials),
        settings=sorted({name for trial in trials for name in trial.settings}),
        importances=importances,
        history=page.data_url("png", search_history(trials)),
        slices=page.data_url("png", search_slices(trials)),
    )
