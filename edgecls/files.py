"""Files and folders that are either whole or not there at all, and reading that ends.

Everything that edgecls keeps is made here: write, flush, fsync, rename, fsync of the folder. After a power cut the old
content stands there or the new one. What is not a regular file (a device, a pipe) is written through and never renamed
over. Everything that a user names is read here: regular files only, up to a limit.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from edgecls.errors import OutputError, UsageError

MAX_TEXT_BYTES = 64 << 20
"""More than this no list, manifest, configuration or card holds."""
MAX_BYTES = 1 << 30
"""More than this no image holds."""
SHOWN_LETTERS = 200
LONG_NAME_BYTES = 200
"""File systems take 255; a temporary name is some letters longer than the one that it will get."""
_DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""What the operating system says while a file is being written, as opposed to while one is being read."""
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES}
"""What file systems say that cannot sync a folder; network shares are some."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


# ── paths ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def printable(text: str | os.PathLike[str]) -> str:
    """A name as it may stand in a line: newlines, control characters and what is not UTF-8 are escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in os.fspath(text))


def shortened(path: str | os.PathLike[str]) -> str:
    """A path as it may stand in a message: printable, and its middle left out where it is long."""
    text, half = printable(path), SHOWN_LETTERS // 2
    return text if len(text) <= SHOWN_LETTERS else f"{text[:half]}…{text[-half:]}"


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with `~` and `~user` in front replaced by the home folder. Raises `UsageError` where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        who = os.fspath(path).partition("/")[0]
        reason = "HOME is not set" if who == "~" else f"there is no user {shortened(who[1:])}"
        raise UsageError(f"no home folder for {shortened(path)}: {reason}; give the path in full") from error


def path_error(error: Exception) -> str | None:
    """What to tell about an error that the operating system, or Python before it, raised over a path; or None.

    For errors that nobody expected where they arose: a name that is too long, holds a NUL or is not UTF-8, say.
    """
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        named = error.filename if isinstance(error.filename, (str, bytes)) else None
        return f"cannot use {shortened(os.fsdecode(named))}: {reason}" if named else f"the system refuses: {reason}"
    if isinstance(error, ValueError) and re.search(r"null (byte|character)", str(error)):
        return "a path holds a NUL character; no file can be named so"
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return "a path begins with ~ and there is no such home folder; give it in full"
    if isinstance(error, UnicodeEncodeError):
        return f"a name cannot be written as text ({error.reason}); rename it in UTF-8"
    return None


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def is_below(path: str) -> bool:
    """Whether a relative path of a list that somebody may have edited stays in the list's folder."""
    return bool(path) and not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts


def is_folder(path: Path) -> bool:
    """Whether a folder stands there; not so for names that no folder can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def require_regular(path: Path) -> None:
    """Raise an `OSError` that says so where `path` is anything but a regular file, before anybody waits for it."""
    with open_regular(path):
        pass


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading bytes; links are followed. Raises `OSError` for pipes, devices and folders."""
    try:
        # Opening a pipe waits for whoever writes to it, unless told not to.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except ValueError as error:
        raise OSError(errno.EINVAL, "the name holds a NUL character", str(path)) from error
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.EINVAL, "it is no regular file but a socket", str(path)) from error
        raise
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, handle)
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"it is no regular file but {_kind(mode)}", str(path))
        stream = stack.enter_context(os.fdopen(handle, "rb", closefd=False))
        yield stream


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises `OSError` for anything else."""
    with open_regular(path) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"it holds more than {_size(limit)}", str(path))
    return content


def read_text(path: Path, limit: int = MAX_TEXT_BYTES, errors: str = "strict") -> str:
    """The text of a regular file in UTF-8, with or without a byte-order mark in front, line ends as they are.

    Raises `OSError` as `read_bytes` does, and for what is no text in UTF-8 unless `errors` says what to do with it.
    """
    try:
        return read_bytes(path, limit).decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise OSError(errno.EILSEQ, f"it is no text in UTF-8 (byte {error.start})", str(path)) from error


def sha256(path: Path) -> str:
    """Hex SHA-256 of a regular file's content, read in pieces."""
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _kind(mode: int) -> str:
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "something else")


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count} bytes"


def portable(name: str) -> str:
    """A name as part of a file's: 240 bytes at most. Two names may become one."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:60]


def safe_name(name: str) -> str:
    """The same, but of two names two."""
    safe = portable(name)
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}"


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals (read-only, full, not a folder) into an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise _refused(path, error) from error
    except ValueError as error:
        if (reason := path_error(error)) is None:
            raise
        raise OutputError(f"cannot write {shortened(path)}: {reason}") from error


@contextlib.contextmanager
def _full_disk_at(path: Path) -> Iterator[None]:
    """Turn trouble with the disk into an `OutputError`; other errors of what is done meanwhile are somebody else's."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_TROUBLE:
            raise
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {shortened(path)}: {reason}; choose another path, or make this one writable")


def is_disk_trouble(error: OSError) -> bool:
    """Whether the disk is at fault (full, read-only, failing), and not what was asked of it."""
    return error.errno in _DISK_TROUBLE


def make_folder(path: Path) -> Path:
    """Create `path` and its parents; return it. Raises `OutputError` where that is not possible."""
    with writing_to(path):
        if not path.is_dir():
            if path.parent != path:
                make_folder(path.parent)
            path.mkdir(exist_ok=True)
            sync_folder(path.parent)
    return path


