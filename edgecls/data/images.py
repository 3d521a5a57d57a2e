"""Image files: finding them, and reading one whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.errors import DataError, ImageError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})

_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
"""A marker after entropy-coded data: 0xFF00 is a stuffed byte, 0xFFD0..D7 are restarts (ITU-T T.81, B.1.1)."""


def find_images(folder: Path) -> list[Path]:
    """All image files below a folder, sorted; hidden files and folders are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def image_paths(places: Iterable[Path]) -> list[Path]:
    """Image files as named, and all images below the folders among them. Raises `DataError` for a place without any."""
    paths: list[Path] = []
    for place in places:
        if not place.exists():
            raise DataError(f"there is no image or folder {place}")
        found = find_images(place) if place.is_dir() else [place]
        if not found:
            raise DataError(f"{place} holds no images ({', '.join(sorted(SUFFIXES))})")
        paths += found
    return paths


def read_image(path: Path) -> NDArray[uint8]:
    """Decode an image file to BGR uint8 (H, W, 3), turned upright by its EXIF orientation.

    Grey, palette, 16-bit, CMYK and transparent images become 8-bit BGR; of an animation the first frame is taken.
    Raises `ImageError` for a file that is missing, empty, truncated or not an image.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error
    return decode_image(content, str(path))


def decode_image(content: bytes, name: str) -> NDArray[uint8]:
    """Decode the bytes of an image file; see `read_image`. `name` stands in the error."""
    import numpy as np

    from edgecls.opencv import cv2

    if not content:
        raise ImageError(f"{name} is empty")
    if is_truncated(content):
        raise ImageError(f"{name} is truncated: the file ends before the image does")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError(f"{name} is not an image that OpenCV can decode")
    return image.astype(np.uint8, copy=False)


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
    """Walk the markers of a JPEG file up to its end-of-image marker (ITU-T T.81, B.1.1.4)."""
    position = 2
    while True:
        found = _JPEG_MARKER.search(content, position)
        if not found:
            return False
        marker = found.group(1)[0]
        if marker == 0xD9:
            return True
        position = found.end()
        if marker == 0x01 or marker == 0xD8:
            continue
        if position + 2 > len(content):
            return False
        position += int.from_bytes(content[position : position + 2], "big")
