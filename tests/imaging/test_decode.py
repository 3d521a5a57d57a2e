from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgecls.errors import ImageError, UsageError
from edgecls.imaging.decode import counted, decode_image, find_images, jpeg_head, parse_colour, read_image
from edgecls.imaging.opencv import cv2
from edgecls.imaging.preprocess import ANY_SIZE, Preprocess, Resize


def encoded(suffix: str, shape: tuple[int, ...] = (40, 60, 3), dtype: type = np.uint8) -> bytes:
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    return cv2.imencode(suffix, image)[1].tobytes()


def saved(kind: str, mode: str, **options: Any) -> bytes:
    """A picture as Pillow writes it, for what OpenCV does not write."""
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tiff"])
def test_the_usual_formats_give_bgr_uint8(suffix: str):
    image = decode_image(encoded(suffix), "x")
    assert image.shape == (40, 60, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize(
    "content",
    [
        encoded(".png", (40, 60)),
        encoded(".png", (40, 60, 4)),
        encoded(".png", (40, 60, 3), np.uint16),
        encoded(".jpg", (40, 60)),
        saved("JPEG", "CMYK"),
        saved("GIF", "P"),
        saved("PNG", "LA"),
        saved("PNG", "1"),
        saved("GIF", "P", save_all=True, append_images=[Image.new("P", (60, 40), 3)]),
        saved("WEBP", "RGB", save_all=True, append_images=[Image.new("RGB", (60, 40))]),
    ],
    ids=[
        "grey",
        "transparent",
        "16-bit",
        "grey jpeg",
        "CMYK",
        "palette",
        "grey transparent",
        "1-bit",
        "animated GIF",
        "animated WebP",
    ],
)
def test_other_modes_become_bgr_uint8(content: bytes):
    image = decode_image(content, "x")
    assert image.shape == (40, 60, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_refused_and_not_filled_with_grey(suffix: str, kept: float):
    content = encoded(suffix, (200, 200, 3))
    with pytest.raises(ImageError, match="photo is truncated"):
        decode_image(content[: int(kept * len(content))], "photo")


def test_a_progressive_jpeg_with_trailing_bytes_is_whole():
    image = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[
        1
    ].tobytes()
    assert decode_image(content + b"\x00\xff\xda\x00trailing", "x").shape == (80, 80, 3)


def test_a_thumbnail_inside_does_not_hide_a_truncated_photo():
    content = encoded(".jpg", (200, 200, 3))
    thumbnail = encoded(".jpg", (16, 16, 3))
    exif = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = content[:2] + exif + content[2:]
    assert decode_image(whole, "x").shape == (200, 200, 3)
    with pytest.raises(ImageError, match="truncated"):
        decode_image(whole[: len(whole) // 2], "x")


def test_exif_orientation_is_applied():
    content = encoded(".jpg", (40, 60, 3))
    # One TIFF directory with one entry: Orientation (0x0112) = 6, which turns the picture by 90 degrees.
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
    body = b"Exif\x00\x00" + tiff
    turned = content[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + content[2:]
    assert decode_image(turned, "x").shape == (60, 40, 3)


def test_what_is_no_image_says_so(tmp_path: Path):
    (tmp_path / "notes.jpg").write_text("hello")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r"notes\.jpg is not an image"):
        read_image(tmp_path / "notes.jpg")
    with pytest.raises(ImageError, match=r"empty\.jpg is empty"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(ImageError, match=r"cannot read .*gone\.jpg"):
        read_image(tmp_path / "gone.jpg")


def test_telephones_pictures_are_read_whatever_they_are_called(tmp_path: Path):
    heif = pytest.importorskip("pillow_heif")
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, 30:] = 0, 0, 255  # the right half is red, in BGR
    file = heif.from_bytes("BGR", (60, 40), picture.tobytes())
    for name in ("photo.heic", "photo.jpg"):
        file.save(tmp_path / name, quality=100)
        found = read_image(tmp_path / name)
        assert found.shape == (40, 60, 3)
        assert found[20, 50, 2] > 200 > 60 > found[20, 10, 2]


def test_a_damaged_telephone_picture_is_an_error():
    pytest.importorskip("pillow_heif")
    with pytest.raises(ImageError, match="HEIC image that cannot be decoded"):
        decode_image(b"\0\0\0\x18ftypheic" + bytes(60), "photo")


def test_folders_are_searched_through_links_and_each_once(tmp_path: Path):
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "folder"
    for target in (elsewhere, folder):
        target.mkdir()
    for name in ("a.jpg", "b.jfif", "c.HEIC", "d.avif", "notes.txt", ".hidden.jpg"):
        (elsewhere / name).write_bytes(b"x")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "one.png").symlink_to(elsewhere / "a.jpg")
    (elsewhere / "back").symlink_to(folder)
    found = [str(path.relative_to(folder)) for path in find_images(folder)]
    assert found == ["linked/a.jpg", "linked/b.jfif", "linked/c.HEIC", "linked/d.avif", "one.png"]


@pytest.mark.parametrize(("limit", "read"), [("2399", False), ("2400", True)])
def test_an_image_of_more_pixels_than_allowed_is_refused(tmp_path: Path, limit: str, read: bool):
    (tmp_path / "x.png").write_bytes(encoded(".png", (40, 60, 3)))
    code = "import sys, pathlib, edgecls.imaging.decode as images; images.read_image(pathlib.Path(sys.argv[1]))"
    environment = {name: value for name, value in os.environ.items() if name != "OPENCV_IO_MAX_IMAGE_PIXELS"}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.png")],
        env={**environment, "EDGECLS_MAX_PIXELS": limit},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode == 0) is read, ended.stderr
    assert read or f"more than {limit} pixels (EDGECLS_MAX_PIXELS sets another limit)" in ended.stderr


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "nul\0", "x" * 300, "x" * 5000, "~nosuchuser/x.jpg"])
def test_what_is_no_file_is_no_image_and_does_not_hang(tmp_path: Path, name: str):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="cannot read"):
        read_image(tmp_path / name)


