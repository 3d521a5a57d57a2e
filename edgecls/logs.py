"""Other libraries' loggers, quiet for a while."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_quiet: dict[str, tuple[int, int]] = {}
"""Of each logger that is quiet: how many times it was asked for, and its level before."""


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Let a library's logger tell errors alone, and afterwards what it told before; from any number of threads.

    The library must be imported already: many set their logger's level then.
    """
    logger = logging.getLogger(name)
    with _lock:
        times, level = _quiet.get(name, (0, logger.level))
        _quiet[name] = times + 1, level
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        with _lock:
            times, level = _quiet.pop(name)
            if times > 1:
                _quiet[name] = times - 1, level
            else:
                logger.setLevel(level)


@contextmanager
def without_advice(package: str) -> Iterator[None]:
    """Keep from the root logger what a package tells it below an error; what others tell it passes."""

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or f"/{package}/" not in record.pathname.replace("\\", "/")

    root = logging.getLogger()
    root.addFilter(passes)
    try:
        yield
    finally:
        root.removeFilter(passes)
