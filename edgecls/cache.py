"""What is made once on a machine and kept outside of every artifact: compiled graphs, and who gave right answers here.

Everything in it can be made again: it may be deleted at any time, and what is damaged is never used. What is in it is
trusted, so it lies in a folder that nobody else can write to.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgecls.errors import OutputError, UsageError
from edgecls.files import make_folder, read_bytes, write_bytes, writing_to

VARIABLE, SIZE_VARIABLE = "EDGECLS_CACHE", "EDGECLS_CACHE_MIB"
OFF = "off"
"""What EDGECLS_CACHE says where nothing is to be kept."""
SUBFOLDER = "kept"
"""Of the folder that is named: other files may stand in that one."""
DEFAULT_MIB = 1024
LARGEST_SHARE = 0.5
"""Of all that may be kept, for one entry: a larger one would push out the others."""
USED_AGAIN_S = 3600.0
"""How old the note of an entry's last use may be; writing it at each start would wear out flash memory."""
ABANDONED_S = 86_400.0
"""How old a temporary file is that a killed process left behind."""
_DIGEST_BYTES = hashlib.sha256().digest_size
_NAME = re.compile(r"[0-9a-f]{32}\.bin")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.bin\..+")


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
            stored = read_bytes(path)
        except (OSError, ValueError):
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
        path = self._path
        if path is None or not keeps(len(content)):
            return
        with contextlib.suppress(OutputError, OSError):
            make_folder(path.parent)
            write_bytes(path, hashlib.sha256(content).digest() + content)
            _make_room(limit_bytes())

    def discard(self) -> None:
        """Forget it."""
        if (path := self._path) is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    @property
    def _path(self) -> Path | None:
        root = _root()
        return root / self.kind / f"{self.key}.bin" if root else None


def folder() -> Path | None:
    """What EDGECLS_CACHE names, or `edgecls` in the user's folder of caches; None where nothing is to be kept."""
    if (named := os.environ.get(VARIABLE)) == OFF:
        return None
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if named:
            return Path(named).expanduser()
        return (caches if caches.is_absolute() else Path.home() / ".cache") / "edgecls"
    except RuntimeError:  # a user without a home
        return None


def problem() -> str | None:
    """Why nothing can be kept, in words; None where it can."""
    if (named := folder()) is None:
        return f"{VARIABLE} is {OFF}" if os.environ.get(VARIABLE) == OFF else "there is no home folder"
    if _root() is not None:
        return None
    root = named / SUBFOLDER
    return f"others can write to {root}" if os.access(root, os.W_OK) else f"{root} cannot be written"


def keeps(size_bytes: int) -> bool:
    """Whether something of this size would be kept."""
    try:
        return size_bytes <= LARGEST_SHARE * limit_bytes() and _root() is not None
    except UsageError:
        return False


def limit_bytes() -> int:
    """How much may be kept. Raises `UsageError` where EDGECLS_CACHE_MIB is no number."""
    named = os.environ.get(SIZE_VARIABLE, "")
    if named and not (named.isascii() and named.isdecimal()):
        raise UsageError(f"{SIZE_VARIABLE} is a number of MiB, not {named[:40]!r}")
    return int(named or DEFAULT_MIB) << 20


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


def _root() -> Path | None:
    """The folder of all entries, made if need be; None where it cannot be written or is not this user's alone."""
    if (named := folder()) is None:
        return None
    root = named / SUBFOLDER
    try:
        if not root.is_dir():
            make_folder(named)
            root.mkdir(mode=0o700, exist_ok=True)
        status = root.stat()
    except (OSError, OutputError):
        return None
    private = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return root if private and os.access(root, os.W_OK) else None


def _entries() -> Iterator[tuple[Path, os.stat_result]]:
    for path in _files(_NAME):
        with contextlib.suppress(OSError):
            yield path, path.stat()


def _files(name: re.Pattern[str]) -> list[Path]:
    """The files of such names, in order; those of others are left out."""
    root = _root()
    return sorted(path for path in (root.glob("*/*") if root else ()) if name.fullmatch(path.name))


def _make_room(limit: int) -> None:
    """Delete the entries that were not used for longest until the rest fits, and what killed processes left behind."""
    entries = sorted(_entries(), key=lambda entry: entry[1].st_mtime)
    held = sum(status.st_size for _, status in entries)
    for path, status in entries:
        if held <= limit:
            break
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        held -= status.st_size
    for path in _files(_TEMPORARY):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()
