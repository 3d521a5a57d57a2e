"""All images of a data set as they were found: some bytes of each in memory, the rest in a record."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, overload

from edgecls.concurrency import chunked, ordered_map
from edgecls.data.record import Record, Seen
from edgecls.data.similar import near_groups, perceptual_hash
from edgecls.data.sources import FolderSource, Source
from edgecls.data.splits import Sample
from edgecls.errors import ImageError, MissingExtraError

if TYPE_CHECKING:
    from numpy import bool_, int64, uint64
    from numpy.typing import NDArray

CHUNK = 32
"""Images that a thread looks at in one go; with small ones handing over a single one takes as long as looking."""


class Members(Sequence[tuple[str, Sample]]):
    """All (split, sample) of a data set, one split behind the other, without another list of them."""

    def __init__(self, splits: Mapping[str, Sequence[Sample]]):
        self._names, self._samples = list(splits), list(splits.values())
        self._ends = list(accumulate(map(len, self._samples)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, position: int) -> tuple[str, Sample]: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[tuple[str, Sample]]: ...
    def __getitem__(self, position: int | slice) -> tuple[str, Sample] | Sequence[tuple[str, Sample]]:
        if isinstance(position, slice):
            return [self[each] for each in range(*position.indices(len(self)))]
        if not 0 <= position < len(self):
            raise IndexError(position)
        part = bisect_right(self._ends, position)
        return self._names[part], self._samples[part][position - self._ends[part]]

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        return ((name, sample) for name, samples in zip(self._names, self._samples, strict=True) for sample in samples)

    def labels(self) -> NDArray[int64]:
        """The class of each (N,)."""
        import numpy as np

        return np.fromiter((sample.label for _, sample in self), np.int32, len(self))

    def parts(self) -> NDArray[int64]:
        """The number of each one's split (N,)."""
        import numpy as np

        return np.repeat(np.arange(len(self._names), dtype=np.int8), list(map(len, self._samples)))


@dataclass(frozen=True)
class Groups(Sequence[list[int]]):
    """Positions that belong together, two or more: `members` (M,) and where in it each group starts, and all end."""

    members: NDArray[int64]
    starts: NDArray[int64]

    @classmethod
    def of(cls, positions: NDArray[int64], keys: Sequence[NDArray[uint64] | NDArray[int64]]) -> Groups:
        """Those of positions (N,), ascending, whose keys, each (N,), agree. The first members of groups ascend."""
        import numpy as np

        order = np.lexsort(keys)
        other = np.zeros(len(order), bool)
        for key in keys:
            other[1:] |= key[order[1:]] != key[order[:-1]]
        starts = np.flatnonzero(np.concatenate([[True], other[1:]])) if len(order) else np.zeros(0, np.int64)
        lengths = np.diff(starts, append=len(order))
        kept = np.flatnonzero(lengths > 1)
        kept = kept[np.argsort(order[starts[kept]])]
        offsets = np.concatenate([[0], np.cumsum(lengths[kept])]).astype(np.int64)
        places = np.repeat(starts[kept] - offsets[:-1], lengths[kept]) + np.arange(offsets[-1])
        return cls(positions[order[places]], offsets)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | Sequence[list[int]]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.members[self.starts[index] : self.starts[index + 1]].tolist()

    def differ(self, values: NDArray[int64]) -> NDArray[bool_]:
        """Of which groups (G,) the values at the members' positions are not all one."""
        import numpy as np

        if not len(self):
            return np.zeros(0, bool)
        of_members, starts = values[self.members], self.starts[:-1]
        return np.minimum.reduceat(of_members, starts) != np.maximum.reduceat(of_members, starts)

    def later(self) -> NDArray[int64]:
        """All members but the first one of each group."""
        import numpy as np

        return np.delete(self.members, self.starts[:-1])


