"""Files and folders that are either whole or not there at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgecls.errors import OutputError, UsageError

_DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""What the operating system says while a file is being written, as opposed to while one is being read."""


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def writing_to(place: Path) -> Iterator[None]:
    """Turn the operating system's refusals (read-only, full, not a folder) into an `OutputError` that names `place`."""
    try:
        yield
    except OSError as error:
        raise _refused(place, error) from error


@contextlib.contextmanager
def _full_disk_at(place: Path) -> Iterator[None]:
    """Turn trouble with the disk into an `OutputError`; other errors of what is done meanwhile are somebody else's."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_TROUBLE:
            raise
        raise _refused(place, error) from error


def _refused(place: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {place}: {reason}; choose another place, or free this one")


def make_folder(place: Path) -> Path:
    """Create `place` and its parents; return it. Raises `OutputError` where that is not possible."""
    with writing_to(place):
        place.mkdir(parents=True, exist_ok=True)
    return place


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file so that a reader sees the old content or the new one, never half of it."""
    with writing_to(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def new_file(place: Path) -> Iterator[Path]:
    """Yield a temporary file's path beside `place`; the file takes the name `place` when the block ends well.

    On any error, Ctrl-C included, nothing is left and what stood at `place` stays.
    """
    make_folder(place.parent)
    with writing_to(place):
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.stem}.", suffix=place.suffix)
        os.close(handle)
    temporary = Path(name)
    try:
        temporary.chmod(0o644)
        with _full_disk_at(place):
            yield temporary
        with writing_to(place):
            temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)


def parse_toml(text: str, origin: str) -> dict[str, Any]:
    """The values in a TOML text; `origin` names it in the `UsageError` for one that is none."""
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{origin} is not valid TOML: {error}") from error


@contextlib.contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `place`; it takes the name `place` when the block ends well.

    A folder that already stands at `place` is replaced only then. On any error, Ctrl-C included, nothing is left.
    """
    make_folder(place.parent)
    with writing_to(place):
        temporary = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
        temporary.chmod(0o755)
    try:
        with _full_disk_at(place):
            yield temporary
        with writing_to(place):
            _replace_folder(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(new: Path, place: Path) -> None:
    if not place.exists():
        new.rename(place)
        return
    old = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.old."))
    place.rename(old / place.name)
    try:
        new.rename(place)
    except OSError:
        (old / place.name).rename(place)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
