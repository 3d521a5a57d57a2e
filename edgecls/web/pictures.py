"""Pictures for browsers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

JPEG_QUALITY = 80
LARGEST_SIDE_PX = 1280
"""Larger pictures are halved until they fit, for the browser's and the network's sake."""


class Newest:
    """The newest picture, encoded when a browser asks for it, once for all of them. From any thread."""

    def __init__(self) -> None:
        self._newest: tuple[int, Callable[[], NDArray[uint8]]] | None = None
        self._encoded: tuple[int, bytes] | None = None
        self._encoding = threading.Lock()

    def put(self, number: int, image: Callable[[], NDArray[uint8]]) -> None:
        """A new picture and its number: what gives it as BGR uint8 (H, W, 3)."""
        self._newest = (number, image)

    def jpeg(self, after: int = -1) -> tuple[int, bytes] | None:
        """The newest picture's number and JPEG; None where there is none, or its number is `after`."""
        newest = self._newest
        if newest is None or newest[0] == after:
            return None
        with self._encoding:
            number, image = self._newest or newest
            if self._encoded is None or self._encoded[0] != number:
                self._encoded = (number, to_jpeg(image()))
            return self._encoded


def to_jpeg(image: NDArray[uint8], side_px: int = LARGEST_SIDE_PX) -> bytes:
    """A BGR picture (H, W, 3) as JPEG, no side longer than `side_px`."""
    from edgecls.imaging.opencv import cv2

    while max(image.shape[:2]) > side_px:
        half = (max(1, image.shape[1] // 2), max(1, image.shape[0] // 2))
        image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
