"""A frame, and which part of it is looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgecls.errors import UsageError
from edgecls.imaging.yuv import Picture, Yuv
from edgecls.settings import Config, setting

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray


MAX_SIDE_PX = 65_535
"""Of a picture that a camera is asked for, or that a region lies in."""
ROUNDING = 1e-9
"""Of fractions of a picture that make 1 together."""
SLOWEST_FPS, FASTEST_FPS = 1e-3, 1e4
"""Of pictures and decisions: from one in a quarter of an hour, for what is watched for weeks, to high-speed cameras."""


@dataclass(frozen=True)
class Frame:
    """One picture and its number in the source.

    `picture` is what `Preprocess` takes: BGR uint8 (H, W, 3), or a video's `Yuv`. `captured_ns` is when it was captured
    (`clock.now_ns`); `pts_s` its place in time for decisions: seconds of the clock for live sources, seconds of the
    video for files. `path` is the file that it was read from, if it was one that can be read again.
    """

    picture: Picture
    index: int
    captured_ns: int
    pts_s: float
    path: Path | None = None

    @cached_property
    def image(self) -> NDArray[uint8]:
        """The whole picture, BGR uint8 (H, W, 3), converted when it is first asked for."""
        return self.picture.to_bgr() if isinstance(self.picture, Yuv) else self.picture


@dataclass(frozen=True)
class Region:
    """A rectangle, in pixels, or in fractions of the picture where no value exceeds 1."""

    left: float
    top: float
    width: float
    height: float

    @classmethod
    def parse(cls, text: str) -> Region:
        """Read "left,top,width,height". Raises `UsageError`."""
        try:
            left, top, width, height = (float(part) for part in text.split(","))
        except ValueError:
            left = top = width = height = -1.0
        sides = (left, top, width, height)
        if not text.isascii() or not all(side <= MAX_SIDE_PX for side in sides) or min(sides) < 0 or not width * height:
            raise UsageError(
                f"`region` takes left,top,width,height in pixels, or in fractions such as 0.25,0,0.5,1; not {text!r}"
            )
        return cls(left, top, width, height)

    def of(self, image: Picture) -> Picture:
        """The part of a picture inside the rectangle; empty where they do not meet."""
        left, top, right, bottom = self.within(*image.shape[:2])
        return image[top:bottom, left:right]

    def within(self, height_px: int, width_px: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the part that lies in a picture of this size, in pixels."""
        across, down = (width_px, height_px) if self._in_fractions else (1, 1)
        left, top = round(self.left * across), round(self.top * down)
        right, bottom = left + round(self.width * across), top + round(self.height * down)
        return left, top, min(right, width_px), min(bottom, height_px)

    def exceeds(self, height_px: int, width_px: int) -> bool:
        """Whether some of it lies outside of a picture of this size."""
        width, height = (1, 1) if self._in_fractions else (width_px, height_px)
        return self.left + self.width > width + ROUNDING or self.top + self.height > height + ROUNDING

    @property
    def _in_fractions(self) -> bool:
        return max(self.left, self.top, self.width, self.height) <= 1


@dataclass(frozen=True, kw_only=True)
class Geometry(Config):
    """How a camera's picture is turned, then flipped, then cut."""

    rotate: Literal[0, 90, 180, 270] = setting(0, "Degrees clockwise.")
    flip: Literal["horizontal", "vertical", "both"] | None = setting(None, "Mirror the picture.")
    region: Region | None = setting(
        None, "Look only at left,top,width,height: pixels, or fractions such as 0.25,0,0.5,1."
    )

    def __call__(self, image: Picture) -> Picture:
        """Apply to a picture; a region that lies outside gives an empty picture."""
        image = self.turn(image)
        return self.region.of(image) if self.region else image

    def turn(self, image: Picture) -> Picture:
        """A picture turned and flipped, but not cut."""
        from edgecls.imaging.opencv import cv2

        if self.rotate:
            turns = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
            image = turned(image, lambda plane: cv2.rotate(plane, turns[self.rotate]))
        if self.flip:
            axis = {"horizontal": 1, "vertical": 0, "both": -1}[self.flip]
            image = turned(image, lambda plane: cv2.flip(plane, axis))
        return image


def turned(image: Picture, turn: Callable[[NDArray[uint8]], NDArray[uint8]]) -> Picture:
    """A picture after a rotation or reflection that is given as a function of an array."""
    return image.turned(turn) if isinstance(image, Yuv) else turn(image)
