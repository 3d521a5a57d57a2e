"""What other packages bring: entry points of our groups, loaded when they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from edgecls.errors import UsageError, first_line

BACKENDS, SOURCES, SINKS = "edgecls.backends", "edgecls.sources", "edgecls.sinks"
logger = logging.getLogger(__name__)


def names(group: str) -> list[str]:
    """The names of a group's entry points, sorted."""
    return sorted({entry.name for entry in metadata.entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """What the entry point of that name stands for. Raises `UsageError` where there is none or it cannot be loaded."""
    for entry in metadata.entry_points(group=group):
        if entry.name == name:
            try:
                return entry.load()
            except Exception as error:
                # Whatever another package does wrong is told in one line.
                raise UsageError(f"{name} of {entry.value} cannot be loaded: {first_line(error)}") from error
    known = ", ".join(names(group)) or "none is installed"
    raise UsageError(f"no installed package brings {name!r} in the group {group} ({known})")


def load_all(group: str) -> Iterator[tuple[str, Any]]:
    """Name and object of each entry point of a group; one that cannot be loaded is logged and left out."""
    for name in names(group):
        try:
            yield name, load(group, name)
        except UsageError as error:
            logger.warning("%s", error)
