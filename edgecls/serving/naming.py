"""Names of models: parts of URLs and of paths, the same in our server and in the repositories of others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from edgecls.errors import UsageError

_NAMED = re.compile(r"(?P<name>[^/\\=:]+)(?::(?P<version>0*[1-9][0-9]{0,8}))?=(?P<path>.+)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class Named(NamedTuple):
    """What a text such as PATH, NAME=PATH or NAME:VERSION=PATH says; None for what it leaves open."""

    path: str
    name: str | None = None
    version: str | None = None


def parse_named(text: str) -> Named:
    """What such a text says; a path that is there is no name. Raises `UsageError` for a name that is none."""
    if "=" not in text or Path(text).expanduser().exists():
        return Named(text)
    match = _NAMED.fullmatch(text)
    if match is None:
        raise UsageError(
            "`models` takes PATH, NAME=PATH or NAME:VERSION=PATH, a name of letters, digits, _, . and - and a version "
            f"from 1 on, not {text!r}"
        )
    return Named(match["path"], checked_name(match["name"]), match["version"])


def checked_name(name: str) -> str:
    """The name. Raises `UsageError` for one that no URL or path should hold."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name[:60]!r} cannot name a model: letters, digits, _, . and - can; name it: NAME=PATH")
    return name
