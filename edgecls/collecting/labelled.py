"""A folder of labelled images that grows: images in folders by label, and `data.csv` that says what each one is.

An image is whole before its row is written; a row goes before its image does. So every row has its image, whatever
fails in between, and an image without a row is one that somebody did not come to the end with.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import chain, count, takewhile
from pathlib import Path, PurePosixPath

from edgecls.collecting.labels import file_part, folder_name
from edgecls.collecting.table import Row, Table
from edgecls.errors import DataError
from edgecls.files import is_below, make_folder, printable, read_bytes, take_name, write_bytes, write_text, writing_to
from edgecls.imaging.decode import find_images
from edgecls.imaging.folders import DATA_FILE
from edgecls.labels import clean_label
from edgecls.rows import csv_records, csv_text, table_text

LOCK_FILE = ".data.lock"
REMOVED_FOLDER = ".removed"


@dataclass(frozen=True)
class Change:
    """What was done: each row before and after; None where there was, or is, none."""

    rows: tuple[tuple[Row | None, Row | None], ...]


@dataclass(frozen=True)
class Counts:
    """The images of one class: how many in each split, and in how many series."""

    splits: Mapping[str, int]
    series: int

    @property
    def images(self) -> int:
        """All of them."""
        return sum(self.splits.values())


def read_labelled(root: Path) -> tuple[list[Row], list[str]]:
    """The rows of a folder of labelled images, and the paths of images in its folders that have none.

    Nothing is locked and nothing mended: a line that is just being written is left out. Raises `DataError`.
    """
    table = Table.read(root / DATA_FILE)
    return [*table.rows.values()], unlisted(root, table.rows)


def unlisted(root: Path, listed: Iterable[str]) -> list[str]:
    """Paths of the images below the folders in `root` that are not listed."""
    known = set(listed)
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = (str(PurePosixPath(path.relative_to(root))) for folder in folders for path in find_images(folder))
    return [path for path in found if path not in known]


class LabelledFolder:
    """A folder of labelled images, for any number of threads and processes at once.

    Each call sees what the others have done. Those that change something are done whole or not at all, and raise
    `OutputError` where the disk refuses, `DataError` where `data.csv` was edited into something else.
    """

    def __init__(self, root: Path):
        self.root = root
        self.file = root / DATA_FILE
        self._kept: tuple[tuple[int, int, int], Table, bytearray] | None = None
        """The file's number, size and time as it was read, the table, and the content."""
        self._sized: set[str] = set()
        self._by_size: defaultdict[int, list[str]] = defaultdict(list)
        """The listed images by the size of their files, in bytes."""

    def rows(self) -> list[Row]:
        """All rows, in their order."""
        with self._locked() as table:
            return [*table.rows.values()]

    def row_of(self, content: bytes) -> Row | None:
        """The row of an image that is this very file; None where there is none."""
        with self._locked() as table:
            for path in takewhile(lambda path: path not in self._sized, reversed(table.rows)):
                self._sized.add(path)
                with suppress(OSError):
                    self._by_size[(self.root / path).stat().st_size].append(path)
            for path in self._by_size.get(len(content), ()):
                with suppress(OSError):
                    if path in table.rows and (self.root / path).read_bytes() == content:
                        return table.rows[path]
        return None

    def counts(self) -> dict[str, Counts]:
        """The images of each class that has some, by label."""
        with self._locked() as table:
            return {
                label: Counts(dict(splits), sum(images > 0 for images in table.series[label].values()))
                for label, splits in table.counts.items()
                if sum(splits.values()) > 0
            }

    def add(
        self,
        content: bytes,
        label: str,
        source: str,
        group: str | None = None,
        *,
        time: datetime | None = None,
        suffix: str = ".jpg",
        further: Mapping[str, str] | None = None,
        as_is: bool = False,
    ) -> Row:
        """Add an encoded image; returns its row. Without a `group` it begins one, which is called as its file.

        Raises `UsageError` for a label that nobody can read, unless it is one to be taken `as_is`.
        """
        label = label if as_is else clean_label(label)
        time = (time or datetime.now(timezone.utc)).astimezone(timezone.utc)
        stem = f"{time.strftime('%Y%m%dT%H%M%S')}{time.microsecond // 1000:03d}_{file_part(source)}"
        with self._locked() as table:
            path = self._free(table, _numbered(folder_name(label), stem, suffix))
            group = group or PurePosixPath(path).stem
            taken = time.isoformat(timespec="milliseconds")
            row = Row(path, label, table.split_for(label, group), source, taken, group, further or {})
            make_folder((self.root / path).parent)
            write_bytes(self.root / path, content)
            try:
                self._append(table, row)
            except BaseException:
                (self.root / path).unlink(missing_ok=True)
                raise
        return row

    def relabel(self, paths: Iterable[str], label: str, *, as_is: bool = False) -> Change:
        """Give images another label; those in folders of their label move to the new one. Paths unknown are passed.

        Their splits stay, as the rest of their series is there. Labels are those of `add`.
        """
        label = label if as_is else clean_label(label)
        changes: dict[str, Row | None] = {}
        with self._locked() as table:
            for row in self._named(table, paths):
                if row.label == label:
                    continue
                path = row.path
                old = PurePosixPath(path)
                if str(old.parent) == folder_name(row.label) and (self.root / path).is_file():
                    folder = folder_name(label)
                    paths_then = chain([f"{folder}/{old.name}"], _numbered(folder, old.stem, old.suffix))
                    path = self._free(table, paths_then, {new.path for new in changes.values() if new is not None})
                changes[row.path] = replace(row, path=path, label=label)
            return self._apply(table, changes)

    def remove(self, paths: Iterable[str]) -> Change:
        """Take images out; their files are kept in `.removed`. Paths that are not listed are passed."""
        with self._locked() as table:
            return self._apply(table, {row.path: None for row in self._named(table, paths)})

    def undo(self, change: Change) -> int:
        """Take a change back; returns the number of images. What somebody has changed again since then stays as it is.

        Images that the change added are deleted; those that it took out come back where their file is there yet.
        """
        changes: dict[str, Row | None] = {}
        restored: dict[str, str] = {}
        deleted = []
        with self._locked() as table:
            for before, after in change.rows:
                if after is not None and table.rows.get(after.path) == after:
                    if before is not None and before.path != after.path and (self.root / before.path).exists():
                        continue
                    changes[after.path] = before
                    if before is None:
                        deleted.append(after.path)
                elif after is None and before is not None and before.path not in table.rows:
                    kept = f"{REMOVED_FOLDER}/{before.path}"
                    is_kept = is_below(before.path) and (self.root / kept).is_file()
                    if is_kept == (self.root / before.path).exists():
                        continue  # there is no file, or one that somebody else put there
                    changes[before.path] = before
                    if is_kept:
                        restored[before.path] = kept
            self._apply(table, changes, restored, deleted)
        return len(changes)

    # ── how it is done ──────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _locked(self) -> Iterator[Table]:
        """The table as it is on the disk now, which nobody else changes until the block ends."""
        make_folder(self.root)
        with writing_to(self.root / LOCK_FILE):
            handle = os.open(self.root / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with writing_to(self.root / LOCK_FILE):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield self._current()
        finally:
            os.close(handle)

    def _current(self) -> Table:
        state = self._state()
        if state is None:
            self._kept = None
            return Table()
        if self._kept is None or self._kept[0] != state:
            self._kept = self._read(state)
        return self._kept[1]

    def _read(self, state: tuple[int, int, int]) -> tuple[tuple[int, int, int], Table, bytearray]:
        """The file as it is now; of one that has only grown, the new lines alone are looked at."""
        text = table_text(self.file)
        content = bytearray(text, "utf-8")
        if self._kept is not None:
            _, table, before = self._kept
            if table.complete and before.endswith(b"\n") and content.startswith(before) and content.endswith(b"\n"):
                self._kept = None  # until the rest is taken in
                table.take_in(csv_records(content[len(before) :].decode(), self.file), self.file)
                return state, table, content
        return state, Table.parse(text, self.file), content

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = self.file.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _keep(self, table: Table, content: bytearray) -> None:
        state = self._state()
        self._kept = None if state is None else (state, table, content)

    def _named(self, table: Table, paths: Iterable[str]) -> list[Row]:
        return [table.rows[path] for path in dict.fromkeys(paths) if path in table.rows]

    def _free(self, table: Table, paths: Iterable[str], taken: Collection[str] = ()) -> str:
        """The first of these paths that neither a row nor a file has."""
        return next(
            path for path in paths if path not in table.rows and path not in taken and not (self.root / path).exists()
        )

    def _append(self, table: Table, row: Row) -> None:
        """Add one line to the file; on an error what stood there stands there again."""
        if not self.file.exists() or not table.complete or not set(row.further) <= set(table.header):
            self._rewrite(table, {row.path: row})
            return
        line = csv_text([row.values(table.header)]).encode()
        with writing_to(self.file):
            handle = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            try:
                size = os.fstat(handle).st_size
                if size and os.pread(handle, 1, size - 1) not in (b"\n", b"\r"):
                    line = b"\n" + line  # somebody's editor left the last line without its end
                try:
                    if os.write(handle, line) < len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(handle)
                except BaseException:
                    os.ftruncate(handle, size)
                    raise
            finally:
                os.close(handle)
        table.add(row)
        if self._kept is not None:
            self._kept[2].extend(line)
            self._keep(table, self._kept[2])

    def _rewrite(self, table: Table, changes: Mapping[str, Row | None]) -> None:
        """Write the file anew, whole or not at all."""
        self._kept = None  # what is in memory changes before the file does
        table.complete_header(row for row in changes.values() if row is not None)
        table.put(changes)
        table.torn = False
        text = table.text()
        write_text(self.file, text)
        self._keep(table, bytearray(text, "utf-8"))

    def _apply(
        self,
        table: Table,
        changes: Mapping[str, Row | None],
        restored: Mapping[str, str] | None = None,
        deleted: Iterable[str] = (),
    ) -> Change:
        """Change rows and move their images: copies first, then the rows, then what is no longer needed.

        `restored` says where images of paths that are not listed come from; images of rows that go are kept in
        `.removed` unless they are among `deleted`.
        """
        pairs = tuple((table.rows.get(path), row) for path, row in changes.items())
        if not changes:
            return Change(())
        origins = {row.path: path for path, row in changes.items() if row is not None and row.path != path} | dict(
            restored or {}
        )
        copied: list[Path] = []
        try:
            for path, origin in origins.items():
                target = self.root / path
                if (self.root / origin).is_file():
                    make_folder(target.parent)
                    copied.append(target)
                    write_bytes(target, _content(self.root / origin))
            self._rewrite(table, changes)
        except BaseException:
            for copy in copied:
                copy.unlink(missing_ok=True)
            raise
        for origin in (*origins.values(), *deleted):
            with writing_to(self.root / origin):
                (self.root / origin).unlink(missing_ok=True)
        for gone in (path for path, row in changes.items() if row is None and is_below(path)):
            if not (self.root / gone).is_file():
                continue
            kept = self.root / REMOVED_FOLDER / gone
            make_folder(kept.parent)
            take_name(self.root / gone, kept)
        return Change(pairs)


def _content(image: Path) -> bytes:
    try:
        return read_bytes(image)
    except OSError as error:
        raise DataError(f"{printable(image)} cannot be read: {error.strerror}") from error


def _numbered(folder: str, stem: str, suffix: str) -> Iterator[str]:
    return (f"{folder}/{stem}_{number}{suffix}" for number in count())
