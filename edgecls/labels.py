"""Labels that somebody types."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

from edgecls.errors import UsageError

LONGEST_LABEL = 64
"""Characters; more stand on no button."""


def clean_label(text: str) -> str:
    """A label as it is kept: composed (NFC), without spaces around it. Raises `UsageError` for what nobody can read."""
    label = unicodedata.normalize("NFC", text).strip()
    if not label or not label.isprintable() or len(label) > LONGEST_LABEL:
        raise UsageError(f"a class takes a name of 1 to {LONGEST_LABEL} printable characters, not {text[:80]!r}")
    return label


def typed_label(text: str, known: Collection[str]) -> str:
    """The label that somebody means who typed `text`: the known one that reads like it, as it is, or a new one.

    Raises `UsageError` for a new one that nobody can read.
    """
    if text in known:
        return text
    label = clean_label(text)
    return next((each for each in known if unicodedata.normalize("NFC", each).strip() == label), label)
