"""Files by location: a path of this machine, or the URI of a store that fsspec knows (s3://, gs://, https://, ...).

A store that fails is asked again, with growing pauses, until patience ends; what it has not is a `FileNotFoundError` at
once. Paths of this machine need no fsspec.
"""

from __future__ import annotations

import errno
import io
import itertools
import logging
import os
import random
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from edgecls.errors import EdgeclsError, MissingExtraError, OutputError, SourceError, UsageError, first_line
from edgecls.files import make_folder, open_regular, printable, read_bytes, shortened, write_bytes
from edgecls.imaging.decode import MAX_FILE_BYTES
from edgecls.urls import SecretUrl

T = TypeVar("T")
PATIENCE_S = 300.0
"""How long a store that fails is asked again."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 30.0
READ_BYTES = 1 << 20
"""Read from an open file at once."""
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_PLAIN = re.compile(r"/?(?:(?!\.{0,2}/)[^/:]+/)*(?!\.{1,2}$)[^/:]+", re.DOTALL)
"""A path that `Path` would not spell in another way."""
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "hf": "huggingface_hub"}
_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss")
"""Stores without folders, which would make a bucket that somebody misspelt."""
_NO_ACCESS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound")
"""What libraries call it that nobody told them who asks."""
_FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, EdgeclsError, NotImplementedError, ImportError)
"""What asking again does not change."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """A file or folder; `version` changes with a file's content, as far as its store tells."""

    location: str
    is_folder: bool
    version: str = ""


class Store(ABC):
    """Files by location. Methods raise `FileNotFoundError` for what is not there, `SourceError` or `OutputError` for a
    store that does not answer or refuses.
    """

    @abstractmethod
    def canonical(self, location: str) -> str:
        """One spelling of each location, without a slash at the end."""

    @abstractmethod
    def find(self, location: str) -> Stored:
        """What is at a location."""

    @abstractmethod
    def children(self, folder: str) -> list[Stored]:
        """What stands in a folder, sorted by name; hidden files are left out."""

    @abstractmethod
    def read(self, location: str) -> bytes:
        """The content of a file that is no larger than an image may be."""

    @abstractmethod
    def open(self, location: str) -> BinaryIO:
        """Open a file for reading."""

    @abstractmethod
    def write(self, location: str, content: bytes) -> None:
        """Write a file whole or not at all."""


class LocalStore(Store):
    """Files of this machine."""

    def canonical(self, location: str) -> str:
        """The absolute path."""
        return os.path.realpath(_path(location))

    def find(self, location: str) -> Stored:
        """See `Store.find`."""
        path = _path(location)
        status = path.stat()
        return Stored(str(path), path.is_dir(), f"{status.st_size}-{status.st_mtime_ns}")

    def children(self, folder: str) -> list[Stored]:
        """See `Store.children`. Names are joined to the folder as it was given."""
        try:
            with os.scandir(_path(folder)) as entries:
                names = sorted((each.name, each.is_dir()) for each in entries if not each.name.startswith("."))
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise SourceError(f"cannot list {shortened(folder)}: {error.strerror}") from error
        return [Stored(str(_path(folder) / name), is_folder) for name, is_folder in names]

    def read(self, location: str) -> bytes:
        """See `Store.read`."""
        return read_bytes(_path(location), MAX_FILE_BYTES)

    def open(self, location: str) -> BinaryIO:
        """See `Store.open`."""
        with open_regular(_path(location)) as stream:
            return os.fdopen(os.dup(stream.fileno()), "rb")

    def write(self, location: str, content: bytes) -> None:
        """See `Store.write`: a temporary file that is given its name."""
        make_folder(_path(location).parent)
        write_bytes(_path(location), content)


