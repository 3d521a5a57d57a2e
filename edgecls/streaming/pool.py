"""A folder of pictures that wait for a human's look, with an index; never larger than it may be.

`CAMERA/TIME.jpg`, and a line for each in `pool.jsonl`, in the order in which they came. A line with `"removed": true`
takes a picture back that had to make room. Several processes may write to one pool; who looks at it may take pictures
away, and a line whose picture is gone means nothing.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgecls.errors import OutputError, UsageError
from edgecls.files import is_below, make_folder, safe_name, write_bytes, write_text, writing_to
from edgecls.streaming.redundancy import Kept, KeptPictures

INDEX_FILE = "pool.jsonl"
LOCK_FILE = ".lock"
SPARE_LINES = 1000
"""Lines of pictures that are gone, beyond those of pictures that are there, before the index is written anew."""
LOOKED_FOR = 64
"""Pictures that are looked for on the disk before one makes room, at least."""
BLOCK_BYTES = 4096
"""What a file occupies is a multiple of it."""


class Pool:
    """Pictures in a folder of `max_bytes` at most, pictures and index together. Safe to share between threads."""

    def __init__(self, folder: Path, max_bytes: int):
        if max_bytes < 1 << 20:
            raise UsageError(f"`keep_max_bytes` takes at least a megabyte, not {max_bytes} bytes")
        self.folder, self.max_bytes = folder, max_bytes
        self._index = folder / INDEX_FILE
        self._thread = threading.Lock()
        self._kept = KeptPictures()
        self._left_at: dict[str, int] = {}
        self._to_look_for: list[str] = []
        self._read_bytes = self._lines = self._inode = 0

    def open(self) -> None:
        """Make the folder, and see what is in it. Raises `OutputError` where it cannot be written to."""
        with self._locked():
            pass

    def add(self, camera: str, time: str, jpeg: bytes, row: dict[str, Any]) -> Path:
        """Keep a picture, taken at an ISO time, with what is known of it; returns its path.

        What is oldest among the most alike makes room: of the camera, reason and class with the most pictures; what a
        human called wrong goes last. Raises `OutputError`, as for a full disk, and leaves whole files only.
        """
        with self._locked():
            name = self._free_name(camera, time)
            line = json.dumps({"path": name, "time": time, "camera": camera, **row, "bytes": len(jpeg)})
            kept = _kept(line)
            self._make_room(kept.bytes + len(line))
            make_folder((self.folder / name).parent)
            write_bytes(self.folder / name, jpeg)
            try:
                self._append(line)
            except OSError:  # a picture that no line knows would never make room
                (self.folder / name).unlink(missing_ok=True)
                raise
            self._kept[name] = kept
            self._left_at = self._changed_at()
            return self.folder / name

    def rows(self) -> list[dict[str, Any]]:
        """The lines of the pictures that are there, oldest first."""
        with self._locked():
            return [json.loads(kept.line) for name, kept in self._kept.items() if (self.folder / name).exists()]

    @property
    def size_bytes(self) -> int:
        """What pictures and index occupy, as far as this process has seen."""
        return self._kept.bytes + self._read_bytes

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the folder, which is made anew where somebody took it away, and up to date with the index."""
        import fcntl

        with self._thread, writing_to(self.folder):
            make_folder(self.folder)
            handle = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                self._catch_up()
                yield
            finally:
                os.close(handle)

    def _catch_up(self) -> None:
        """Read what others wrote to the index, or all of it where it is not the one that was read."""
        try:
            found = self._index.stat()
        except FileNotFoundError:
            self._forget()
            return
        if found.st_ino != self._inode or found.st_size < self._read_bytes:
            self._forget()
            self._inode = found.st_ino
        if found.st_size == self._read_bytes:
            return
        with self._index.open("rb") as stream:
            stream.seek(self._read_bytes)
            content = stream.read()
        if not content.endswith(b"\n"):  # whoever wrote it was killed
            with self._index.open("ab") as stream:
                stream.write(b"\n")
            content += b"\n"
        self._read_bytes += len(content)
        for line in content.decode("utf-8", "replace").splitlines():
            self._take(line)

    def _take(self, line: str) -> None:
        self._lines += 1
        if (row := picture_in(line)) is None:
            return
        self._kept.pop(row["path"], None)
        if not row.get("removed") and row["path"].endswith(".jpg"):
            with suppress(ValueError, TypeError, AttributeError):  # somebody edited it
                self._kept[row["path"]] = _kept(line)

    def _forget(self) -> None:
        self._kept = KeptPictures()
        self._read_bytes = self._lines = self._inode = 0

    def _make_room(self, needed_bytes: int) -> None:
        if self.size_bytes + needed_bytes <= self.max_bytes:
            return
        self._forget_missing()
        if self._lines > 2 * len(self._kept) + SPARE_LINES or self._read_bytes > self.max_bytes // 4:
            self._rewrite()
        while self._kept and self.size_bytes + needed_bytes > self.max_bytes:
            name = self._kept.most_redundant()
            (self.folder / name).unlink(missing_ok=True)
            del self._kept[name]
            self._append(json.dumps({"path": name, "removed": True}))
        if self.size_bytes + needed_bytes > self.max_bytes:
            raise OutputError(f"{self.folder} may hold {self.max_bytes} bytes, too few for one picture")

    def _forget_missing(self) -> None:
        """Forget pictures that whoever looked at them took away.

        All are looked for where a folder was changed by somebody else since the last picture was added, and some in
        turn at any rate: what happens within one tick of the clock cannot be seen in a folder's time.
        """
        if not self._to_look_for:
            self._to_look_for = list(self._kept)
        some = self._to_look_for[-LOOKED_FOR:]
        del self._to_look_for[-LOOKED_FOR:]
        gone = any(name in self._kept and not (self.folder / name).exists() for name in some)
        if gone or self._changed_at() != self._left_at:
            for name in [name for name in self._kept if not (self.folder / name).exists()]:
                del self._kept[name]

    def _changed_at(self) -> dict[str, int]:
        """When each folder of pictures was changed, in nanoseconds."""
        changed_at = {}
        with os.scandir(self.folder) as entries:
            for folder in filter(os.DirEntry.is_dir, entries):
                with suppress(FileNotFoundError):
                    changed_at[folder.name] = folder.stat().st_mtime_ns
        return changed_at

    def _rewrite(self) -> None:
        """The index without lines of pictures that are gone."""
        write_text(self._index, "".join(f"{kept.line}\n" for kept in self._kept.values()))
        found = self._index.stat()
        self._inode, self._read_bytes, self._lines = found.st_ino, found.st_size, len(self._kept)

    def _append(self, line: str) -> None:
        content = line.encode() + b"\n"
        with self._index.open("ab") as stream:
            stream.write(content)
            stream.flush()
            self._inode = os.fstat(stream.fileno()).st_ino
        self._read_bytes += len(content)
        self._lines += 1

    def _free_name(self, camera: str, time: str) -> str:
        """A path in the folder that no picture has: `CAMERA/TIME.jpg`."""
        stem = f"{safe_name(camera)}/{time.partition('+')[0].replace('-', '').replace(':', '')}Z"
        name, count = f"{stem}.jpg", 1
        while name in self._kept or (self.folder / name).exists():
            count += 1
            name = f"{stem}-{count}.jpg"
        return name


def _kept(line: str) -> Kept:
    row = json.loads(line)
    occupied = -(-int(row.get("bytes", 0)) // BLOCK_BYTES) * BLOCK_BYTES
    group = (str(row.get("camera")), str((row.get("reasons") or [""])[0]), str(row.get("best")))
    return Kept(line, occupied, group, row.get("label") is not None or "wrong" in (row.get("reasons") or ()))


def picture_in(line: str) -> dict[str, Any] | None:
    """What a line of an index says of the picture at its `path` in the pool's folder; None for half a line, and for
    one that leads out of the folder.
    """
    try:
        row = json.loads(line)
    except ValueError:
        return None
    path = row.get("path") if isinstance(row, dict) else None
    return row if isinstance(path, str) and is_below(path) else None
