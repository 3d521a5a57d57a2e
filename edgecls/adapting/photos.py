"""Labelled images on a device, and which of them are held out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.disjoint_sets import DisjointSets
from edgecls.errors import DataError
from edgecls.fields import is_name
from edgecls.imaging.decode import find_images
from edgecls.imaging.folders import (
    DATA_FILE,
    MANIFESTS,
    class_folders,
    holds_labels,
    labelled_row,
    read_quarantine,
    split_named,
    split_roots,
)
from edgecls.rows import read_rows
from edgecls.vectors import directions

if TYPE_CHECKING:
    from numpy import bool_, float32
    from numpy.typing import NDArray

HELD_OUT = 0.25
NEAR = 0.995
"""Cosine of two embeddings from which on they are taken for two pictures of one moment."""
BLOCK = 1024


@dataclass(frozen=True)
class Photo:
    """An image file with its class; `split` and `group`, a series that stays together, are empty where not known."""

    path: Path
    label: str
    split: str = ""
    group: str = ""


def labelled_photos(location: Path) -> list[Photo]:
    """The images that training would find there: of a folder with one folder per class, or with `train/`, `val/` and
    `test/` that have these inside, of a folder with a `data.csv`, or of a CSV or JSONL manifest.

    A manifest names `path`, relative to itself, and `label`, and may name `split` and `group`. Images in quarantine are
    left out. Raises `DataError`.
    """
    if location.is_dir():
        root = location
        photos = _listed(root / DATA_FILE) if holds_labels(root) else _in_class_folders(root)
    elif location.suffix.lower() in MANIFESTS and location.is_file():
        root, photos = location.parent, _listed(location)
    else:
        raise DataError(f"there is no folder {location}; give one with one folder of images per class, or a data.csv")
    quarantined = {root / key for key in read_quarantine(root)}
    photos = [photo for photo in photos if photo.path not in quarantined]
    if not photos:
        raise DataError(f"{location} holds no images in class folders")
    if strange := next((photo.label for photo in photos if not is_name(photo.label)), None):
        raise DataError(f"{location} has a class named {strange!r}; give it a name that can be read and typed")
    return photos


def _in_class_folders(root: Path) -> list[Photo]:
    roots = split_roots(root)
    return [
        Photo(path, folder.name, split if len(roots) > 1 else "")
        for split, inside in roots.items()
        for folder in class_folders(inside)
        for path in find_images(folder)
    ]


def _listed(file: Path) -> list[Photo]:
    photos = []
    for number, given in read_rows(file):
        row = labelled_row(given, file, number)
        split = split_named(row["split"], file, f"line {number}") if "split" in row else ""
        photos.append(Photo(file.parent / row["path"], row["label"], split, row.get("group", "")))
    return photos


def near(embeddings: NDArray[float32], others: NDArray[float32]) -> NDArray[bool_]:
    """Which of some embeddings (N, D) are nearly one of the others (M, D): (N,)."""
    import numpy as np

    if not len(others):
        return np.zeros(len(embeddings), bool)
    mine, theirs = directions(embeddings), directions(others)
    return np.concatenate(
        [(mine[i : i + BLOCK] @ theirs.T).max(axis=1) >= NEAR for i in range(0, len(mine), BLOCK)]
        or [np.zeros(0, bool)]
    )


def held_out(
    photos: Sequence[Photo], embeddings: NDArray[float32], seed: int, learned: NDArray[bool_] | None = None
) -> NDArray[bool_]:
    """Which photos (N,) are held out: those of the split "test" or, where none are named so, a quarter of each class.

    What shows one moment, by series or by embeddings (N, D), stays together; what shows nearly the same as images that
    were `learned` from (N,) is learned from, too.
    """
    import numpy as np

    if any(photo.split == "test" for photo in photos):
        return np.array([photo.split == "test" for photo in photos])
    groups: dict[int, list[int]] = {}
    for position, group in enumerate(_groups(photos, embeddings)):
        groups.setdefault(group, []).append(position)
    seen = np.zeros(len(photos), bool) if learned is None else learned
    order = [group for group in sorted(groups) if not seen[groups[group]].any()]
    random.Random(seed).shuffle(order)
    totals = Counter(photo.label for photo in photos)
    taken: Counter[str] = Counter()
    chosen = np.zeros(len(photos), bool)
    for group in order:
        brought = Counter(photos[position].label for position in groups[group])
        if all(taken[label] + count <= _most(totals[label]) for label, count in brought.items()):
            taken += brought
            chosen[groups[group]] = True
    return chosen


def _most(count: int) -> int:
    return max(1, round(HELD_OUT * count)) if count > 1 else 0


def _groups(photos: Sequence[Photo], embeddings: NDArray[float32]) -> list[int]:
    """A number for each photo that those share which belong together."""
    import numpy as np

    linked = DisjointSets(range(len(photos)))
    firsts: dict[str, int] = {}
    for position, photo in enumerate(photos):
        if photo.group:
            linked.join(position, firsts.setdefault(photo.group, position))
    pointing = directions(embeddings)
    for begin in range(0, len(photos), BLOCK):
        for one, other in np.argwhere(pointing[begin : begin + BLOCK] @ pointing.T >= NEAR).tolist():
            linked.join(begin + one, other)
    return [linked.find(position) for position in range(len(photos))]
