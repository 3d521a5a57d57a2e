"""What a folder of labelled images holds already of the files that pictures are taken from."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.collecting.labelled import LabelledFolder
from edgecls.collecting.labels import file_part
from edgecls.collecting.table import Row
from edgecls.errors import ImageError
from edgecls.files import sha256
from edgecls.imaging.decode import read_image
from edgecls.imaging.small import small_grey, unchanged

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

DIGEST_LETTERS = 12
"""Of a file's SHA-256, in the names of its series: SOURCE_DIGEST of an image, SOURCE_DIGEST@STARTms of a video."""


class Recorded:
    """Finds the pictures of a file, whatever it is called now, among those that are in a folder of labelled images."""

    def __init__(self, folder: LabelledFolder, source: str):
        self._folder, self._source = folder, source
        self._rows: defaultdict[str, list[Row]] = defaultdict(list)
        for row in folder.rows():
            self._rows[row.group.partition("@")[0].rpartition("_")[2]].append(row)

    def video(self, path: Path) -> RecordedFile:
        """The pictures of a video, each compared by what it shows."""
        name, rows = self._named(path)
        return RecordedFile(self._folder, name, rows, is_video=True)

    def image(self, path: Path) -> RecordedFile:
        """The picture of an image file."""
        name, rows = self._named(path)
        return RecordedFile(self._folder, name, rows, is_video=False)

    def _named(self, path: Path) -> tuple[str, Sequence[Row]]:
        digest = sha256(path)[:DIGEST_LETTERS]
        rows = self._rows.get(digest, ())
        return (rows[0].group.partition("@")[0] if rows else f"{file_part(self._source)}_{digest}"), rows


class RecordedFile:
    """The pictures of one file in a folder of labelled images: their rows, and in which series the next ones belong."""

    def __init__(self, folder: LabelledFolder, name: str, rows: Sequence[Row], is_video: bool):
        self._folder, self._name, self._is_video = folder, name, is_video
        self._image = None if is_video or not rows else rows[0]
        copies = ((row, self._small(row)) for row in rows if is_video)
        self._pictures = [(row, small) for row, small in copies if small is not None]
        starts = {row.group.rpartition("@")[2].removesuffix("ms") for row in rows}
        self._starts_ms = sorted(int(start) for start in starts if start.isdecimal())

    def _small(self, row: Row) -> NDArray[uint8] | None:
        try:
            return small_grey(read_image(self._folder.root / row.path))
        except ImageError:
            return None

    def group(self, pts_s: float, series_s: float) -> str:
        """The series of a picture at this time of a video: the one that was begun there, or a new one of so many
        seconds. An image is a series of its own.
        """
        if not self._is_video:
            return self._name
        following = bisect_right(self._starts_ms, round(1000 * pts_s))
        begun_ms = self._starts_ms[following - 1] if following else None
        if begun_ms is None or (following == len(self._starts_ms) and 1000 * pts_s >= begun_ms + 1000 * series_s):
            begun_ms = round(1000 * (pts_s // series_s) * series_s)
            self._starts_ms.insert(following, begun_ms)
        return f"{self._name}@{begun_ms}ms"

    def row_like(self, small: NDArray[uint8], content: bytes, exactly: bool) -> Row | None:
        """The row of a picture that is there already: the file's, if it is an image; this very content; or, unless it
        must be `exactly` that, one of the video in which nothing has changed, from its small grey copy (32, 32).
        """
        if self._image is not None:
            return self._image
        near = None if exactly else next((row for row, known in self._pictures if unchanged(small, known)), None)
        return near or self._folder.row_of(content)
