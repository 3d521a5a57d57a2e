"""Image files: finding them, and reading one whole or not at all."""

from __future__ import annotations

import os
import re
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from edgecls.errors import DataError, ImageError, UsageError, first_line
from edgecls.files import read_bytes, shortened

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray
    from PIL.Image import Image

    from edgecls.imaging.preprocess import Preprocess

    ImageLike: TypeAlias = str | Path | bytes | bytearray | memoryview | NDArray[uint8] | Image
    """A path, the bytes of a file, an array (H, W, 3), or a PIL image."""

ColourOrder = Literal["bgr", "rgb"]
"""Of the channels of an array; OpenCV's is bgr."""
_PIL_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif"}
)
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
"""How JPEG, PNG, GIF and TIFF files begin. BMP's two letters say too little."""
MAX_FILE_BYTES = 512 << 20
"""Of one image file."""
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""What an ISO base media file that holds HEVC pictures calls itself (ISO/IEC 23008-12, annex B)."""

_END_OF_IMAGE, _EXIF = 0xD9, 0xE1
_ALONE = (0x01, 0xD8)
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
"""Markers of JPEG: of those without a segment, and of those whose segment holds the size of the image."""
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
"""A marker after entropy-coded data: 0xFF00 is a stuffed byte, 0xFFD0..D7 are restarts (ITU-T T.81, B.1.1)."""


def find_images(folder: Path, left_out: Counter[str] | None = None) -> list[Path]:
    """All image files below a folder, sorted: by suffix or, where that is none of an image, by their first bytes.

    Hidden files and folders are left out. `left_out` counts the other files that are left out, by suffix.
    """
    images = []
    for path in _files_below(folder):
        if path.is_file() and (path.suffix.lower() in SUFFIXES or begins_as_image(path)):
            images.append(path)
        elif left_out is not None:
            left_out[path.suffix.lower() or "without suffix"] += 1
    return sorted(images)


def counted(left_out: Mapping[str, int]) -> str:
    """Kinds of files and their numbers in words, the most frequent first: "20 .psd, 3 .txt"."""
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(left_out.items(), key=lambda each: -each[1]))


def begins_as_image(path: Path) -> bool:
    """Whether the first bytes of a file are those of an image."""
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
    except OSError:
        return False
    boxed = start[4:8] == b"ftyp" and start[8:12] in (*_HEIC_BRANDS, b"avif", b"avis")
    return boxed or start.startswith(_SIGNATURES) or (start.startswith(b"RIFF") and start[8:12] == b"WEBP")


def _files_below(folder: Path) -> Iterator[Path]:
    """What stands below a folder, links to folders followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root, name) for name in names if not name.startswith("."))


def image_paths(places: Iterable[Path], left_out: Counter[str] | None = None) -> list[Path]:
    """Image files as named, and all images below the folders among them; `left_out` is that of `find_images`.

    Raises `DataError` for a place without any.
    """
    left_out = Counter() if left_out is None else left_out
    paths: list[Path] = []
    for path in places:
        if not path.exists():
            raise DataError(f"there is no image or folder {path}")
        images = find_images(path, left_out) if path.is_dir() else [path]
        if not images:
            other = f"; it holds {counted(left_out)}" if left_out else ""
            raise DataError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))}){other}")
        paths += images
    return paths


Colour = tuple[int, int, int]
"""Blue, green and red, each 0 to 255."""
_COLOURS = {"black": "#000000", "grey": "#808080", "white": "#ffffff"}


def parse_colour(text: str) -> Colour:
    """Read black, grey, white or #rrggbb. Raises `UsageError`."""
    digits = _COLOURS.get(text.lower(), text)
    if not re.fullmatch("#[0-9A-Fa-f]{6}", digits):
        raise UsageError(f"a colour is one of {', '.join(_COLOURS)}, or such as #20c0ff; not {text!r}")
    return int(digits[5:7], 16), int(digits[3:5], 16), int(digits[1:3], 16)


