"""What is made once on a machine and kept outside of every artifact: compiled graphs, and who gave right answers here.

Everything in it can be made again: it may be deleted at any time, and what is damaged is never used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgecls.errors import OutputError, UsageError
from edgecls.files import make_folder, write_bytes, writing_to

VARIABLE, SIZE_VARIABLE = "EDGECLS_CACHE", "EDGECLS_CACHE_MIB"
OFF = "off"
"""What EDGECLS_CACHE says where nothing is to be kept."""
DEFAULT_MIB = 1024
LARGEST_SHARE = 0.5
"""Of all that may be kept, for one entry: a larger one would push out the others."""
USED_AGAIN_S = 3600.0
"""How old the note of an entry's last use may be; writing it at each start would wear out flash memory."""
ABANDONED_S = 86_400.0
"""How old a temporary file is that a killed process left behind."""
_DIGEST_BYTES = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Entry:
    """One thing that is kept, named by its kind and a digest of all that it depends on.

    Reading and writing never fail: a cache that cannot be used is none.
    """

    kind: str
    key: str

    @classmethod
    def of(cls, kind: str, *depends_on: object) -> Entry:
        """The entry for what `depends_on` these values, each of which must say itself fully as text."""
        text = "\0".join(map(str, depends_on))
        return cls(kind, hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32])

    def read(self) -> bytes | None:
        """What is kept, or None; what is damaged is deleted."""
        if (path := self._path) is None:
            return None
        try:
            stored = path.read_bytes()
        except OSError:
            return None
        content = stored[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != stored[:_DIGEST_BYTES]:
            self.discard()
            return None
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > USED_AGAIN_S:
                os.utime(path)
        return content

    def write(self, content: bytes) -> None:
        """Keep this; the entries that were not used for longest go where there is no room."""
        path, limit = self._path, limit_bytes()
        if path is None or len(content) > LARGEST_SHARE * limit:
            return
        with contextlib.suppress(OutputError, OSError):
            make_folder(path.parent)
            write_bytes(path, hashlib.sha256(content).digest() + content)
            _make_room(limit)

    def discard(self) -> None:
        """Forget it."""
        if (path := self._path) is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    @property
    def _path(self) -> Path | None:
        root = folder()
        return root / self.kind / self.key if root else None


def folder() -> Path | None:
    """Where everything is kept: EDGECLS_CACHE, or `edgecls` in the user's folder of caches; None where nothing is."""
    if (told := os.environ.get(VARIABLE)) == OFF:
        return None
    if told:
        return Path(told)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgecls"
    except RuntimeError:  # a user without a home
        return None


def limit_bytes() -> int:
    """How much may be kept. Raises `UsageError` where EDGECLS_CACHE_MIB is no number."""
    told = os.environ.get(SIZE_VARIABLE, "")
    if told and not (told.isascii() and told.isdecimal()):
        raise UsageError(f"{SIZE_VARIABLE} is a number of MiB, not {told[:40]!r}")
    return int(told or DEFAULT_MIB) << 20


def sizes_bytes() -> dict[str, tuple[int, int]]:
    """Number of entries and their bytes, by kind."""
    sizes: dict[str, tuple[int, int]] = {}
    for path, status in _entries():
        count, size = sizes.get(path.parent.name, (0, 0))
        sizes[path.parent.name] = count + 1, size + status.st_size
    return dict(sorted(sizes.items()))


def clear() -> None:
    """Delete all entries. Raises `OutputError` where one cannot be deleted."""
    for path, _ in _entries():
        with writing_to(path):
            path.unlink(missing_ok=True)


def _entries() -> Iterator[tuple[Path, os.stat_result]]:
    """Every entry; files of others that stand in the folder are left out."""
    root = folder()
    for path in sorted(root.glob("*/*")) if root else ():
        if len(path.name) == 32 and set(path.name) <= set("0123456789abcdef"):
            with contextlib.suppress(OSError):
                yield path, path.stat()


def _make_room(limit: int) -> None:
    """Delete the entries that were not used for longest until the rest fits, and what killed processes left behind."""
    entries = sorted(_entries(), key=lambda entry: entry[1].st_mtime)
    held = sum(status.st_size for _, status in entries)
    for path, status in entries:
        if held <= limit:
            break
        path.unlink(missing_ok=True)
        held -= status.st_size
    for path in folder_of_all.glob("*/.*") if (folder_of_all := folder()) else ():
        if time.time() - path.stat().st_mtime > ABANDONED_S:
            path.unlink(missing_ok=True)
