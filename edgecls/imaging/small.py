"""What a picture looks like from afar, and whether it has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

SMALL_PX = 32
STILL = 6.0
"""On 0..255: a cell of a small copy that differs by more has changed. A camera's noise, averaged over a cell, stays far
below; what covers a tenth of a cell in a brightness 60 apart reaches it.
"""


def small_grey(image: NDArray[uint8]) -> NDArray[uint8]:
    """A grey copy (32, 32) of a BGR image (H, W, 3), each cell the mean of what it covers."""
    from edgecls.imaging.opencv import cv2

    return cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (SMALL_PX, SMALL_PX), interpolation=cv2.INTER_AREA)


def unchanged(one: NDArray[uint8], other: NDArray[uint8]) -> bool:
    """Whether two small copies show the same thing in the same place, however bright it is."""
    import numpy as np

    difference = one.astype(np.float32) - other
    return bool(np.abs(difference - np.median(difference)).max() <= STILL)
