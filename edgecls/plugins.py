"""What other packages bring: entry points of our groups, loaded when they are asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from edgecls.errors import UsageError, first_line

BACKENDS, SOURCES, SINKS = "edgecls.backends", "edgecls.sources", "edgecls.sinks"
logger = logging.getLogger(__name__)


def find(group: str, name: str) -> metadata.EntryPoint | None:
    """A group's entry point of that name, or None."""
    return _entries(group).get(name)


def load(entry: metadata.EntryPoint) -> Any:
    """What an entry point stands for. Raises `UsageError` where it cannot be loaded."""
    try:
        return entry.load()
    except Exception as error:
        # Whatever another package does wrong is told in one line.
        raise UsageError(f"{entry.name} of {entry.value} cannot be loaded: {first_line(error)}") from error


def load_named(group: str, name: str) -> Any:
    """What the entry point of that name stands for. Raises `UsageError` where there is none or it cannot be loaded."""
    entries = _entries(group)
    if name not in entries:
        known = ", ".join(entries) or "none is installed"
        raise UsageError(f"no installed package brings {name!r} in the group {group} ({known})")
    return load(entries[name])


def load_all(group: str) -> Iterator[tuple[str, Any]]:
    """Name and object of each entry point of a group; one that cannot be loaded is logged and left out."""
    for name, entry in _entries(group).items():
        try:
            yield name, load(entry)
        except UsageError as error:
            logger.warning("%s", error)


def _entries(group: str) -> dict[str, metadata.EntryPoint]:
    """A group's entry points by name, sorted; of several of one name the first that is installed. Looks at the disk."""
    entries: dict[str, metadata.EntryPoint] = {}
    for entry in metadata.entry_points(group=group):
        entries.setdefault(entry.name, entry)
    return dict(sorted(entries.items()))
