"""The list of labelled images, `data.csv`, in memory: its rows, and which split a new series belongs to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgecls.errors import DataError
from edgecls.rows import csv_records, csv_text, table_text

COLUMNS = ("path", "label", "split", "source", "time", "group")
SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}
"""Of the images of each class."""
NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Row:
    """One labelled image: its path below the folder, with /, and what is known of it.

    `time` is ISO 8601 in UTC; images of one `group` (a series) belong to one split. `further` holds columns that are
    not ours.
    """

    path: str
    label: str
    split: str = ""
    source: str = ""
    time: str = ""
    group: str = ""
    further: Mapping[str, str] = field(default_factory=lambda: NONE)

    @property
    def others(self) -> dict[str, str]:
        """What is known of the image besides label and split, by column; without what is empty."""
        known = {"source": self.source, "time": self.time, "group": self.group, **self.further}
        return {name: value for name, value in known.items() if value}

    def values(self, header: Iterable[str]) -> list[str]:
        """The values in the order of a header."""
        return [getattr(self, name) if name in COLUMNS else self.further.get(name, "") for name in header]


@dataclass
class Table:
    """Rows by path, in their order, and the columns as they stand in the file.

    `torn` says that the last line was left out because its writer did not come to its end.
    """

    header: tuple[str, ...] = COLUMNS
    rows: dict[str, Row] = field(default_factory=dict)
    torn: bool = False
    counts: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    series: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    _split_of: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Table:
        """The table in a CSV file. Raises `DataError` with the line."""
        return cls.parse(table_text(file), file)

    @classmethod
    def parse(cls, text: str, file: Path) -> Table:
        """The table in the text of a file. Raises `DataError` with the line."""
        records = [*csv_records(text, file)]
        if not records:
            return cls(torn=bool(text))
        header = tuple(name.strip().lower() for name in records[0][1])
        whole = text.endswith(("\n", "\r"))
        if not {"path", "label"} <= set(header):
            if not whole and len(records) == 1:  # not even the header came to its end
                return cls(torn=True)
            raise DataError(f"{file}, line 1: the columns must be named, path and label among them")
        table = cls(header)
        if not whole and (len(records[-1][1]) < len(header) or "\0" in "".join(records[-1][1])):
            table.torn = True
            records.pop()
        table.take_in(records[1:], file)
        return table

    def take_in(self, records: Iterable[tuple[int, list[str]]], file: Path) -> None:
        """Add the rows in records of the file, given with their lines. Raises `DataError` with the line."""
        own = [(name, self.header.index(name) if name in self.header else -1) for name in COLUMNS]
        further = [(name, at) for at, name in enumerate(self.header) if name not in COLUMNS]
        for number, values in records:
            values = [*values[: len(self.header)], *[""] * (len(self.header) + 1 - len(values))]  # -1 is an empty one
            ours = {name: values[at] for name, at in own}
            row = Row(**ours, further={name: values[at] for name, at in further} if further else NONE)
            if not row.path or not row.label.strip():
                raise DataError(f"{file}, line {number}: no {'label' if row.path else 'path'}; each line needs both")
            if row.path in self.rows:
                raise DataError(f"{file}, line {number}: {row.path} stands there twice")
            self.add(row)

    @property
    def complete(self) -> bool:
        """Whether a line can be added to the file as it is: nothing is torn, and no column of ours is missing."""
        return not self.torn and set(COLUMNS) <= set(self.header)

    def complete_header(self, rows: Iterable[Row] = ()) -> None:
        """Take in the columns of ours that are missing, and those that only these rows have."""
        wanted = dict.fromkeys((*COLUMNS, *(name for row in rows for name in row.further)))
        self.header = (*self.header, *(name for name in wanted if name not in self.header))

    def text(self) -> str:
        """The whole as CSV."""
        return csv_text([self.header, *(row.values(self.header) for row in self.rows.values())])

    def add(self, row: Row) -> None:
        """One row more, at the end."""
        self.rows[row.path] = row
        self._count(row, 1)

    def put(self, changes: Mapping[str, Row | None]) -> None:
        """Other rows, or none, in the places of those at these paths; rows at paths that are not there come last."""
        old, self.rows = self.rows, {}
        for path, row in old.items():
            if path not in changes:
                self.rows[path] = row
                continue
            self._count(row, -1)
            if (new := changes[path]) is not None:
                self.add(new)
        for path, new in changes.items():
            if path not in old and new is not None:
                self.add(new)

    def _count(self, row: Row, by: int) -> None:
        self.counts[row.label][row.split or "train"] += by
        self.series[row.label][row.group or row.path] += by
        if row.group and by > 0:
            self._split_of.setdefault(row.group, row.split)

    def split_for(self, label: str, group: str) -> str:
        """The split of a new image: its series', or, for a new series, the one that lacks most of `SHARES`.

        The first three series of a class go to one split each.
        """
        if known := self._split_of.get(group):
            return known
        counts = self.counts[label]
        if empty := [split for split in SHARES if counts[split] <= 0]:
            return empty[0]
        total = sum(counts.values()) + 1
        return max(SHARES, key=lambda split: SHARES[split] * total - counts[split])