@dataclass(frozen=True)
class Pictures:
    """The images at positions (N,) of `members`: rows of the record, hashes, and half of each SHA-256 (N, 2).

    `sizes` (N, 2) are heights and widths in pixels. `modes` maps what is unusual in how images are stored to the
    positions where it is so, `broken` the positions of unreadable ones to the reason.
    """

    members: Members
    record: Record
    rows: NDArray[int64]
    hashes: NDArray[uint64]
    digests: NDArray[uint64]
    sizes: NDArray[int64]
    modes: dict[str, array[int]] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, members: Members, record: Record) -> Pictures:
        """As many as there are members, before anything was seen."""
        import numpy as np

        count = len(members)
        numbers = np.zeros(count, np.int64), np.zeros(count, np.uint64), np.zeros((count, 2), np.uint64)
        return cls(members, record, *numbers, np.zeros((count, 2), np.int32))

    def put(self, position: int, row: int, seen: Seen) -> None:
        """What was seen of the image at a position, and the row of the record."""
        import numpy as np

        self.rows[position] = row
        if seen.error:
            self.broken[position] = seen.error
            return
        self.hashes[position] = seen.hash
        self.digests[position] = np.frombuffer(seen.sha256[:16], np.uint64)
        self.sizes[position] = seen.height_px, seen.width_px
        for mode in seen.modes:
            self.modes.setdefault(mode, array("q")).append(position)

    def is_readable(self) -> NDArray[bool_]:
        """Which can be read (N,)."""
        import numpy as np

        readable = np.ones(len(self.rows), bool)
        readable[list(self.broken)] = False
        return readable

    def readable(self) -> NDArray[int64]:
        """The positions of those that can be read."""
        return self.is_readable().nonzero()[0]

    def duplicates(self) -> Groups:
        """Images that are the same file."""
        positions = self.readable()
        return Groups.of(positions, list(self.digests[positions].T))

    def near_duplicates(self, exact: Groups) -> Groups:
        """Images that are linked by nearness; of files that are the same only the first one takes part."""
        import numpy as np

        positions = np.setdiff1d(self.readable(), exact.later(), assume_unique=True)
        first = near_groups(self.hashes[positions], lambda chosen: self.record.copies(self.rows[positions[chosen]]))
        return Groups.of(positions, [first])


def look(
    source: Source, members: Members, record: Record, on_progress: Callable[[str], None] = lambda _: None
) -> Pictures:
    """Look at images, those alone that the record does not know as they are; it forgets all others.

    Unreadable ones are tried again: what hindered may be elsewhere.
    """
    pictures = Pictures.empty(members, record)

    def chunks() -> Iterator[list[tuple[Sample, tuple[int, Seen] | None]]]:
        for chunk in chunked(members, CHUNK):
            known = record.known([sample.key for _, sample in chunk])
            yield [(sample, known.get(sample.key)) for _, sample in chunk]

    position = 0
    for chunk in ordered_map(lambda chunk: [_seen(source, *each) for each in chunk], chunks()):
        on_progress(f"looking at image {position + 1} of {len(members)}")
        for sample, row, seen, small in chunk:
            kept = row if row is not None and small is None else record.keep(sample.key, seen, small or b"", row)
            pictures.put(position, kept, seen)
            position += 1
    record.keep_only(pictures.rows)
    return pictures


def _seen(
    source: Source, sample: Sample, known: tuple[int, Seen] | None
) -> tuple[Sample, int | None, Seen, bytes | None]:
    """The sample, its row, what was seen of it, and its small copy; None for that where nothing has changed."""
    row, before = known or (None, None)
    stamp = source.stamp(sample.key)
    if before is not None and not before.error and stamp == (before.size_bytes, before.mtime_ns):
        return sample, row, before, None
    try:
        image = source.read(sample.key)
        digest = bytes.fromhex(source.fingerprint(sample.key))
    except ImageError as error:
        return sample, row, Seen(*stamp, error=str(error)), b""
    value, small = perceptual_hash(image)
    height, width = image.shape[:2]
    seen = Seen(*stamp, height, width, digest, _unusual(source, sample), value)
    return sample, row, seen, small.tobytes()


def _unusual(source: Source, sample: Sample) -> tuple[str, ...]:
    """What is unusual in how a file is stored, from its header."""
    if not isinstance(source, FolderSource):
        return ()
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtraError("pillow", "train", "looking at how images are stored") from error
    try:
        with Image.open(source.root / sample.key) as picture:
            names = {
                "L": "grey",
                "1": "grey",
                "P": "palette",
                "RGBA": "transparent",
                "LA": "transparent",
                "CMYK": "CMYK",
            }
            oddities = [names.get(picture.mode, "16-bit" if picture.mode.startswith("I") else "")]
            oddities.append("animated" if getattr(picture, "n_frames", 1) > 1 else "")
            oddities.append("turned by EXIF" if picture.getexif().get(0x0112, 1) != 1 else "")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError):
        return ("stored in a way that only OpenCV reads",)
    return tuple(filter(None, oddities))
