"""Decisions become labelled images: copied from a pool, given another label, or taken out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgecls.collecting.labelled import Change, LabelledFolder
from edgecls.collecting.table import Row
from edgecls.files import read_bytes
from edgecls.reviewing.decisions import Verdict
from edgecls.reviewing.items import Item

ORIGIN = "frame"
"""The column that says which picture of a pool an image is a copy of: by it none is copied twice."""


def origin(pool: str, item: str) -> str:
    """What stands in that column, in UTF-8 whatever the file is called."""
    return f"{pool}/{item}".encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class Placed:
    """Where the folder has pictures now (None: not at all), and those that were gone before they could be copied."""

    paths: Mapping[str, str | None]
    gone: tuple[str, ...] = ()


class FromPool:
    """Copies labelled pictures of a pool into the folder, each once, whatever is done again after a crash.

    `name` is the pool's: it stands in the column `frame` before the picture's path.
    """

    def __init__(self, folder: LabelledFolder, pool: Path, name: str):
        self._folder, self._pool, self._name = folder, pool, name

    def place(self, wanted: Mapping[str, Verdict | None], items: Mapping[str, Item]) -> Placed:
        """Bring the folder to what was decided on some pictures. Raises `OutputError` and `DataError`; what was done
        until then stays, and is found when it is done again.
        """
        there = {row.further[ORIGIN]: row for row in self._folder.rows() if row.further.get(ORIGIN)}
        paths: dict[str, str | None] = {}
        gone = []
        for item, verdict in wanted.items():
            row = there.get(origin(self._name, item))
            label = verdict.label if verdict is not None and verdict.kind == "label" else None
            if label is None:
                if row is not None:
                    self._folder.remove([row.path])
                paths[item] = None
            elif row is None:
                paths[item] = self._copy(item, label, items.get(item, Item(item)))
                if paths[item] is None:
                    gone.append(item)
            else:
                paths[item] = _path_after(self._folder, row, label)
        return Placed(paths, tuple(gone))

    def _copy(self, item: str, label: str, known: Item) -> str | None:
        try:
            content = read_bytes(self._pool / item)
        except OSError:
            return None
        source = known.source or self._name
        row = self._folder.add(
            content, label, source, known.group, time=known.time, suffix=PurePosixPath(item).suffix.lower() or ".jpg",
            further={ORIGIN: origin(self._name, item)}, as_is=True,
        )  # fmt: skip
        return row.path


class InPlace:
    """Gives images of the folder itself another label, or takes them out.

    Items are the paths at the beginning; `before` are their rows then, `placed` where they were last seen.
    """

    def __init__(self, folder: LabelledFolder, before: Mapping[str, Row], placed: Mapping[str, str | None]):
        self._folder, self._before, self._placed = folder, before, placed

    def place(self, wanted: Mapping[str, Verdict | None], items: Mapping[str, Item]) -> Placed:  # noqa: ARG002
        """See `FromPool.place`. Where a decision was taken back, or somebody does not know, the first label counts."""
        rows = {row.path: row for row in self._folder.rows()}
        paths: dict[str, str | None] = {}
        gone = []
        for item, verdict in wanted.items():
            before = self._before[item]
            label = verdict.label if verdict is not None and verdict.kind == "label" else before.label
            row = self._found(item, rows)
            if verdict is not None and verdict.kind == "reject":
                if row is not None:  # at its first place, where it is found again
                    self._folder.remove([_path_after(self._folder, row, before.label)])
                paths[item] = None
                continue
            if row is None and self._folder.undo(Change(((before, None),))):
                row = before
            paths[item] = None if row is None else _path_after(self._folder, row, label)
            if row is None:
                gone.append(item)
        return Placed(paths, tuple(gone))

    def _found(self, item: str, rows: Mapping[str, Row]) -> Row | None:
        """The row of an item: where it was last, at its first place, or moved by somebody who was killed then.

        The last is looked for only where time or series tell it from an image of that name in another class's folder.
        """
        before = self._before[item]
        for path in (self._placed.get(item) or item, item):
            if path in rows and _is_same(rows[path], before):
                return rows[path]
        if not (before.time or before.group):
            return None
        return next((row for row in rows.values() if row.path != item and _is_same(row, before)), None)


def _is_same(row: Row, before: Row) -> bool:
    """Whether a row is that of the same image, which may have moved to the folder of another class."""
    stem, stem_before = PurePosixPath(row.path).stem, PurePosixPath(before.path).stem
    if not (stem == stem_before or (stem.startswith(f"{stem_before}_") and stem[len(stem_before) + 1 :].isdecimal())):
        return False
    return (row.time, row.source, row.group) == (before.time, before.source, before.group)


def _path_after(folder: LabelledFolder, row: Row, label: str) -> str:
    change = folder.relabel([row.path], label, as_is=True)
    after = change.rows[0][1] if change.rows else row
    return row.path if after is None else after.path
