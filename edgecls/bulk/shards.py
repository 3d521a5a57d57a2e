"""Shards: so many images as make one part of the answers, named after what they hold."""

from __future__ import annotations

import hashlib
import json
import lzma
import tarfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from tarfile import EOFHeaderError  # type: ignore[attr-defined]
from typing import Any, ClassVar

from edgecls.bulk.listing import Entry, image_column, open_parquet
from edgecls.bulk.stores import Stores, is_uri, shown
from edgecls.concurrency import ordered_map
from edgecls.errors import DataError, first_line
from edgecls.imaging.decode import MAX_FILE_BYTES, SUFFIXES
from edgecls.runtime.batch import EncodedImage

SHARD_IMAGES = 512
"""Of files that hold one image each: some seconds of work, and a part of some ten kilobytes."""
READERS_PER_CPU = 8
"""Threads that read from a store: a request takes tens of milliseconds, in which a processor answers some images."""
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)
"""What reading a damaged tar file raises."""
_BATCH_ROWS = 32


@dataclass(frozen=True)
class Shard(ABC):
    """A unit of work. `images` makes its images; each has a row in the part, in this order."""

    kind: ClassVar[str]

    @abstractmethod
    def images(self, stores: Stores, cpus: int) -> Generator[Path | EncodedImage, None, None]:
        """The images; those of a store are read ahead."""

    @property
    @abstractmethod
    def expected(self) -> int | None:
        """How many images it holds; None where only reading tells."""

    @property
    @abstractmethod
    def identity(self) -> object:
        """What it is named after."""

    def name(self, job: str) -> str:
        """The name of its part: another one for other content, model or settings, which `job` stands for."""
        return hashlib.sha256(json.dumps([job, self.kind, self.identity]).encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """One line."""
        return json.dumps({"kind": self.kind, **asdict(self)})


@dataclass(frozen=True)
class ImageShard(Shard):
    """Files that hold an image each."""

    kind: ClassVar[str] = "images"
    locations: tuple[str, ...]

    @property
    def expected(self) -> int:
        """See `Shard.expected`."""
        return len(self.locations)

    @property
    def identity(self) -> object:
        """See `Shard.identity`."""
        return [escaped(location) for location in self.locations]

    def images(self, stores: Stores, cpus: int) -> Generator[Path | EncodedImage, None, None]:
        """See `Shard.images`."""
        return read_images(self.locations, stores, cpus)


@dataclass(frozen=True)
class TarShard(Shard):
    """A tar file, compressed or not; what is no image in it is left out, and names are names, wherever they point to.

    What is missing at the end of a damaged one is said in a row of its own.
    """

    kind: ClassVar[str] = "tar"
    location: str
    version: str

    @property
    def expected(self) -> None:
        """See `Shard.expected`."""
        return None

    @property
    def identity(self) -> object:
        """See `Shard.identity`."""
        return [escaped(self.location), self.version]

    def images(self, stores: Stores, cpus: int) -> Generator[EncodedImage, None, None]:  # noqa: ARG002
        """See `Shard.images`."""
        count = 0
        try:
            with (
                stores.of(self.location).open(self.location) as stream,
                tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Member) as archive,
            ):
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # or it would keep them all
                    name = PurePosixPath(member.name)
                    if member.isfile() and name.suffix.lower() in SUFFIXES and not name.name.startswith("."):
                        count += 1
                        yield _content(archive, member, f"{self.location}/{member.name}")
                whole = getattr(archive, "has_end_mark", False)
                reason = "it has no end mark"
        except FileNotFoundError:
            whole, reason = False, "it is gone"
        except _DAMAGED as error:
            whole, reason = False, first_line(error)
        if not whole:
            damage = f"{shown(self.location)} is damaged or cut off after {count} images: {reason}"
            yield EncodedImage(self.location, error=damage)


