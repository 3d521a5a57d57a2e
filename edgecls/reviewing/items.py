"""What a review looks at: the pictures of a pool, of any folder, or of labelled images that are doubted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

from edgecls.collecting.table import Row
from edgecls.errors import DataError
from edgecls.files import printable
from edgecls.imaging.decode import find_images
from edgecls.streaming.pool import INDEX_FILE, picture_in

SERIES = "%Y-%m-%d %H:%M"
"""Frames that a camera took within a minute belong to one series."""


@dataclass(frozen=True)
class Item:
    """A picture to look at. `path` is below the folder, with /, and is what it is called.

    `label` is what it is said to show already, `suggested` what it may show, `reason` why it is here, and
    `probabilities` are those of the best classes. Those with the highest `first` are looked at before all others.
    """

    path: str
    label: str = ""
    suggested: str = ""
    reason: str = ""
    source: str = ""
    time: datetime | None = None
    probabilities: Mapping[str, float] = field(default_factory=dict, compare=False)
    first: float = 0.0
    other: str = ""
    """Another picture to show beside it, also a path below the folder."""
    row: Row | None = field(default=None, compare=False)
    """Of a labelled image: its row as it was found."""

    @property
    def group(self) -> str | None:
        """The series that it belongs to."""
        return f"{self.source} {self.time.strftime(SERIES)}" if self.time and self.source else None


def read_pool(folder: Path) -> list[Item]:
    """The pictures of a pool that are there, as its index `pool.jsonl` has them, or all images below another folder.

    Lines that are no picture's are passed over: the last one may be in the middle of being written. Raises `DataError`
    for what is no folder.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {printable(folder)}; give a pool or a folder of images")
    index = folder / INDEX_FILE
    if not index.is_file():
        return [Item(str(PurePosixPath(path.relative_to(folder)))) for path in find_images(folder)]
    rows: dict[str, dict[str, Any]] = {}
    for line in index.read_text("utf-8", errors="replace").split("\n"):
        if (row := picture_in(line)) is None:
            continue
        path = row["path"]
        rows.pop(path, None)
        if not row.get("removed"):
            rows[path] = row
    return [_item(path, row) for path, row in rows.items() if (folder / path).is_file()]


def _item(path: str, row: Mapping[str, Any]) -> Item:
    reasons = row.get("reasons")
    reasons = [str(each) for each in reasons] if isinstance(reasons, list) else []
    label, best = row.get("label"), row.get("best")
    scores = row.get("scores")
    return Item(
        path,
        suggested=str(label or ("" if "unknown" in reasons else best) or ""),
        reason=", ".join(reasons),
        source=str(row.get("camera") or ""),
        time=_time(row.get("time")),
        probabilities=_probabilities(scores),
        first=1.0 if label or "wrong" in reasons else 0.0,
    )


def _probabilities(scores: Any) -> dict[str, float]:
    try:
        return {str(name): float(value) for name, value in scores}
    except (TypeError, ValueError):
        return {}


def _time(text: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def doubted(rows: Iterable[Row], suspects: Sequence[Item]) -> list[Item]:
    """Those suspects that the list of labelled images still has with the label that is doubted, ranked as given."""
    known = {row.path: row for row in rows}
    found = (replace(each, row=known.get(each.path)) for each in suspects)
    return [each for each in found if each.row is not None and each.row.label == each.label]