def test_files_are_judged_by_their_content_where_their_names_do_not_say(tmp_path: Path):
    for name, content in (
        ("noname", encoded(".jpg")), ("photo.dat", encoded(".png")), ("a.tmp", encoded(".webp")),
        ("notes.txt", b"hello"), ("layers.psd", b"8BPS"), ("more.psd", b"8BPS"), ("README", b"read me"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
    left_out: Counter[str] = Counter()
    assert [path.name for path in find_images(tmp_path, left_out)] == ["a.tmp", "noname", "photo.dat"]
    assert left_out == {".psd": 2, ".txt": 1, "without suffix": 1}
    assert counted(left_out).startswith("2 .psd, 1 ")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparent_pixels_lie_over_the_colour_that_was_asked_for(dtype: type):
    image = np.zeros((2, 3, 4), dtype)
    image[..., 2] = np.iinfo(dtype).max  # red
    image[:, 1, 3], image[:, 2, 3] = np.iinfo(dtype).max // 2, np.iinfo(dtype).max
    content = cv2.imencode(".png", image)[1].tobytes()
    assert decode_image(content, "x")[0].tolist() == [[0, 0, 255]] * 3
    over_white = decode_image(content, "x", parse_colour("white"))[0].tolist()
    assert over_white[0] == [255, 255, 255]
    assert over_white[1] == pytest.approx([128, 128, 255], abs=1)
    assert over_white[2] == [0, 0, 255]
    assert decode_image(content, "x", parse_colour("#102030"))[0, 0].tolist() == [0x30, 0x20, 0x10]


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_without_transparency_a_background_changes_nothing(suffix: str):
    content = encoded(suffix)
    assert (decode_image(content, "x", (0, 255, 0)) == decode_image(content, "x")).all()


@pytest.mark.parametrize("text", ["", "red", "#12345", "#1234567", "#gggggg", "\u00b2", "white "])
def test_what_is_no_colour_is_refused(text: str):
    with pytest.raises(UsageError, match="black, grey, white"):
        parse_colour(text)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(40, 60), (50, 50)], ids=str)
