"""Handwritten digits as image files, as they are or under other light."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgecls.data.layout import DIGIT_NAMES
from edgecls.data.sources import DigitsSource
from edgecls.imaging.opencv import cv2


def write_digits(
    root: Path, names: Sequence[str], first: int, count: int, dim: bool = False, folder: str | None = None
) -> Path:
    """Write `count` digits of each class from the `first` on, into a folder per class below `root`; returns `root`.

    In dim light they are grey on a bright ground. `folder` is another name for that of the class.
    """
    source = DigitsSource()
    for name in names:
        indices = [index for index, label in enumerate(source.labels) if DIGIT_NAMES[label] == name]
        for index in indices[first : first + count]:
            image = source.read(str(index))
            if dim:
                image = (200 - 0.6 * image).astype(np.uint8)
            place = root / (folder or name)
            place.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place / f"{index:04d}{'-dim' if dim else ''}.png"), image)
    return root
