"""What a check of a data set found, as one HTML page with pictures."""

from __future__ import annotations

from pathlib import Path

from edgecls.data.check import Finding, Report
from edgecls.data.sources import Source
from edgecls.report import page

MAX_PICTURES = 24
"""Of each finding."""
Picture = tuple[str | None, str, str, str]
"""Its address, key, class and split."""


def write_page(report: Report, source: Source, path: Path) -> None:
    """Write the page; `source` reads the pictures."""
    page.write(
        path,
        "data",
        report=report,
        location=source.location,
        splits=list(next(iter(report.per_class.values()), {})),
        most=max((sum(counts.values()) for counts in report.per_class.values()), default=0) or 1,
        findings=[(finding, *_pictures(finding, source)) for finding in report.findings],
    )


def _pictures(finding: Finding, source: Source) -> tuple[list[list[Picture]], int]:
    """The groups of pictures to show, and how many groups are left."""
    shown, groups = 0, []
    for group in finding.groups:
        if shown + len(group) > MAX_PICTURES and shown:
            break
        shown += len(group)
        groups.append([(page.thumbnail(source, each[0]), *each) for each in group[:MAX_PICTURES]])
    return groups, finding.count - len(groups) if finding.groups else 0
