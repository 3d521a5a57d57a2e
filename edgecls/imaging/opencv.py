"""The one import of OpenCV, so that a box without a screen gets a line that helps.

Use `from edgecls.imaging.opencv import cv2`. It is typed as Any: OpenCV's own stubs call every array
"integer or floating".
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from edgecls.errors import BackendError

# What cannot be opened is said in our words; OpenCV and FFmpeg, which write to the terminal from C, stay silent.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

PIXELS_VARIABLE = "EDGECLS_MAX_PIXELS"
MAX_PIXELS = int(pixels) if (pixels := os.environ.get(PIXELS_VARIABLE, "")).isdecimal() and int(pixels) else 200_000_000
"""A larger image is refused before it is decoded: a few kilobytes of PNG can want gigabytes of memory."""
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))

try:
    cv2: Any = import_module("cv2")
except ImportError as error:
    raise BackendError(
        f"OpenCV cannot be imported ({error}); on a machine without a screen use its headless build: "
        "pip uninstall -y opencv-python && pip install opencv-python-headless"
    ) from error

__all__ = ["MAX_PIXELS", "PIXELS_VARIABLE", "cv2", "single_threaded"]


@contextmanager
def single_threaded() -> Iterator[None]:
    """OpenCV without threads of its own, for who works on several images at a time; they would cost a fifth more."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
