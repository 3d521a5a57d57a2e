"""A decision drawn onto its picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgecls.streaming.decision import Decision

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray


def annotated(image: NDArray[uint8], decision: Decision) -> NDArray[uint8]:
    """A copy of the picture (H, W, 3) with label, probability and status on a dark band at the bottom."""
    from edgecls.imaging.opencv import cv2

    picture = image.copy()
    height, width = picture.shape[:2]
    scale = max(0.4, min(height / 480, width / 480))
    band = int(52 * scale)
    picture[height - band :] = picture[height - band :] // 4
    origin, line = (int(10 * scale), height - band + int(22 * scale)), cv2.LINE_AA
    text = decision.text
    cv2.putText(
        picture, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.75 * scale, (255, 255, 255), max(1, int(2 * scale)), line
    )
    below = (origin[0], height - int(10 * scale))
    cv2.putText(picture, status(decision), below, cv2.FONT_HERSHEY_SIMPLEX, 0.42 * scale, (200, 200, 200), 1, line)
    filled = 0 if decision.nearest else int(width * decision.score)
    cv2.rectangle(picture, (0, height - band - 3), (filled, height - band), (235, 160, 60), -1)
    return picture


def status(decision: Decision) -> str:
    """Rate, latency, age and counters in one line of ASCII."""
    return (
        f"{decision.fps:5.1f} fps  {decision.inference_ms:5.1f} ms  age {decision.age_ms:5.1f} ms  "
        f"dropped {decision.dropped} of {decision.captured}"
    )


def side_by_side(pictures: Sequence[NDArray[uint8]]) -> NDArray[uint8]:
    """Pictures of any size in a grid of equal tiles, as large as the first."""
    import math

    import numpy as np

    from edgecls.imaging.opencv import cv2

    if len(pictures) == 1:
        return pictures[0]
    height, width = pictures[0].shape[:2]
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    grid = np.zeros((rows * height, columns * width, 3), np.uint8)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        scale = min(height / picture.shape[0], width / picture.shape[1])
        size = (max(1, int(picture.shape[1] * scale)), max(1, int(picture.shape[0] * scale)))
        top, left = row * height, column * width
        grid[top : top + size[1], left : left + size[0]] = cv2.resize(picture, size)
    return grid
