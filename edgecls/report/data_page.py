"""What a check of a data set found, as one HTML page with pictures."""

from __future__ import annotations

from html import escape
from pathlib import Path

from edgecls.data.check import Finding, Report
from edgecls.data.sources import Source
from edgecls.report import page

MAX_PICTURES = 24
"""Of each finding."""


def write_page(report: Report, source: Source, path: Path) -> None:
    """Write the page; `source` reads the pictures."""
    verdict = "needs attention" if report.severe else "looks well"
    page.write(
        path,
        f"Data check: {report.name}",
        [
            f"<h1>Data check: {escape(page.printable(report.name))}</h1>",
            f'<p class="soft">{escape(page.printable(source.location))}</p>',
            page.facts(
                [
                    ("images", str(report.images), f"in {len(report.classes)} classes"),
                    ("findings", str(len(report.findings)), verdict),
                    ("to leave out", str(len(report.quarantine)), "named in the quarantine list; nothing is deleted"),
                ]
            ),
            _classes(report),
            *(_finding(finding, source) for finding in report.findings),
        ],
    )


def _classes(report: Report) -> str:
    splits = list(next(iter(report.per_class.values()), {}))
    most = max((sum(counts.values()) for counts in report.per_class.values()), default=0) or 1
    rows = "".join(
        f"<tr><td>{escape(page.printable(name))}</td>{''.join(f'<td>{counts[split]}</td>' for split in splits)}"
        f'<td class="bars"><span class="bar" style="width:{100 * sum(counts.values()) / most:.1f}%"></span></td></tr>'
        for name, counts in report.per_class.items()
    )
    head = "".join(f"<th>{escape(split)}</th>" for split in splits)
    return f"<h2>Classes</h2><table><tr><th></th>{head}<th></th></tr>{rows}</table>"


def _finding(finding: Finding, source: Source) -> str:
    colour = "bad" if finding.severe else "soft"
    title = f'<h2>{escape(finding.kind)} <span class="{colour}">{finding.count}</span></h2>'
    shown, figures = 0, []
    for group in finding.groups:
        if shown + len(group) > MAX_PICTURES and shown:
            break
        shown += len(group)
        members = "".join(
            f"<figure>{page.thumbnail(source, key)}<figcaption>{escape(page.printable(key))}<br>"
            f'<span class="soft">{escape(page.printable(label))} · {split}</span></figcaption></figure>'
            for key, label, split in group[:MAX_PICTURES]
        )
        figures.append(f'<div class="group">{members}</div>')
    left = finding.count - len(figures) if finding.groups else 0
    more = f'<p class="soft">and {left} more</p>' if left else ""
    return f"{title}<p>{escape(page.printable(finding.text))}</p><div class='groups'>{''.join(figures)}</div>{more}"
