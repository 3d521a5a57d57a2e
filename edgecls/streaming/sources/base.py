"""What every source of frames is."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgecls.errors import SourceError
from edgecls.imaging.yuv import Picture
from edgecls.streaming.frames import Frame, Geometry

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT_FPS = 25.0
logger = logging.getLogger(__name__)


class RegionError(SourceError):
    """The region that is looked at lies outside the picture: no other picture of the source will help."""


class Source(ABC):
    """An iterator of frames and a context manager.

    `live` sources skip what could not be looked at in time, and count it as `dropped`; the others give every frame in
    order. `skipped` counts files that could not be read, `sequence` says whether frames follow each other in time.
    """

    name: str
    live = False
    sequence = True
    fps: float = DEFAULT_FPS
    geometry: Geometry = Geometry()
    captured: int = 0
    dropped: int = 0
    skipped: int = 0
    _seen_size: tuple[int, int] = (0, 0)
    """Height and width of the last picture that a region was cut from."""

    def _as_seen(self, picture: Picture) -> Picture:
        """A picture as the geometry says; a region that does not lie in it whole is said once.

        Raises `SourceError` for one that lies outside.
        """
        turned, region = self.geometry.turn(picture), self.geometry.region
        if region is None:
            return turned
        height, width = turned.shape[:2]
        part = region.of(turned)
        if not part.size:
            raise RegionError(
                f"{self.name}: the region of `region` lies outside the picture, which has {width} x {height} pixels"
            )
        if self._seen_size != (height, width):
            self._seen_size = height, width
            if region.exceeds(height, width):
                left, top, right, bottom = region.within(height, width)
                logger.warning(
                    "%s: the region reaches beyond the picture of %d x %d pixels; used is %d,%d,%d,%d",
                    self.name, width, height, left, top, right - left, bottom - top,
                )  # fmt: skip
        return part

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Frames until the source ends. Raises `SourceError` where it fails."""

    def close(self) -> None:
        """Let go of the device or file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
