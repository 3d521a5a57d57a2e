"""What was seen of each image of a data set, in one SQLite file.

An interrupted check goes on from it, a later one decodes only what changed, and what is compared rarely (small copies)
need not lie in memory. A file, its size and the time of its last change stand for its content.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgecls.concurrency import chunked
from edgecls.errors import DataError, OutputError
from edgecls.files import make_folder, shortened
from edgecls.imaging.small import SMALL_PX

if TYPE_CHECKING:
    from numpy import int64, uint8
    from numpy.typing import NDArray

APPLICATION_ID = 0x65646763
VERSION = 1
COMMIT_S = 1.0
"""What was seen in this time at most is seen again after a kill."""
AT_ONCE = 500
"""Values in one query; 999 are allowed where SQLite is old."""
ROWS_AT_ONCE = 10_000
_SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
    "CREATE TABLE source (location BLOB NOT NULL)",
    "CREATE TABLE image (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, size_bytes INTEGER NOT NULL, "
    "mtime_ns INTEGER NOT NULL, height_px INTEGER NOT NULL, width_px INTEGER NOT NULL, sha256 BLOB NOT NULL, "
    "modes TEXT NOT NULL, hash BLOB NOT NULL, error TEXT NOT NULL)",
    "CREATE TABLE small (id INTEGER PRIMARY KEY, grey BLOB NOT NULL)",
)
"""The small copies stand apart: reading the rest does not pass over them."""
_FULL = ("database or disk is full", "disk I/O error", "attempt to write a readonly database")


class Seen(NamedTuple):
    """What was seen of an image: its file's size and time, its own size, what is unusual in how it is stored, its
    perceptual hash, and why it cannot be read where `error` is not empty; the rest is then without meaning.
    """

    size_bytes: int
    mtime_ns: int
    height_px: int = 0
    width_px: int = 0
    sha256: bytes = b""
    modes: tuple[str, ...] = ()
    hash: int = 0
    error: str = ""


class Record:
    """The images by their keys. Its methods raise `DataError` for a damaged file and `OutputError` for a full disk."""

    def __init__(self, connection: sqlite3.Connection, name: str):
        self._connection, self._name = connection, name
        self._committed = time.monotonic()

    def known(self, keys: Sequence[str]) -> dict[str, tuple[int, Seen]]:
        """Of those of at most `AT_ONCE` keys that are in it: the number of the row, and what was seen."""
        query = f"SELECT * FROM image WHERE key IN ({','.join('?' * len(keys))})"
        with _refusing(self._name):
            rows = self._connection.execute(query, [_stored(key) for key in keys]).fetchall()
            return {bytes(key).decode(errors="surrogateescape"): (row, _seen(values)) for row, key, *values in rows}

    def keep(self, key: str, seen: Seen, small: bytes, row: int | None = None) -> int:
        """Keep what was seen, in place of what is known in this row; returns the number of the row."""
        figures = seen.size_bytes, seen.mtime_ns, seen.height_px, seen.width_px
        look = seen.sha256, ",".join(seen.modes), seen.hash.to_bytes(8, "big"), seen.error
        with _refusing(self._name):
            values = (row, _stored(key), *figures, *look)
            done = self._connection.execute("INSERT OR REPLACE INTO image VALUES (?,?,?,?,?,?,?,?,?,?)", values)
            row = done.lastrowid or 0
            self._connection.execute("INSERT OR REPLACE INTO small VALUES (?,?)", (row, small))
            if time.monotonic() - self._committed > COMMIT_S:
                self.commit()
        return row

    def keep_only(self, rows: NDArray[int64]) -> None:
        """Forget all other rows."""
        import numpy as np

        rows, last = np.sort(rows), -1
        with _refusing(self._name):
            while True:
                query = f"SELECT id FROM image WHERE id > ? ORDER BY id LIMIT {ROWS_AT_ONCE}"
                there = np.array(self._connection.execute(query, (last,)).fetchall(), np.int64).ravel()
                if not len(there):
                    break
                gone = [(row,) for row in np.setdiff1d(there, rows, assume_unique=True).tolist()]
                for table in ("image", "small"):
                    self._connection.executemany(f"DELETE FROM {table} WHERE id = ?", gone)
                last = int(there[-1])
            self.commit()

    def copies(self, rows: NDArray[int64]) -> NDArray[uint8]:
        """The grey copies (M, 1024) of these rows (M,)."""
        import numpy as np

        result = np.empty((len(rows), SMALL_PX**2), np.uint8)
        with _refusing(self._name):
            for chunk in chunked(enumerate(rows.tolist()), AT_ONCE):
                places = {row: place for place, row in chunk}
                query = f"SELECT id, grey FROM small WHERE id IN ({','.join('?' * len(places))})"
                for row, grey in self._connection.execute(query, list(places)):
                    result[places.pop(row)] = np.frombuffer(grey, np.uint8)
                if places:
                    raise ValueError(f"{len(places)} small copies are missing")
        return result

    def commit(self) -> None:
        """Make what was kept so far last."""
        with _refusing(self._name):
            self._connection.execute("COMMIT")
            self._connection.execute("BEGIN")
        self._committed = time.monotonic()


@contextmanager
def open_record(file: Path | None, location: str) -> Iterator[Record]:
    """Open the record of the images at a location; a new one where there is none, and for None a temporary one.

    What was kept lasts, also where the block ends in an error. Raises `DataError` for a file that is damaged, of
    another version, something else, another data set's, or in use.
    """
    name = shortened(file) if file else "the temporary record"
    if file:
        make_folder(file.parent)
    with _refusing(name):
        # Without a name SQLite makes a temporary database, in memory while it is small.
        connection = sqlite3.connect(str(file) if file else "", isolation_level=None, timeout=0)
    try:
        with _refusing(name):
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            _require_ours(connection, name, location)
            connection.execute("COMMIT")
            connection.execute("BEGIN")
        record = Record(connection, name)
        try:
            yield record
        finally:
            record.commit()
    finally:
        connection.close()


def _require_ours(connection: sqlite3.Connection, name: str, location: str) -> None:
    connection.execute("BEGIN EXCLUSIVE")
    application, version, tables = (
        connection.execute(query).fetchone()[0]
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    if not application and not tables:
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO source VALUES (?)", (_stored(location),))
    elif application != APPLICATION_ID:
        raise DataError(f"{name} is no record of a check; give another `record`")
    elif version != VERSION:
        raise DataError(
            f"{name} is a record of version {version}, and this edgecls writes version {VERSION}; remove it"
        )
    elif (other := bytes(connection.execute("SELECT location FROM source").fetchone()[0])) != _stored(location):
        where = shortened(other.decode(errors="surrogateescape"))
        raise DataError(f"{name} is the record of {where}; give another `record`, or remove it")


def _seen(values: Sequence[Any]) -> Seen:
    size, mtime, height, width, digest, modes, look, error = values
    names = tuple(filter(None, modes.split(",")))
    return Seen(int(size), int(mtime), height, width, bytes(digest), names, int.from_bytes(look, "big"), error)


def _stored(text: str) -> bytes:
    """A name that need not be UTF-8."""
    return text.encode(errors="surrogateescape")


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turn what SQLite says into an error that names the file."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if str(error) in _FULL or "unable to open" in str(error):
            raise OutputError(f"cannot write {name}: {error}; choose another `record`") from error
        if "locked" in str(error):
            raise DataError(f"{name} is in use by another check; wait for it, or give another `record`") from error
        raise _damaged(name, error) from error
    except (sqlite3.Error, ValueError, TypeError, OverflowError, AttributeError) as error:
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> DataError:
    return DataError(f"{name} is no record of a check, or damaged ({error}); remove it, or give another `record`")
