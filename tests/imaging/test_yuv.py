from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgecls.imaging.opencv import cv2
from edgecls.imaging.preprocess import Preprocess
from edgecls.imaging.yuv import Matrix, Yuv

MATRICES: dict[Matrix, np.ndarray] = {
    # Red, green and blue of full-range luma, Cb - 128 and Cr - 128, as the recommendations print them.
    "bt601": np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]]),
    "bt709": np.array([[1, 0, 1.5748], [1, -0.187324, -0.468124], [1, 1.8556, 0]]),
    "bt2020": np.array([[1, 0, 1.4746], [1, -0.164553, -0.571353], [1, 1.8814, 0]]),
}


def bgr_of(luma: np.ndarray, cb: np.ndarray, cr: np.ndarray, matrix: Matrix, full_range: bool) -> np.ndarray:
    """The whole picture in double precision, each chroma sample repeated for the pixels that share it."""
    height, width = luma.shape
    cb, cr = (
        plane.repeat(-(-height // plane.shape[0]), 0).repeat(-(-width // plane.shape[1]), 1)[:height, :width]
        for plane in (cb, cr)
    )
    y, u, v = (plane.astype(float) for plane in (luma, cb, cr))
    y, u, v = (
        (y, u - 128, v - 128) if full_range else ((y - 16) * 255 / 219, (u - 128) * 255 / 224, (v - 128) * 255 / 224)
    )
    rgb = np.stack([y, u, v], -1) @ MATRICES[matrix].T
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)[..., ::-1]


def picture(
    height: int, width: int, subsampling: tuple[int, int] = (2, 2), matrix: Matrix = "bt601", full_range: bool = False
) -> Yuv:
    """A soft picture of moderate colours, none of which RGB cannot hold."""
    random = np.random.default_rng(0)

    def plane(height: int, width: int, low: int, high: int) -> np.ndarray:
        return cv2.resize(random.integers(low, high, (7, 9)).astype(np.uint8), (width, height))

    down, across = subsampling
    luma = plane(height, width, 70, 180)
    cb, cr = (plane(-(-height // down), -(-width // across), 108, 148) for _ in range(2))
    return Yuv(luma, [cb, cr], subsampling, matrix, full_range, lambda: bgr_of(luma, cb, cr, matrix, full_range))


def differences(yuv: Yuv, preprocess: Preprocess) -> np.ndarray:
    return np.abs(preprocess(yuv).astype(int) - preprocess(yuv.to_bgr()))


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_are_those_of_the_standards(matrix: Matrix, full_range: bool):
    assert differences(picture(64, 64, (1, 1), matrix, full_range), Preprocess(64, 64)).max() <= 1


@pytest.mark.parametrize("subsampling", [(2, 2), (1, 2), (1, 1), (1, 4)])
@pytest.mark.parametrize("size", [(360, 640), (1080, 1920), (241, 323), (97, 60)])
@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(96, 96, crop=0.875), Preprocess(96, 96, resize="stretch"), Preprocess(96, 128, resize="letterbox"),
        Preprocess(96, 96, interpolation="area"), Preprocess(96, 96, interpolation="linear"),
    ],
)  # fmt: skip
def test_planes_are_brought_to_size_like_the_whole_picture(
    preprocess: Preprocess, size: tuple[int, int], subsampling: tuple[int, int]
):
    seen = differences(picture(*size, subsampling), preprocess)
    assert preprocess(picture(*size, subsampling)).shape == (preprocess.height_px, preprocess.width_px, 3)
    assert seen.mean() < 0.9  # rounding; where chroma is enlarged, it is interpolated instead of repeated
    assert seen.max() <= 8


@pytest.mark.parametrize("size", [(48, 64), (49, 63)])
@pytest.mark.parametrize(
    "part", [(slice(0, 32), slice(8, 40)), (slice(3, 30), slice(5, 42)), (slice(7, 99), slice(1, 2))]
)
def test_a_part_is_the_same_pixels_as_of_the_whole_picture(size: tuple[int, int], part: tuple[slice, slice]):
    cut = picture(*size)[part]
    assert cut.shape == cut.to_bgr().shape[:2] == picture(*size).to_bgr()[part].shape[:2]
    unscaled = Preprocess(*cut.shape, interpolation="nearest", resize="stretch")
    expanded = replace(
        cut,
        subsampling=(1, 1),
        chroma=[cv2.resize(plane, cut.shape[::-1], interpolation=cv2.INTER_NEAREST) for plane in cut.chroma],
    )
    assert np.abs(unscaled(expanded).astype(int) - unscaled(cut.to_bgr())).max() <= 1


def test_a_part_outside_of_the_picture_is_empty():
    assert picture(48, 64)[slice(60, 70), slice(0, 8)].size == 0
    assert picture(48, 64)[slice(3, 9), slice(71, 80)].size == 0


@pytest.mark.parametrize("size", [(48, 64), (49, 63)])
@pytest.mark.parametrize(
    "turn", [lambda plane: cv2.rotate(plane, cv2.ROTATE_90_CLOCKWISE), lambda plane: cv2.flip(plane, -1)]
)
def test_a_turned_picture_is_the_whole_picture_turned(size: tuple[int, int], turn: Callable[[np.ndarray], np.ndarray]):
    turned = picture(*size).turned(turn)
    assert (turned.to_bgr() == turn(picture(*size).to_bgr())).all()
    assert differences(turned, Preprocess(24, 24)).max() <= 3


def test_interleaved_chroma_gives_the_same_as_planes():
    planes = picture(240, 320)
    interleaved = replace(planes, chroma=[np.dstack(planes.chroma)])
    assert (Preprocess(96, 96)(planes) == Preprocess(96, 96)(interleaved)).all()
    cut = (slice(3, 200), slice(5, 300))
    seen = [Preprocess(96, 96)(each[cut]).astype(int) for each in (planes, interleaved)]
    assert np.abs(seen[0] - seen[1]).max() <= 3  # one level of chroma: OpenCV rounds two channels otherwise
