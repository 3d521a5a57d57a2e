from __future__ import annotations

import numpy as np
import pytest

from edgecls.errors import ArtifactError, ImageError
from edgecls.fields import Fields
from edgecls.imaging.preprocess import Preprocess


def stripes(height: int, width: int) -> np.ndarray:
    """An image whose blue channel counts columns and whose green channel counts rows."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width)
    image[..., 1] = np.arange(height)[:, None]
    return image


def test_output_is_rgb_and_input_bgr():
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 200  # blue
    assert Preprocess(4, 4)(image)[0, 0].tolist() == [0, 0, 200]


def test_crop_keeps_the_largest_centred_region():
    out = Preprocess(10, 10)(stripes(10, 30))
    assert out.shape == (10, 10, 3)
    assert out[0, :, 2].tolist() == list(range(10, 20))
    out = Preprocess(10, 10)(stripes(30, 10))
    assert out[:, 0, 1].tolist() == list(range(10, 20))


def test_crop_follows_the_aspect_ratio_of_the_input():
    out = Preprocess(10, 20)(stripes(30, 20))
    assert out.shape == (10, 20, 3)
    assert out[:, 0, 1].tolist() == list(range(10, 20))


def test_stretch_uses_the_whole_image():
    out = Preprocess(4, 4, resize="stretch", interpolation="nearest")(stripes(4, 8))
    assert out[0, :, 2].tolist() == [0, 2, 4, 6]


def test_the_pyramid_averages_where_linear_skips_pixels():
    image = np.zeros((64, 64, 3), np.uint8)
    image[::8] = 255  # one bright row in eight: an eighth of the light
    averaged = Preprocess(8, 8)(image).mean()
    skipped = Preprocess(8, 8, interpolation="linear")(image).mean()
    assert averaged == pytest.approx(255 / 8, abs=1)
    assert abs(skipped - 255 / 8) > 20


@pytest.mark.parametrize("shape", [(65, 97, 3), (64, 64, 3), (17, 200, 3)])
def test_the_pyramid_takes_odd_sizes(shape: tuple[int, ...]):
    for resize in ("crop", "stretch", "letterbox"):
        assert Preprocess(16, 16, resize=resize)(np.full(shape, 50, np.uint8)).shape == (16, 16, 3)


def test_letterbox_keeps_everything_and_fills_with_grey():
    out = Preprocess(8, 8, resize="letterbox")(np.full((4, 8, 3), 255, np.uint8))
    assert out[0, 0].tolist() == [114, 114, 114]
    assert out[2:6].min() == 255
    assert out[6:].max() == 114


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 1), (6, 6, 4)])
def test_grey_and_transparent_images_are_taken(shape: tuple[int, ...]):
    out = Preprocess(4, 4)(np.full(shape, 90, np.uint8))
    assert out.shape == (4, 4, 3)
    assert np.unique(out).tolist() == [90]


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_anything_else_is_an_error_that_names_what_came(image: np.ndarray):
    with pytest.raises(ImageError, match="image"):
        Preprocess(4, 4)(image)


def test_one_pixel_is_enough():
    assert Preprocess(4, 6)(np.full((1, 1, 3), 7, np.uint8)).shape == (4, 6, 3)


def test_record_survives_json():
    preprocess = Preprocess(32, 48, resize="letterbox", interpolation="area", mean=(0.5, 0.5, 0.5), std=(1, 1, 1))
    assert Preprocess.from_fields(Fields(preprocess.to_json(), "card")) == preprocess


@pytest.mark.parametrize(
    "change", [{"resize": "fisheye"}, {"interpolation": "magic"}, {"mean": [1]}, {"height_px": "tall"}]
)
def test_an_unknown_geometry_is_refused(change: dict):
    with pytest.raises(ArtifactError, match=next(iter(change))):
        Preprocess.from_fields(Fields({**Preprocess(4, 4).to_json(), **change}, "card"))


@pytest.mark.parametrize("resize", ["crop", "stretch", "letterbox"])
@pytest.mark.parametrize("size", [(60, 100), (100, 60), (64, 64), (640, 300)], ids=str)
def test_a_map_of_the_input_lies_over_the_image_where_the_input_was_taken_from(resize, size):
    preprocess = Preprocess(32, 32, resize=resize)
    image = np.zeros((*size, 3), np.uint8)
    row, column = size[0] // 2, size[1] // 2 + size[0] // 8
    reach = max(3, min(size) // 12)
    image[row - reach : row + reach, column - reach : column + reach] = 255
    laid = preprocess.laid_over(preprocess(image)[:, :, 0].astype(np.float32), *size)
    assert laid.shape == size
    rows, columns = np.nonzero(np.nan_to_num(laid) > 0.8 * np.nanmax(laid))
    assert abs(rows.mean() - row) < reach
    assert abs(columns.mean() - column) < reach
    _, _, height, width = preprocess.seen(*size)
    assert np.isfinite(laid).sum() == height * width