def read_image(path: Path, background: Colour | None = None, geometry: Preprocess | None = None) -> NDArray[uint8]:
    """Decode an image file to BGR uint8 (H, W, 3), turned upright by its EXIF orientation.

    Grey, palette, 16-bit, CMYK and transparent images become 8-bit BGR; of an animation the first frame is taken.
    Transparent pixels have the colour that is stored below their transparency, or lie over `background`. A JPEG may
    come scaled down, as far as `geometry` allows (`Preprocess.reduction`): most of it is then never computed. Raises
    `ImageError` for a file that is missing, empty, truncated or not an image.
    """
    try:
        content = read_bytes(path, MAX_FILE_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise ImageError(f"cannot read {shortened(path)}: {getattr(error, 'strerror', None) or error}") from error
    return decode_image(content, shortened(path), background, geometry)


def as_bgr(image: ImageLike, colour_order: ColourOrder = "bgr", geometry: Preprocess | None = None) -> NDArray[uint8]:
    """An image in any form as BGR uint8 (H, W, 3): a path, a file's bytes, a PIL image, or an array (H, W, 3).

    `colour_order` is that of arrays alone; the other forms know theirs. For `geometry` see `read_image`. Raises
    `ImageError` for what is no image.
    """
    import numpy as np

    if colour_order not in get_args(ColourOrder):
        raise UsageError(f"colour_order is one of {', '.join(get_args(ColourOrder))}, not {colour_order!r}")
    if isinstance(image, (str, Path)):
        return read_image(Path(image), geometry=geometry)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return decode_image(bytes(image), "the image", geometry=geometry)
    if (pil := sys.modules.get("PIL.Image")) is not None and isinstance(image, pil.Image):
        return _from_pil(image)
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] in (3, 4) and colour_order == "rgb":
        return np.ascontiguousarray(image[..., 2::-1])
    return image


def _from_pil(image: Any) -> NDArray[uint8]:
    import numpy as np
    from PIL import ImageOps

    if image.mode not in _PIL_MODES:
        raise ImageError(f"a PIL image of mode {image.mode} is not of 8 bits a channel; convert it to RGB")
    try:
        colours = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"the PIL image cannot be decoded ({first_line(error)})") from error
    return np.ascontiguousarray(colours[..., ::-1])


def decode_image(
    content: bytes, name: str, background: Colour | None = None, geometry: Preprocess | None = None
) -> NDArray[uint8]:
    """Decode the bytes of an image file; see `read_image`. `name` stands in the error."""
    import numpy as np

    from edgecls.imaging.opencv import MAX_PIXELS, PIXELS_VARIABLE, cv2

    if not content:
        raise ImageError(f"{name} is empty")
    if is_truncated(content):
        raise ImageError(f"{name} is truncated: the file ends before the image does")
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS and b"avif" not in content[8:64]:
        return _decode_heic(content, name, background)
    by, (height, width) = _reduction(content, geometry)
    # libjpeg then transforms smaller blocks, whose values are averages of pixels.
    flags = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags.get(by, cv2.IMREAD_COLOR))
    except cv2.error:
        image = None
    if image is None:
        limit = f"or has more than {MAX_PIXELS} pixels ({PIXELS_VARIABLE} sets another limit)"
        raise ImageError(f"{name} is not an image that OpenCV can decode, {limit}")
    image = image.astype(np.uint8, copy=False)
    # After a quarter turn the sides are exchanged, and nothing is to be left out.
    if by > 1 and image.shape[:2] != (width, height):
        image = image[:height, :width]
    return image if background is None else _over(background, image, content)