class RemoteStore(Store):
    """Files of an fsspec file system."""

    def __init__(self, location: str, patience_s: float):
        self._fs, self._patience_s = _file_system(location), patience_s

    def canonical(self, location: str) -> str:
        """The URI that the file system itself would give."""
        return str(self._fs.unstrip_protocol(self._fs._strip_protocol(location))).rstrip("/")

    def find(self, location: str) -> Stored:
        """See `Store.find`."""
        return self._stored(self._asked("look at", location, partial(self._fs.info, location)))

    def children(self, folder: str) -> list[Stored]:
        """See `Store.children`. Only what is below the folder: a web page may link elsewhere."""
        above = f"{self.canonical(folder)}/"
        try:
            found = self._asked("list", folder, partial(self._fs.ls, folder, detail=True))
        except NotImplementedError as error:
            raise UsageError(f"{shown(folder)} cannot be listed; give a list or a manifest") from error
        self._fs.invalidate_cache()  # or the file system would keep every name
        below = (self._stored(info) for info in found)
        named = [each for each in below if each.location.startswith(above) and each.location != above]
        return sorted((each for each in named if not _name(each).startswith(".")), key=_name)

    def read(self, location: str) -> bytes:
        """See `Store.read`."""
        return bytes(self._asked("read", location, partial(self._fs.cat_file, location, end=MAX_FILE_BYTES)))

    def open(self, location: str) -> BinaryIO:
        """Open a file, whose reading goes on where it was after an error of the store."""
        asked = partial(self._asked, "read", location)
        file = asked(partial(self._fs.open, location, "rb"))
        return io.BufferedReader(_Patient(file, asked), READ_BYTES)

    def write(self, location: str, content: bytes) -> None:
        """See `Store.write`: a store shows a file when all of it has arrived."""
        parent = location.rpartition("/")[0]

        def put() -> None:
            if _scheme(location) not in _BUCKETS:
                self._fs.makedirs(self._fs._strip_protocol(parent), exist_ok=True)
            self._fs.pipe_file(location, content)

        try:
            self._asked("write", location, put)
        except FileNotFoundError as error:
            raise OutputError(f"cannot write {shown(location)}: {first_line(error)}") from error

    def _stored(self, info: dict[str, Any]) -> Stored:
        marks = (
            info.get(name) for name in ("ETag", "etag", "md5Hash", "generation", "LastModified", "mtime", "created")
        )
        version = f"{info.get('size')}-{next((mark for mark in marks if mark), '')}"
        return Stored(
            str(self._fs.unstrip_protocol(info["name"])).rstrip("/"), info.get("type") == "directory", version
        )

    def _asked(self, verb: str, location: str, action: Callable[[], T]) -> T:
        """What the store answers, asked again while it fails."""
        refused = OutputError if verb == "write" else SourceError
        deadline_s = time.monotonic() + self._patience_s
        for attempt in itertools.count():
            try:
                return action()
            except Exception as error:
                known = _translated(error)
                if isinstance(known, PermissionError):
                    raise refused(f"no access to {shown(location)}: {first_line(error)}") from error
                if isinstance(known, _FINAL):
                    raise known from error
                pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1)
                if time.monotonic() + pause_s > deadline_s:
                    reason = f"{first_line(error)} (asked {attempt + 1} times in {self._patience_s:g} s)"
                    raise refused(f"cannot {verb} {shown(location)}: {reason}") from error
                logger.info("asked again in %.1f s: cannot %s %s: %s", pause_s, verb, shown(location), error)
                time.sleep(pause_s)
        raise AssertionError("unreachable")


class _Patient(io.RawIOBase):
    """A file of a store; each piece is asked for until it comes."""

    def __init__(self, file: Any, asked: Callable[[Callable[[], bytes]], bytes]):
        self._file, self._asked, self._position = file, asked, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = self._file.seek(offset, whence)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        def piece() -> bytes:
            if self._file.tell() != self._position:
                self._file.seek(self._position)
            return bytes(self._file.read(len(buffer)))

        content = self._asked(piece)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


class Stores:
    """The store of each location, kept once it was opened. Threads may share it."""

    def __init__(self, patience_s: float = PATIENCE_S):
        self._patience_s = patience_s
        self._local, self._remote = LocalStore(), dict[str, RemoteStore]()

    def of(self, location: str) -> Store:
        """The store of a location. Raises `UsageError` for a scheme that nobody knows, and `MissingExtraError`."""
        if not is_uri(location):
            return self._local
        root = "/".join(location.split("/", 3)[:3])
        if root not in self._remote:
            self._remote[root] = RemoteStore(location, self._patience_s)
        return self._remote[root]

    def canonical(self, location: str) -> str:
        """See `Store.canonical`."""
        return self.of(location).canonical(location)


def is_uri(location: str) -> bool:
    """Whether a location is one of a store and not of this machine."""
    return _scheme(location) not in ("", "file", "local")


def joined(folder: str, name: str) -> str:
    """A location below a folder; an absolute one as it is."""
    if is_uri(name):
        return name
    if is_uri(folder) and not _scheme(name):
        return f"{folder.rstrip('/')}/{name}"
    if _PLAIN.fullmatch(name):  # `Path` would take five times as long, and keep each name
        return f"{folder}/{name}" if folder and not name.startswith("/") else name
    return str(_path(folder) / _path(name))


def shown(location: str) -> str:
    """A location as it may stand in a message: without what may be a secret in a web address."""
    return printable(str(SecretUrl(location))) if _scheme(location) in ("http", "https", "ftp") else shortened(location)


def _scheme(location: str) -> str:
    return match[1].lower() if (match := _SCHEME.match(location)) else ""


def _path(location: str) -> Path:
    return Path(_SCHEME.sub("", location, count=1) if _scheme(location) in ("file", "local") else location)


def _name(stored: Stored) -> str:
    return stored.location.rstrip("/").rpartition("/")[2]


def _file_system(location: str) -> Any:
    """The fsspec file system of a URI."""
    scheme = _scheme(location)
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError("fsspec", "scale", f"reading {scheme}://") from error
    try:
        return fsspec.core.url_to_fs(location)[0]
    except ImportError as error:
        if scheme in _PACKAGES:
            raise UsageError(
                f"{scheme}:// needs a package that is not installed: pip install {_PACKAGES[scheme]}"
            ) from error
        raise MissingExtraError("a package", "scale", f"{scheme}://") from error
    except ValueError as error:
        raise UsageError(f"{shown(location)}: {first_line(error)}; known are s3://, gs://, https:// and what else "
                         "fsspec knows") from error  # fmt: skip


def _translated(error: Exception) -> Exception:
    """An error of any library as one of Python's own, where it means one of these."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        return _translated(cause)  # fsspec's HTTP says so of a server that cannot be reached
    if getattr(error, "errno", None) == errno.EINVAL or type(error).__name__ == "ParamValidationError":
        return FileNotFoundError(first_line(error))  # a name that no bucket can have
    status = getattr(error, "status", None)
    if type(error).__name__ in _NO_ACCESS or status in (401, 403):
        return PermissionError(first_line(error))
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 429):
        return FileNotFoundError(first_line(error))
    return error
