"""All shards of a job, listed before the work begins, so that it knows how much there is and what is done already."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Collection, Iterable, Iterator
from typing import IO, TYPE_CHECKING

from edgecls.bulk.parts import Planned
from edgecls.bulk.shards import ImageShard, Shard, from_json

if TYPE_CHECKING:
    from typing_extensions import Self


class Plan:
    """Shards by their names. A context manager: the shards themselves wait in a temporary file, compressed, for they
    name every image; in memory is a line for each shard.
    """

    def __init__(self, shards: Iterable[Shard], job: str):
        self.planned: dict[str, Planned] = {}
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="edgecls-")  # noqa: SIM115
        try:
            with gzip.open(self._file, "wt", compresslevel=1, encoding="utf-8") as lines:
                for shard in shards:
                    if (name := shard.name(job)) not in self.planned:  # the very same images once more
                        self.planned[name] = Planned(shard.expected, isinstance(shard, ImageShard))
                        lines.write(f"{name} {shard.to_json()}\n")
        except BaseException:
            self._file.close()
            raise

    def shards(self, done: Collection[str] = ()) -> Iterator[tuple[str, Shard]]:
        """The shards that are not done, with their names, in order."""
        self._file.seek(0)
        with gzip.open(self._file, "rt", encoding="utf-8") as lines:
            for line in lines:
                name, _, values = line.partition(" ")
                if name not in done:
                    yield name, from_json(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()