def test_transparency_is_turned_with_the_picture(orientation: int, shape: tuple[int, int]):
    colours = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    transparent = np.dstack([colours, np.full(shape, 255, np.uint8)])
    transparent[: shape[0] // 2, :, 3] = 0
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(cv2.cvtColor(transparent, cv2.COLOR_BGRA2RGBA)).save(stream, "PNG", exif=exif)
    plain, found = (decode_image(stream.getvalue(), "x", background) for background in (None, (9, 9, 9)))
    hidden = (found == 9).all(axis=2)
    assert hidden.mean() == pytest.approx(0.5, abs=0.01)
    assert (found[~hidden] == plain[~hidden]).all()


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_grey_and_transparent_telephone_pictures_are_colour_pictures(mode: str):
    heif = pytest.importorskip("pillow_heif")
    picture = Image.new(mode, (64, 48), {"L": 200, "RGBA": (200, 200, 200, 0)}[mode])
    stream = io.BytesIO()
    heif.from_pillow(picture).save(stream, quality=100)
    found = decode_image(stream.getvalue(), "x", (0, 0, 255) if mode == "RGBA" else None)
    assert found.shape == (48, 64, 3)
    assert found[24, 32] == pytest.approx([0, 0, 255] if mode == "RGBA" else [200] * 3, abs=4)


def photograph(height: int, width: int) -> np.ndarray:
    """Soft shapes and fine detail, as a camera sees them."""
    generator = np.random.default_rng(5)
    coarse = cv2.resize(
        generator.integers(0, 255, (9, 12, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    fine = cv2.resize(generator.integers(-20, 20, (height // 3, width // 3, 3)).astype(np.float32), (width, height))
    return np.clip(coarse + fine, 0, 255).astype(np.uint8)


class TestReducedJpegs:
    @pytest.mark.parametrize("resize", ["crop", "stretch", "letterbox"])
    @pytest.mark.parametrize("size", [(480, 640), (1203, 1605), (901, 2401), (64, 64)])
    @pytest.mark.parametrize("orientation", [1, 3, 6])
    def test_the_network_sees_the_same_picture(self, size: tuple[int, int], resize: Resize, orientation: int):
        geometry = Preprocess(64, 64, resize=resize, crop=0.875)
        exif = Image.Exif()
        exif[0x0112] = orientation
        stream = io.BytesIO()
        Image.fromarray(photograph(*size)).save(stream, "JPEG", quality=95, exif=exif)
        whole = decode_image(stream.getvalue(), "x")
        reduced = decode_image(stream.getvalue(), "x", geometry=geometry)
        odd = bool(size[0] % 2 or size[1] % 2)  # what is turned then begins with a part of a block, and comes whole
        assert (reduced.size < whole.size / 3) == (size != (64, 64) and not odd)
        assert cv2.absdiff(geometry(whole), geometry(reduced)).mean() < 1.0

    @pytest.mark.parametrize("size", [(1203, 1605), (901, 2401)])
    def test_odd_sizes_are_reduced_where_nothing_is_turned(self, size: tuple[int, int]):
        content = cv2.imencode(".jpg", photograph(*size))[1].tobytes()
        geometry = Preprocess(64, 64, crop=0.875)
        whole, reduced = decode_image(content, "x"), decode_image(content, "x", geometry=geometry)
        assert reduced.shape[:2] == (size[0] // 8, size[1] // 8)
        assert cv2.absdiff(geometry(whole), geometry(reduced)).mean() < 1.0

    @pytest.mark.parametrize("resize", ["crop", "stretch", "letterbox"])
    @pytest.mark.parametrize("size", [(3000, 4000), (4000, 3000), (65, 4000), (129, 130), (1, 1)])
    def test_what_is_left_is_never_smaller_than_the_input_needs(self, size: tuple[int, int], resize: Resize):
        geometry = Preprocess(64, 48, resize=resize, crop=0.9)
        by = geometry.reduction(*size)
        assert by == 1 or geometry._is_enough(size[0] // by, size[1] // by)
        assert geometry.reduction(*size) == geometry.reduction(*size[::-1])

    def test_an_input_of_one_pixel_ends_the_halving(self):
        assert ANY_SIZE.reduction(3000, 4000) == 2048
        assert ANY_SIZE.reduction(1, 1) == 1
        assert decode_image(encoded(".jpg", (400, 600, 3)), "x", geometry=ANY_SIZE).shape == (50, 75, 3)

    def test_only_where_pixels_are_averaged_anyway(self):
        assert Preprocess(64, 64).reduction(3000, 4000) > 8
        assert Preprocess(64, 64, interpolation="area").reduction(3000, 4000) > 8
        for kind in ("linear", "cubic", "nearest"):
            assert Preprocess(64, 64, interpolation=kind).reduction(3000, 4000) == 1

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}])
    def test_the_size_of_a_jpeg_is_read_from_its_head(self, options: dict[str, Any]):
        head = jpeg_head(saved("JPEG", "RGB", **options))
        assert head is not None
        assert (head.height_px, head.width_px, head.has_exif) == (40, 60, False)

    def test_other_files_have_no_such_size_and_come_whole(self):
        assert jpeg_head(encoded(".png")) is None
        assert decode_image(encoded(".png", (400, 600, 3)), "x", geometry=Preprocess(8, 8)).shape == (400, 600, 3)

    def test_what_is_cut_short_or_damaged_is_refused_as_before(self):
        content = encoded(".jpg", (400, 600, 3))
        for damaged in (content[: len(content) // 2], content[:30], b"\xff\xd8" + content[200:]):
            with pytest.raises(ImageError):
                decode_image(damaged, "x", geometry=Preprocess(8, 8))
