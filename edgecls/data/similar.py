"""Which images show nearly the same: found by perceptual hashes, confirmed on small copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecls.imaging.small import small_grey

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

HASH_SIDE = 8
MAX_DISTANCE_BITS = 6
"""Of 64. Copies in another size or quality differ in fewer, different photographs of one thing in more."""
MAX_DIFFERENCE = 8.0
"""Mean difference of two small copies, on 0..255 after both are brought to one brightness."""
BLOCK = 2048


@dataclass(frozen=True)
class PerceptualHash:
    """What an image looks like from afar: `bits` (64,) of -1 and 1, and a grey copy (1024,)."""

    bits: NDArray[float32]
    small: NDArray[uint8]


def perceptual_hash(image: NDArray[uint8]) -> PerceptualHash:
    """The look of a BGR image (H, W, 3): signs of its lowest frequencies against their median (pHash, Zauner 2010)."""
    import numpy as np

    from edgecls.imaging.opencv import cv2

    grey = small_grey(image)
    low = cv2.dct(grey.astype(np.float32))[:HASH_SIDE, :HASH_SIDE].ravel()
    bits = np.where(low > np.median(low[1:]), 1, -1).astype(np.float32)
    return PerceptualHash(bits, grey.ravel().astype(np.uint8, copy=False))


def near_pairs(looks: Sequence[PerceptualHash]) -> Iterator[tuple[int, int]]:
    """The positions (first, second) of all pairs that show nearly the same."""
    import numpy as np

    if not looks:
        return
    bits = np.stack([look.bits for look in looks])
    small = np.stack([look.small for look in looks]).astype(np.float32)
    small -= small.mean(axis=1, keepdims=True)
    for start in range(0, len(looks), BLOCK):
        for other in range(start, len(looks), BLOCK):
            agreeing = bits[start : start + BLOCK] @ bits[other : other + BLOCK].T
            close = np.argwhere(agreeing >= bits.shape[1] - 2 * MAX_DISTANCE_BITS)
            for first, second in (close + np.array([start, other])).tolist():
                if first < second and abs(small[first] - small[second]).mean() <= MAX_DIFFERENCE:
                    yield first, second
