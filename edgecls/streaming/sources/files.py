"""Finite sources: every frame of a video, an image folder or a pipe, in order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from edgecls.clock import now_ns
from edgecls.concurrency import ordered_map
from edgecls.errors import ImageError, SourceError, UsageError
from edgecls.imaging.decode import read_image
from edgecls.imaging.yuv import Picture
from edgecls.streaming.config import Decoder
from edgecls.streaming.frames import Frame, Geometry
from edgecls.streaming.sources.base import DEFAULT_FPS, Source
from edgecls.streaming.sources.video import VideoClock, open_video

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray


class FiniteSource(Source):
    """Numbers pictures and gives them their time: the video's own, or else one after the other at the nominal rate."""

    def __init__(self, name: str, geometry: Geometry = Geometry()):
        self.name = name
        self.geometry = geometry

    def _framed(self, image: Picture, pts_s: float | None = None, path: Path | None = None) -> Frame:
        image = self._as_seen(image)
        index = self.captured
        self.captured += 1
        return Frame(image, index, now_ns(), index / self.fps if pts_s is None else pts_s, path)


class VideoSource(FiniteSource):
    """A video file."""

    def __init__(self, path: Path, geometry: Geometry = Geometry(), decoder: Decoder = "software"):
        super().__init__(str(path), geometry)
        self._path = path
        self._video = open_video(str(path), decoder)
        self.fps = self._video.fps

    def __iter__(self) -> Iterator[Frame]:
        clock = VideoClock(self.fps)
        while (read := self._video.read()) is not None:
            picture, told_s = read
            yield self._framed(picture, clock.due_s(told_s), self._path)
        if not self.captured:
            raise SourceError(f"{self.name} holds no frame that can be decoded")

    def close(self) -> None:
        """Close the file."""
        self._video.close()


class ImagesSource(FiniteSource):
    """Image files in order of their names; unreadable ones are skipped and counted."""

    sequence = False

    def __init__(self, name: str, paths: list[Path], geometry: Geometry = Geometry()):
        super().__init__(name, geometry)
        self._paths = paths
        if not paths:
            raise SourceError(f"{name} holds no images")

    def __iter__(self) -> Iterator[Frame]:
        for path, image in ordered_map(self._read, self._paths):
            if image is None:
                self.skipped += 1
                continue
            yield self._framed(image, path=path)
        if not self.captured:
            raise SourceError(f"{self.name} holds no image that can be read ({self.skipped} tried)")

    @staticmethod
    def _read(path: Path) -> tuple[Path, NDArray[uint8] | None]:
        try:
            return path, read_image(path)
        except ImageError:
            return path, None


class RawSource(FiniteSource):
    """Raw frames from standard input: BGR, 3 bytes a pixel, rows from the top, one frame after the other."""

    def __init__(
        self,
        width: int,
        height: int,
        fps: float | None,
        geometry: Geometry = Geometry(),
        stream: IO[bytes] | None = None,
    ):
        from edgecls.imaging.opencv import MAX_PIXELS, PIXELS_VARIABLE

        if width * height > MAX_PIXELS:
            raise UsageError(
                f"`width` and `height` make {width * height:,} pixels, above the limit of {MAX_PIXELS:,}; raise "
                f"{PIXELS_VARIABLE} if the frames are that large"
            )
        super().__init__("standard input", geometry)
        self.fps = fps or DEFAULT_FPS
        self._shape = (height, width, 3)
        self._stream = stream or sys.stdin.buffer

    def __iter__(self) -> Iterator[Frame]:
        import numpy as np

        size = self._shape[0] * self._shape[1] * 3
        while content := self._stream.read(size):
            if len(content) < size:
                raise SourceError(
                    f"the last frame on standard input holds {len(content)} of {size} bytes; are `width` "
                    f"{self._shape[1]} and `height` {self._shape[0]} right, and the pixels bgr24?"
                )
            yield self._framed(np.frombuffer(content, np.uint8).reshape(self._shape))
        if not self.captured:
            raise SourceError("standard input gave no frame")
