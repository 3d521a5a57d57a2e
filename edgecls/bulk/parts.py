"""The folder of a job: one part for each shard, and `_job.json`, which says what the parts are answers to.

A part proves itself: its name is a digest of the images that it has rows for, of the model and of the settings.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from edgecls.bulk.shards import ImageShard, escaped
from edgecls.bulk.stores import Stores, joined, shown
from edgecls.concurrency import ordered_map
from edgecls.errors import DataError, OutputError, UsageError, first_line
from edgecls.runtime.batch import import_arrow

JOB_FILE, SUCCESS_FILE = "_job.json", "_SUCCESS"
"""Readers of tables leave out what begins with an underscore."""
SCHEMA = 1
READERS = 16
_PART = re.compile(r"part-([0-9a-f]{16})\.(?:parquet|csv|jsonl)")


@dataclass(frozen=True)
class Count:
    """Rows of parts, and how many of these are of images that cannot be read; `first_error` is one of these."""

    images: int = 0
    unreadable: int = 0
    first_error: str | None = None

    def __add__(self, other: Count) -> Count:
        return Count(
            self.images + other.images, self.unreadable + other.unreadable, self.first_error or other.first_error
        )


@dataclass(frozen=True)
class Planned:
    """What a part must hold: `rows` where that is known before, and, where `is_listed`, the images that its name is a
    digest of.
    """

    rows: int | None
    is_listed: bool


@dataclass(frozen=True)
class Parts:
    """The parts in a folder of this machine or of a store, which ends in a slash."""

    folder: str
    suffix: str
    stores: Stores

    def location(self, name: str) -> str:
        """Of the part of that name."""
        return joined(self.folder, f"part-{name}{self.suffix}")

    def names(self) -> set[str]:
        """The names of the parts that are there."""
        try:
            children = self.stores.of(self.folder).children(self.folder)
        except FileNotFoundError:
            return set()
        found = (_PART.fullmatch(each.location.rpartition("/")[2]) for each in children)
        return {match[1] for match in found if match}

    def require_free(self, job: Mapping[str, Any]) -> None:
        """Raise `UsageError` where the folder holds answers to something else than the job."""
        location = joined(self.folder, JOB_FILE)
        wanted = {"schema": SCHEMA, **job}
        try:
            there = json.loads(self.stores.of(location).read(location))
        except FileNotFoundError:
            if self.names():
                raise UsageError(f"{shown(self.folder)} holds parts but no {JOB_FILE}; give another folder") from None
            return
        except (ValueError, OSError) as error:
            raise UsageError(f"cannot read {shown(location)}: {first_line(error)}; give another folder") from error
        other = [name for name in wanted if not isinstance(there, dict) or there.get(name) != wanted[name]]
        if other:
            raise UsageError(
                f"{shown(self.folder)} holds answers of another job (its {' and '.join(other)} differ, "
                f"see {JOB_FILE}); give another folder"
            )

    def begin(self, job: Mapping[str, Any]) -> None:
        """Write down what the parts will be answers to."""
        location = joined(self.folder, JOB_FILE)
        self.stores.of(location).write(location, json.dumps({"schema": SCHEMA, **job}, indent=2).encode())

    def require_known(self, planned: Collection[str]) -> set[str]:
        """The names of the parts that are there, all of which are planned. Raises `UsageError` for others."""
        there = self.names()
        if strange := sorted(there - set(planned)):
            raise UsageError(
                f"the input has changed since {shown(self.folder)} was begun: {len(strange)} of its {len(there)} "
                f"parts, such as part-{strange[0]}{self.suffix}, are of images that are no longer listed so; delete "
                "these parts, or give another folder"
            )
        return there

    def verified(self, job: str, planned: Mapping[str, Planned]) -> Count:
        """Read all parts and count their rows, once it is certain that each image has one.

        The parts are those that were planned, none more; rows are as many as planned, and where the shard was a list of
        images, these very images. Raises `OutputError` where that is not so.
        """
        there = self.names()
        if lost := set(planned) - there:
            raise OutputError(f"{len(lost)} of {len(planned)} parts are not in {shown(self.folder)}; run it again")
        self.require_known(planned)

        def count(name: str) -> Count:
            images, errors = self._read(name)
            wrong = planned[name].rows not in (None, len(images))
            if wrong or (planned[name].is_listed and ImageShard(tuple(images)).name(job) != name):
                raise OutputError(f"{shown(self.location(name))} does not hold the images that it should; delete it")
            return Count(len(images), len(errors), errors[0] if errors else None)

        total = Count()
        for each in ordered_map(count, sorted(planned), READERS):
            total += each
        return total

    def succeeded(self, total: Count) -> None:
        """Leave the mark that all parts are there."""
        text = json.dumps({"images": total.images, "unreadable": total.unreadable})
        self.stores.of(self.folder).write(joined(self.folder, SUCCESS_FILE), text.encode())

    def _read(self, name: str) -> tuple[list[str], list[str]]:
        """The images of a part, and the errors among its rows. Raises `OutputError`."""
        location = self.location(name)
        try:
            content = self.stores.of(location).read(location)
            if self.suffix == ".parquet":
                return _read_parquet(content)
            text = io.StringIO(content.decode(), newline="")
            rows: list[dict[str, Any]] = (
                list(csv.DictReader(text)) if self.suffix == ".csv" else [json.loads(line) for line in text]
            )
            return [escaped(row["image"]) for row in rows], [row["error"] for row in rows if row.get("error")]
        except (DataError, OSError, ValueError, KeyError) as error:
            raise OutputError(
                f"the part {shown(location)} cannot be read back: {first_line(error)}; delete it"
            ) from error


def _read_parquet(content: bytes) -> tuple[list[str], list[str]]:
    arrow, parquet = import_arrow("reading Parquet")
    try:
        table = parquet.read_table(arrow.BufferReader(content), columns=["image", "error"])
    except arrow.ArrowException as error:
        raise DataError(first_line(error)) from error
    return table["image"].to_pylist(), [error for error in table["error"].to_pylist() if error]
