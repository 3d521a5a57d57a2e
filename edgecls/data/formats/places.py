"""Which file a name in a label file means, below one folder of images: nothing outside of it is ever looked at."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from edgecls.data.formats.base import NamedImage
from edgecls.data.formats.label_studio import LOCAL_FILES
from edgecls.files import is_folder
from edgecls.imaging.decode import find_images

UPLOADS = "/data/upload/"
"""Below this Label Studio keeps files that were uploaded, without their folders and with a hash in front."""
_HASHED = re.compile(r"^[0-9a-f]{8}-")
_DRIVE = re.compile(r"^[A-Za-z]:[\\/]|^\\\\")

MISSING = "not found"
OUTSIDE = "outside"
AMBIGUOUS = "ambiguous"


class Places:
    """The images below a folder, by all the names under which a label file may speak of them."""

    def __init__(self, root: Path):
        self.root = root
        self.names = [path.relative_to(root).as_posix() for path in find_images(root)] if is_folder(root) else []
        self._names = frozenset(self.names)
        self._by_base = _grouped(self.names, lambda name: PurePosixPath(name).name)
        self._by_stem = _grouped(self.names, lambda name: str(PurePosixPath(name).with_suffix("")))

    def find(self, image: NamedImage) -> tuple[str, str]:
        """The image's name relative to the root and "", or "" and the reason why there is none."""
        name = image.name.replace("\\", "/") if _DRIVE.match(image.name) else image.name
        if UPLOADS in name:
            return self._uploaded(unquote(name.rpartition("/")[2]))
        if LOCAL_FILES in name:
            return self._ending(unquote(name.partition(LOCAL_FILES)[2]))
        if "://" in name:
            return self._ending(unquote(_url_path(name)))
        if name.startswith("/") or _DRIVE.match(image.name):
            return self._absolute(name)
        for folder in (*image.within, ""):
            found, reason = self._relative(os.path.normpath(f"{folder}/{name}" if folder else name), image.bare)
            if found or reason != MISSING:
                break
        return found, reason

    def _relative(self, name: str, bare: bool) -> tuple[str, str]:
        if name in self._names:
            return name, ""
        if name == ".." or name.startswith("../"):
            return "", OUTSIDE
        return _only(self._by_stem.get(name, ())) if bare else ("", MISSING)

    def _absolute(self, name: str) -> tuple[str, str]:
        """The file itself, or that at the same place below the root as on the machine where the labels were given."""
        name = os.path.normpath(name)
        for root in (str(in_full(self.root)), str(self.root.resolve())):
            if name.startswith(f"{root}/"):
                return self._relative(name[len(root) + 1 :], bare=False)
        found, reason = self._ending(name)
        return (found, reason) if found or not _is_there(name) else ("", OUTSIDE)

    def _ending(self, name: str) -> tuple[str, str]:
        """The image whose name is the longest end of a path."""
        parts = [part for part in name.split("/") if part]
        if ".." in parts:
            return "", OUTSIDE
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        return next(((end, "") for end in ends if end in self._names), ("", MISSING))

    def _uploaded(self, base: str) -> tuple[str, str]:
        for name in (base, _HASHED.sub("", base)):
            if name in self._by_base:
                return _only(self._by_base[name])
        return "", MISSING


def in_full(path: Path) -> Path:
    """A path from the root of the file system, its links as they are."""
    return Path(os.path.normpath(path.absolute()))


def _only(found: Iterable[str]) -> tuple[str, str]:
    names = list(found)
    return (names[0], "") if len(names) == 1 else ("", AMBIGUOUS if names else MISSING)


def _grouped(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def _url_path(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:  # brackets that are no address
        return url.partition("://")[2]


def _is_there(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False