def _reduction(content: bytes, geometry: Preprocess | None) -> tuple[int, tuple[int, int]]:
    """By how much a file is scaled down while it is decoded, 1, 2, 4 or 8, and the size (H, W) that has then.

    A last row or column of which the file holds a part only is left out, as where `Preprocess` averages pixels itself.
    Of an image that may be turned nothing is left out, for it might be the first.
    """
    from edgecls.imaging.opencv import MAX_PIXELS

    head = jpeg_head(content) if geometry is not None else None
    if geometry is None or head is None or head.height_px * head.width_px > MAX_PIXELS:
        return 1, (0, 0)
    by = min(8, geometry.reduction(head.height_px, head.width_px))
    while head.has_exif and (head.height_px % by or head.width_px % by):
        by //= 2
    return by, (head.height_px // by, head.width_px // by)


def _over(background: Colour, image: NDArray[uint8], content: bytes) -> NDArray[uint8]:
    """The image (H, W, 3) over a colour, by the transparency that its file holds."""
    import numpy as np

    from edgecls.imaging.opencv import cv2

    stored = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.ndim != 3 or stored.shape[2] != 4:
        return image
    # Stored as in the file; the image was turned by its EXIF orientation, in one of eight ways.
    for quarter_turns in range(4):
        turned = np.rot90(stored, quarter_turns)
        for each in (turned, turned[:, ::-1]):
            colours = each[..., :3] if each.dtype == np.uint8 else each[..., :3] >> 8
            if colours.shape == image.shape and cv2.absdiff(colours.astype(np.uint8), image).max() <= 1:
                return _blended(image, each[..., 3], background)
    raise ImageError("the transparency of an image does not fit its colours")


def _blended(image: NDArray[uint8], opacity: NDArray[Any], background: Colour) -> NDArray[uint8]:
    """Colours (H, W, 3) over one colour by an opacity (H, W) of whole numbers."""
    import numpy as np

    share = opacity[..., None].astype(np.float32) / np.iinfo(opacity.dtype).max
    mixed = image * share + np.array(background, np.float32) * (1 - share)
    blended: NDArray[uint8] = np.rint(mixed).astype(np.uint8)
    return blended


def _decode_heic(content: bytes, name: str, background: Colour | None) -> NDArray[uint8]:
    """Decode what telephones make; turned upright by the file's own transformations."""
    import io

    import numpy as np

    from edgecls.imaging.opencv import MAX_PIXELS, PIXELS_VARIABLE, cv2

    try:
        import pillow_heif
    except ImportError:
        raise ImageError(f"{name} is a HEIC image, which needs pillow-heif: pip install 'edgecls[heif]'") from None
    try:
        image = pillow_heif.open_heif(io.BytesIO(content), convert_hdr_to_8bit=True, bgr_mode=True)
        if image.size[0] * image.size[1] > MAX_PIXELS:
            raise ImageError(f"{name} has more than {MAX_PIXELS} pixels ({PIXELS_VARIABLE} sets another limit)")
        pixels = np.asarray(image)
    except (ValueError, OSError, RuntimeError, EOFError, SyntaxError) as error:
        raise ImageError(f"{name} is a HEIC image that cannot be decoded ({first_line(error)})") from error
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    colours = np.ascontiguousarray(pixels[..., :3], np.uint8)
    return _blended(colours, pixels[..., 3], background) if pixels.shape[2] == 4 and background else colours


def is_truncated(content: bytes) -> bool:
    """Whether a JPEG, PNG or WebP file ends before its own end mark.

    Decoders fill the missing part with grey and say nothing, which would train and predict on half a picture.
    """
    if content.startswith(b"\xff\xd8"):
        return not _jpeg_is_complete(content)
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" not in content
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return len(content) < int.from_bytes(content[4:8], "little") + 8
    return False


def _jpeg_is_complete(content: bytes) -> bool:
    """Whether the markers of a JPEG file lead to its end-of-image marker."""
    return any(marker == _END_OF_IMAGE for marker, _ in _jpeg_markers(content))


@dataclass(frozen=True)
class JpegHead:
    """Size of a JPEG as stored, and whether it has EXIF data, by which it may have to be turned."""

    height_px: int
    width_px: int
    has_exif: bool


def jpeg_head(content: bytes) -> JpegHead | None:
    """What the head of a JPEG says; None for other files."""
    if not content.startswith(b"\xff\xd8"):
        return None
    has_exif = False
    for marker, position in _jpeg_markers(content):
        has_exif |= marker == _EXIF and content[position + 2 : position + 6] == b"Exif"
        if marker in _FRAMES and position + 7 <= len(content):
            height, width = struct.unpack_from(">HH", content, position + 3)
            return JpegHead(height, width, has_exif)
    return None


def _jpeg_markers(content: bytes) -> Iterator[tuple[int, int]]:
    """The markers of a JPEG file and where their segments begin (ITU-T T.81, B.1.1.4)."""
    position = 2
    while match := _JPEG_MARKER.search(content, position):
        marker, position = match.group(1)[0], match.end()
        yield marker, position
        if marker == _END_OF_IMAGE:
            return
        if marker in _ALONE:
            continue
        if position + 2 > len(content):
            return
        position += int.from_bytes(content[position : position + 2], "big")
