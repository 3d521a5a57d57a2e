"""Names of folders and files that any system takes."""

from __future__ import annotations

import hashlib
import re

LONGEST_FOLDER_BYTES = 120
LONGEST_SOURCE = 32
_ODD = re.compile(r'[%/\\:*?"<>|]')
"""What some file systems take for something else, and the mark that stands for it."""
_TAKEN = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|train|val|valid|validation|test", re.IGNORECASE)
"""Devices of Windows, and the folders of splits."""


def folder_name(label: str) -> str:
    """The folder for images of a label: the label itself, with odd characters as % and their number in hex.

    Two labels never share a folder, but where a file system takes large and small letters for the same.
    """
    name = _ODD.sub(_escaped, label)
    if _TAKEN.fullmatch(name) or name[0] in ".~":
        name = _hex(name[0]) + name[1:]
    if name[-1] in ". ":
        name = name[:-1] + _hex(name[-1])
    if len(name.encode()) > LONGEST_FOLDER_BYTES:
        begin = name.encode()[: LONGEST_FOLDER_BYTES - 9].decode(errors="ignore")
        name = f"{begin}~{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return name


def file_part(text: str) -> str:
    """What is left of a camera's name in the name of a file: letters, digits and - of ASCII."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[-LONGEST_SOURCE:].strip("-") or "camera"


def _escaped(match: re.Match[str]) -> str:
    return _hex(match[0])


def _hex(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode())
