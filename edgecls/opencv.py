"""The one import of OpenCV, so that a box without a screen gets a line that helps.

Use `from edgecls.opencv import cv2`. It is typed as Any: OpenCV's own stubs call every array "integer or floating".
"""

from importlib import import_module
from typing import Any

from edgecls.errors import BackendError

try:
    cv2: Any = import_module("cv2")
except ImportError as error:
    raise BackendError(
        f"OpenCV cannot be imported ({error}); on a machine without a screen use its headless build: "
        "pip uninstall -y opencv-python && pip install opencv-python-headless"
    ) from error

__all__ = ["cv2"]
