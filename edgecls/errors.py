"""Every error that edgecls raises on purpose.

Each message says in one line what is wrong and what to do next; the command line prints it and ends with `exit_code`.

    EdgeclsError               1
    ├── UsageError             2   arguments that make no sense together
    ├── DataError              3   images and folders of images
    │   └── ImageError         3   one image that cannot be read
    ├── ArtifactError          4   a run, bundle or model file that is missing, foreign, damaged or too new
    ├── BackendError           5   a runtime that is missing, or that refused the work
    │   └── MissingExtraError  5   a package is not installed; names the pip line
    ├── VerificationError      6   an artifact that does not do what its parent does
    ├── SourceError            7   a camera, stream or video that cannot be opened or read
    └── OutputError            8   a place that cannot be written

Ctrl-C ends with 130 and SIGTERM with 143, as shells expect. A message names settings of a configuration in backticks;
the command line says the option instead.
"""

from __future__ import annotations

import re

SETTING = re.compile(r"`([a-z][a-z0-9_]*)`")
"""How a message names a setting."""


def first_line(error: Exception) -> str:
    """What an error says in its first line, or else its kind, without marks of settings; at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].replace("`", "'")


class EdgeclsError(Exception):
    """Base of all errors raised on purpose.

    `field` is the setting of a configuration that it is about: the one given, or the first that the message marks; None
    where it is about none.
    """

    exit_code = 1

    def __init__(self, message: str = "", field: str | None = None):
        super().__init__(message)
        marked = SETTING.search(message)
        self.field = field or (marked[1] if marked else None)

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross processes with their message, however their class makes it."""
        return _restored, (type(self), str(self), self.field)


def _restored(kind: type[EdgeclsError], message: str, field: str | None) -> EdgeclsError:
    error = kind.__new__(kind, message)
    EdgeclsError.__init__(error, message, field)
    return error


class UsageError(EdgeclsError):
    """Arguments that make no sense, alone or together."""

    exit_code = 2


class DataError(EdgeclsError):
    """A data set that cannot be used as it is."""

    exit_code = 3


class ImageError(DataError):
    """One image that is missing, truncated or not an image."""


class ArtifactError(EdgeclsError):
    """A run, bundle or model file that cannot be trusted or understood."""

    exit_code = 4


class BackendError(EdgeclsError):
    """A runtime that cannot do what was asked of it."""

    exit_code = 5


class MissingExtraError(BackendError):
    """A Python package that this job needs is not installed."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(f"{purpose} needs {package}, which is not installed: pip install 'edgecls[{extra}]'")


class VerificationError(EdgeclsError):
    """An artifact whose answers differ from its parent's by more than is allowed."""

    exit_code = 6


class SourceError(EdgeclsError):
    """A camera, stream, video or folder that gives no frames."""

    exit_code = 7


class OutputError(EdgeclsError):
    """A file or folder that cannot be written."""

    exit_code = 8
