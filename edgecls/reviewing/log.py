"""The log of a review: every decision as one line of JSON, on the disk before it counts."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgecls.errors import DataError, UsageError
from edgecls.files import make_folder, printable, sync_folder, writing_to

Event = dict[str, Any]
"""What happened: its number `n` from 1 on, `time`, `who`, and what was done (`do`); see `decisions`."""


class Log:
    """Events in a file that only grows, for one program at a time, and not safe to share between threads.

    Raises `UsageError` where another program has it open, `DataError` for a file that is no log, and `OutputError`
    where it cannot be written; then nothing was added. A last line whose writer was killed is taken away: nobody was
    told that it counts.
    """

    def __init__(self, path: Path):
        self.path = path
        make_folder(path.parent)
        with writing_to(path):
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            sync_folder(path.parent)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._handle)
            raise UsageError("somebody reviews this already; open the page of that program") from error
        try:
            self.events = self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> list[Event]:
        with os.fdopen(os.dup(self._handle), "rb") as stream:
            stream.seek(0)
            content = stream.read()
        whole = content.rfind(b"\n") + 1
        events = [*parsed(content[:whole], self.path)]
        if whole < len(content):
            with writing_to(self.path):
                os.ftruncate(self._handle, whole)
        return events

    def append(self, do: str, who: str = "", **content: Any) -> Event:
        """Add an event; returns it when it is on the disk. Raises `OutputError`."""
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        event = {"n": len(self.events) + 1, "time": now, "who": who, "do": do, **content}
        line = json.dumps(event).encode("ascii") + b"\n"
        with writing_to(self.path):
            size = os.fstat(self._handle).st_size
            try:
                if os.write(self._handle, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._handle)
            except BaseException:
                os.ftruncate(self._handle, size)
                raise
        self.events.append(event)
        return event

    def close(self) -> None:
        """Let others open it."""
        os.close(self._handle)


def read_log(path: Path) -> list[Event]:
    """The events of a log that somebody may have open. Raises `DataError`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"there is no log of a review at {printable(path)}: {error.strerror}") from error
    return [*parsed(content[: content.rfind(b"\n") + 1], path)]


def parsed(content: bytes, path: Path) -> Iterator[Event]:
    """The events in whole lines. Raises `DataError` with the line."""
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            event = json.loads(line.decode("utf-8", "surrogateescape"))
        except ValueError:
            event = None
        if not isinstance(event, dict) or event.get("n") != number or not isinstance(event.get("do"), str):
            raise DataError(f"{printable(path)}, line {number} is no event of a review; was the log edited?")
        yield event
