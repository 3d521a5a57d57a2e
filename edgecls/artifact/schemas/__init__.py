"""The JSON Schemas (draft 2020-12) of the records that edgecls writes, for programs that read them."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from edgecls.errors import UsageError

NAMES = ("card", "measurements", "benchmark", "event", "prediction")


def schema(name: str) -> dict[str, Any]:
    """The schema of one of `NAMES`. Unknown fields are allowed: later versions of a format may add some.

    Raises `UsageError` for another name.
    """
    if name not in NAMES:
        raise UsageError(f"there is no schema {name!r}, only {', '.join(NAMES)}")
    loaded: dict[str, Any] = json.loads((files(__name__) / f"{name}.schema.json").read_text(encoding="utf-8"))
    return loaded
