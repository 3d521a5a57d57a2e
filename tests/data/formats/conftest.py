"""Images with names as people give them, and a manifest that says more than the labels."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from edgecls.imaging.opencv import cv2

NAMES = (
    "plain.jpg", "with space.png", "comma, and 'quote'.jpg", "ünïcödé – 照片.png", "percent %20.jpg", "a&b<c>.jpg",
    "sub folder/plain.jpg", "sub folder/deep/ünï.jpg", "plain.png", "semi;colon#hash?.jpg",
)  # fmt: skip
LABELS = ("ok", "scratched, deeply", "Öl & Fett")


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 255, (10 + seed, 20, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Ten images in three classes, with `data.csv` beside them: splits for all, and a camera for each."""
    root = tmp_path / "odd photos"
    with_header = [["path", "label", "split", "camera"]]
    for index, name in enumerate(NAMES):
        write_image(root / name, index)
        split = ("train", "val", "test")[index % 3]
        with_header.append([name, LABELS[index // 4], split, f"cam {index % 2}"])
    with (root / "data.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(with_header)
    return root