def write_text(path: Path, text: str, errors: str = "backslashreplace") -> None:
    """Write a text file in UTF-8; a name that is not UTF-8 is escaped. See `write_bytes`."""
    write_bytes(path, text.encode(errors=errors))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file so that a reader, also one after a power cut, sees the old content or the new one.

    A link stays and what it points to is written; a device or pipe is written through. Raises `OutputError`.
    """
    with writing_to(path):
        if (target := _file_to_replace(path)) is None:
            _write_through(path, content)
            return
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=_prefix(target))
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                _give_usual_mode(Path(name))
                _flush(stream)
            _take_name(Path(name), target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file's path beside `path`; the file takes the name `path` when the block ends well.

    On any error, Ctrl-C included, nothing is left and what stood at `path` stays. Links, devices and pipes are treated
    as by `write_bytes`.
    """
    make_folder(path.parent)
    with writing_to(path):
        target = _file_to_replace(path)
        folder = target.parent if target else None
        handle, name = tempfile.mkstemp(dir=folder, prefix=_prefix(path), suffix=path.suffix)
        os.close(handle)
    temporary = Path(name)
    try:
        _give_usual_mode(temporary)
        with _full_disk_at(path):
            yield temporary
        with writing_to(path):
            if target is None:
                _write_through(path, temporary.read_bytes())
            else:
                sync_file(temporary)
                _take_name(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; it takes the name `path` when the block ends well.

    A folder that already stands at `path` is replaced only then; a link to a folder stays. On any error, Ctrl-C
    included, nothing is left.
    """
    make_folder(path.parent)
    with writing_to(path):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is no folder", str(path))
        path = _resolved(path)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
        temporary.chmod(0o755)
    try:
        with _full_disk_at(path):
            yield temporary
        with writing_to(path):
            _sync_tree(temporary)
            _replace_folder(temporary, path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_file(path: Path) -> None:
    """Return when the content of a file is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk, where the file system can tell."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(handle)


def take_name(finished: Path, path: Path) -> None:
    """Give a file or folder that was written elsewhere on the same file system its name, so that it survives a power
    cut whole; what stands at `path` is replaced. Raises `OutputError`.
    """
    with writing_to(path):
        if finished.is_dir():
            _sync_tree(finished)
            _replace_folder(finished, path)
            sync_folder(path.parent)
        else:
            sync_file(finished)
            _take_name(finished, path)


def _take_name(finished: Path, path: Path) -> None:
    finished.replace(path)
    sync_folder(path.parent)


def _flush(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _sync_tree(folder: Path) -> None:
    """Sync every file and folder below `folder`, the innermost first, and then itself."""
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            if not (path := Path(root, name)).is_symlink():
                sync_file(path)
        sync_folder(Path(root))


def _give_usual_mode(path: Path) -> None:
    path.chmod(0o644)


def half_written(folder: Path) -> list[Path]:
    """What a process that was killed left of a file or folder that it was making at `folder`."""
    return [path for path in folder.parent.iterdir() if path.name.startswith(_prefix(folder))]


def _prefix(path: Path) -> str:
    """Of a temporary name: hidden, recognizable, and short enough where the name itself is as long as can be."""
    name = path.name if len(os.fsencode(path.name)) <= LONG_NAME_BYTES else path.name[:32]
    return f".{name}."


def _resolved(path: Path) -> Path:
    """What a link points to, whether or not it is there yet; anything else as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _file_to_replace(path: Path) -> Path | None:
    """The regular file, there or not, that a new one replaces; None for what has to be written through.

    Raises `OSError` for a folder.
    """
    if _open_descriptor(path) is not None:
        return None
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return _resolved(path)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file in it", str(path))
    return _resolved(path) if stat.S_ISREG(mode) else None


def _open_descriptor(path: Path) -> int | None:
    """The number of this process' open file that `path` stands for (/dev/stdout, /dev/fd/3), or None."""
    for _ in range(8):
        parent = os.path.realpath(path.parent)
        if parent == f"/proc/{os.getpid()}/fd" or parent == "/dev/fd":
            return int(path.name) if path.name.isdecimal() else None
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def _write_through(path: Path, content: bytes) -> None:
    """Write to a device, a pipe, or a file that this process already holds open."""
    sys.stdout.flush()
    descriptor = _open_descriptor(path)
    if descriptor is not None:
        handle = os.dup(descriptor)
    else:
        try:
            # A pipe that nobody reads from would be waited for.
            handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise OSError(errno.ENXIO, "nobody reads from it", str(path)) from error
            raise
        os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)


def _replace_folder(new: Path, path: Path) -> None:
    """Give a folder the name of another one, which goes; the name stands for one of them at every moment."""
    if not path.exists():
        new.rename(path)
        return
    try:
        _exchange(new, path)
        old = new
    except OSError:  # not on every file system
        old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{_prefix(path)}old.")) / path.name
        path.rename(old)
        try:
            new.rename(path)
        except OSError:
            old.rename(path)
            raise
    shutil.rmtree(old if old == new else old.parent, ignore_errors=True)


def _exchange(one: Path, other: Path) -> None:
    """Let two paths change places at once (Linux' renameat2). Raises `OSError` where the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))


# ── formats ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse_toml(text: str, origin: str) -> dict[str, Any]:
    """The values in a TOML text; `origin` names it in the `UsageError` for one that is none."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{origin} is not valid TOML: {error}") from error
