"""A search for settings as one HTML page: its trials, and what mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from edgecls.report import page
from edgecls.report.figures import search_history, search_slices
from edgecls.tuning.search import Trial, best_of


def write_page(name: str, trials: Sequence[Trial], importances: Mapping[str, float], path: Path) -> None:
    """Write the page."""
    best = best_of(trials)
    counts = {state: sum(trial.state == state for trial in trials) for state in ("complete", "pruned", "failed")}
    page.write(
        path,
        f"Search: {name}",
        [
            f"<h1>Search: {escape(name)}</h1>",
            page.facts(
                [
                    ("best validation top-1", page.percent(best.val_top1 if best else None), _settings(best)),
                    ("trials", str(len(trials)), f"{counts['complete']} complete, {counts['pruned']} pruned"),
                ]
            ),
            "<h2>Trials</h2>",
            page.chart(search_history(trials)),
            "<h2>Settings</h2>",
            page.chart(search_slices(trials)),
            _importances(importances),
            _table(trials),
        ],
    )


def _settings(trial: Trial | None) -> str:
    return "none is complete" if trial is None else f"trial {trial.number}"


def _importances(importances: Mapping[str, float]) -> str:
    if not importances:
        return '<p class="soft">too few complete trials to say what mattered</p>'
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td>{share:.0%}</td><td class="bars"><span class="bar" '
        f'style="width:{100 * share:.1f}%"></span></td></tr>'
        for name, share in importances.items()
    )
    return f"<h2>What mattered</h2><table>{rows}</table>"


def _table(trials: Sequence[Trial]) -> str:
    names = sorted({name for trial in trials for name in trial.settings})
    head = "".join(f"<th>{escape(name)}</th>" for name in ("trial", "val top-1", "ms", *names, "end"))
    ordered = sorted(trials, key=lambda trial: -(trial.val_top1 or 0.0))
    rows = "".join(
        f"<tr><td>{t.number}</td><td>{page.percent(t.val_top1)}</td>"
        f"<td>{'–' if t.latency_ms is None else f'{t.latency_ms:.2f}'}</td>"
        f"{''.join(f'<td>{escape(_shown(t.settings.get(name)))}</td>' for name in names)}"
        f"<td>{escape(t.reason or t.state)}</td></tr>"
        for t in ordered
    )
    return f"<h2>All trials</h2><div class='wide'><table><tr>{head}</tr>{rows}</table></div>"


def _shown(value: object) -> str:
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