@dataclass(frozen=True)
class ParquetShard(Shard):
    """Row groups of a Parquet file, from `first_group` to before `end_group`; rows count from `first_row`."""

    kind: ClassVar[str] = "parquet"
    location: str
    version: str
    column: str
    first_group: int
    end_group: int
    first_row: int
    end_row: int

    @property
    def expected(self) -> int:
        """See `Shard.expected`."""
        return self.end_row - self.first_row

    @property
    def identity(self) -> object:
        """See `Shard.identity`."""
        return [escaped(self.location), *list(asdict(self).values())[1:]]

    def images(self, stores: Stores, cpus: int) -> Generator[EncodedImage, None, None]:  # noqa: ARG002
        """See `Shard.images`."""
        row = self.first_row
        reason = "the file is shorter than it was"
        try:
            with open_parquet(self.location, stores) as file:
                groups = range(self.first_group, self.end_group)
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=[self.column]):
                    for value in batch.column(0).to_pylist():
                        content = value.get("bytes") if isinstance(value, dict) else value
                        name = f"{self.location}/{row}"
                        error = None if content else f"{shown(name)} holds no bytes"
                        yield EncodedImage(name, content or b"", error)
                        row += 1
        except (DataError, OSError) as error:
            reason = first_line(error)
        for missing in range(row, self.end_row):
            yield EncodedImage(f"{self.location}/{missing}", error=f"{shown(self.location)}, row {missing}: {reason}")


class _Member(tarfile.TarInfo):
    """Tells its archive of the end mark; without one a file that was cut off between two members seems whole."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> Any:
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:
            tarfile.has_end_mark = True
            raise


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> EncodedImage:
    if member.size > MAX_FILE_BYTES:
        return EncodedImage(name, error=f"{shown(name)} holds more than {MAX_FILE_BYTES >> 20} MiB")
    stream = archive.extractfile(member)
    content = stream.read() if stream else b""
    if len(content) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    return EncodedImage(name, content)


def shards(entries: Iterable[Entry], stores: Stores, column: str | None, size: int = SHARD_IMAGES) -> Iterator[Shard]:
    """The entries in shards of `size` images, as far as files that hold many of them allow."""
    locations: list[str] = []
    for entry in entries:
        if entry.kind == "tar":
            yield TarShard(entry.location, entry.version)
        elif entry.kind == "parquet":
            yield from _row_groups(entry, stores, column, size)
        else:
            locations.append(entry.location)
            if len(locations) == size:
                yield ImageShard(tuple(locations))
                locations.clear()
    if locations:
        yield ImageShard(tuple(locations))


def read_images(locations: Iterable[str], stores: Stores, cpus: int) -> Generator[Path | EncodedImage, None, None]:
    """Local images as paths, those of stores as bytes that were read ahead; in order."""

    def read(location: str) -> EncodedImage:
        try:
            return EncodedImage(location, stores.of(location).read(location))
        except FileNotFoundError:
            return EncodedImage(location, error=f"cannot read {shown(location)}: there is no such file")

    for remote, together in groupby(locations, is_uri):
        if remote:
            yield from ordered_map(read, together, READERS_PER_CPU * cpus)
        else:
            yield from map(Path, together)


def _row_groups(entry: Entry, stores: Stores, column: str | None, size: int) -> Iterator[ParquetShard]:
    with open_parquet(entry.location, stores) as file:
        if (found := image_column(file.schema_arrow, column)) is None:
            raise DataError(f"{shown(entry.location)} holds no column of images")
        counts = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
    first_group = first_row = row = 0
    for group, count in enumerate(counts, start=1):
        row += count
        if row - first_row >= size or (group == len(counts) and row > first_row):
            yield ParquetShard(entry.location, entry.version, found, first_group, group, first_row, row)
            first_group, first_row = group, row


def from_json(line: str) -> Shard:
    """The shard of `Shard.to_json`."""
    values: dict[str, Any] = json.loads(line)
    kinds: dict[str, type[Shard]] = {kind.kind: kind for kind in (ImageShard, TarShard, ParquetShard)}
    kind = kinds[values.pop("kind")]
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def escaped(name: str) -> str:
    """A name as it stands in tables: what is not UTF-8 is escaped."""
    return name.encode("utf-8", "backslashreplace").decode()
