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


def _pictures(finding: Finding, source: Source) -> tuple[list[tuple[list[Picture], int]], int]:
    """The groups of pictures to show, each with the number of its pictures that are left, and how many groups are."""
    shown, groups = 0, []
    for group, size in zip(finding.groups, finding.sizes, strict=True):
        if shown + len(group) > MAX_PICTURES and shown:
            break
        shown += len(group)
        pictures = [(page.thumbnail(source, each[0]), *each) for each in group[:MAX_PICTURES]]
        groups.append((pictures, size - len(pictures)))
    return groups, finding.count - len(groups) if finding.groups else 0
