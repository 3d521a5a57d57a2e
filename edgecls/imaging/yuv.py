"""A picture as video decoders give it: brightness and colour in planes of their own, the colour often at half the size.

It is scaled plane by plane and becomes RGB only then, so that no full-size RGB picture is made for a small input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

Matrix = Literal["bt601", "bt709", "bt2020"]

LUMA_WEIGHTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593),
}  # fmt: skip
"""Of red and blue in the brightness (ITU-R BT.601-7, BT.709-6, BT.2020-2)."""


@dataclass(frozen=True)
class Yuv:
    """A picture of height H and width W with 8 bits a sample.

    `luma` is (H, W) uint8; `chroma` Cb and Cr, uint8, as two planes (h, w) or as one (h, w, 2). `subsampling` says how
    many rows and columns of luma share a chroma sample: (2, 2) in 4:2:0. `to_bgr` makes the whole picture, BGR uint8
    (H, W, 3). Rows and columns are cut out as of an array: `picture[top:bottom, left:right]`.
    """

    luma: NDArray[uint8]
    chroma: Sequence[NDArray[uint8]]
    subsampling: tuple[int, int]
    matrix: Matrix
    full_range: bool
    to_bgr: Callable[[], NDArray[uint8]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width in pixels."""
        return self.luma.shape

    @property
    def size(self) -> int:
        """The number of pixels."""
        return self.luma.size

    def __getitem__(self, part: tuple[slice, slice]) -> Yuv:
        """The picture inside these rows and columns, whose step is 1.

        Where these divide a chroma sample, or chroma is not scaled down alike in both directions, chroma is repeated to
        the size of luma first, so that every cut falls on the same pixels as in an RGB picture.
        """
        (top, bottom, _), (left, right, _) = (each.indices(side) for each, side in zip(part, self.shape, strict=True))
        down, across = self.subsampling
        whole = down == across and not any(edge % down for edge in (top, bottom, left, right))

        def cut(plane: NDArray[uint8]) -> NDArray[uint8]:
            covering = plane[top // down : -(-bottom // down), left // across : -(-right // across)]
            if whole or not covering.size:
                return covering
            repeated = _repeated(covering, down, across)
            return repeated[top % down :, left % across :][: max(0, bottom - top), : max(0, right - left)]

        return Yuv(
            self.luma[part], [cut(plane) for plane in self.chroma], self.subsampling if whole else (1, 1), self.matrix,
            self.full_range, lambda: self.to_bgr()[part],
        )  # fmt: skip

    def turned(self, turn: Callable[[NDArray[uint8]], NDArray[uint8]]) -> Yuv:
        """The picture after a rotation or reflection that is given as a function of an array (H, W) or (H, W, C)."""
        whole = self[: self.shape[0], : self.shape[1]]
        return Yuv(
            turn(whole.luma), [turn(plane) for plane in whole.chroma], whole.subsampling, self.matrix,
            self.full_range, lambda: turn(self.to_bgr()),
        )  # fmt: skip

    def to_rgb(self, scale: Callable[[NDArray[uint8]], NDArray[uint8]]) -> NDArray[uint8]:
        """RGB uint8 (h, w, 3) of the planes after `scale` brought each to (h, w)."""
        from edgecls.imaging.opencv import cv2

        planes = cv2.merge([scale(plane) for plane in (self.luma, *self.chroma)])
        return cv2.transform(planes, _rgb_of(self.matrix, self.full_range))


Picture: TypeAlias = "NDArray[uint8] | Yuv"
"""BGR uint8 (H, W, 3), or what becomes that when somebody asks for it."""


def _repeated(plane: NDArray[uint8], down: int, across: int) -> NDArray[uint8]:
    from edgecls.imaging.opencv import cv2

    size = (plane.shape[1] * across, plane.shape[0] * down)
    return cv2.resize(plane, size, interpolation=cv2.INTER_NEAREST)


@lru_cache(maxsize=8)
def _rgb_of(matrix: Matrix, full_range: bool) -> NDArray[float32]:
    """(3, 4): what makes red, green and blue of luma, Cb, Cr and 1, all on 0 to 255."""
    import numpy as np

    red, blue = LUMA_WEIGHTS[matrix]
    green = 1 - red - blue
    from_cb = (0.0, -2 * (1 - blue) * blue / green, 2 * (1 - blue))
    from_cr = (2 * (1 - red), -2 * (1 - red) * red / green, 0.0)
    black, luma_gain, chroma_gain = (0, 1.0, 1.0) if full_range else (16, 255 / 219, 255 / 224)
    rows = [[luma_gain, chroma_gain * cb, chroma_gain * cr] for cb, cr in zip(from_cb, from_cr, strict=True)]
    return np.array([[*row, -row[0] * black - 128 * (row[1] + row[2])] for row in rows], np.float32)
