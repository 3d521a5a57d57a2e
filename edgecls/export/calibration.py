"""Calibration images and the manifest that says which ones were used."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.data.dataset import FolderSource, Source, balanced, find_images, open_recorded
from edgecls.data.parallel import ordered_map
from edgecls.errors import DataError, ImageError
from edgecls.preprocess import Preprocess
from edgecls.storage import write_text

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

MANIFEST_FILE = "calibration.json"
MIN_IMAGES = 8


@dataclass(frozen=True)
class Calibration:
    """Images to calibrate with: keys of a source, in the order of use."""

    source: Source
    keys: tuple[str, ...]
    seed: int

    def images(self, preprocess: Preprocess) -> Iterable[NDArray[uint8]]:
        """Raw network inputs (h, w, 3), read ahead in threads."""
        return ordered_map(lambda key: preprocess(self.source.read(key)), self.keys)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the manifest; return its digest and size for the lineage."""
        images = [{"path": key, "sha256": self.source.fingerprint(key)} for key in self.keys]
        record = {"location": self.source.location, "seed": self.seed, "images": images}
        write_text(folder / MANIFEST_FILE, json.dumps(record, indent=1) + "\n")
        listing = "\n".join(f"{image['sha256']} {image['path']}" for image in images)
        digest = hashlib.sha256(os.fsencode(listing)).hexdigest()
        return {"digest": digest, "images": len(images), "seed": self.seed}


def from_run(run: Path, count: int) -> Calibration:
    """Up to `count` training images of a run, balanced over the classes. Raises `DataError` where they are gone."""
    try:
        dataset = open_recorded(run)
    except DataError as error:
        raise DataError(f"{error}, or give a folder of similar images with --calibration") from error
    drawn = balanced(dataset.splits["train"], count, dataset.seed)
    return Calibration(dataset.source, tuple(sample.key for sample in drawn), dataset.seed)


def from_folder(folder: Path, count: int, seed: int = 0) -> Calibration:
    """Up to `count` readable images drawn from anywhere below a folder. Raises `DataError` for too few."""
    import random

    if not folder.is_dir():
        raise DataError(f"there is no calibration folder {folder}")
    source = FolderSource(folder)
    keys = [str(path.relative_to(source.root)) for path in find_images(source.root)]
    random.Random(seed).shuffle(keys)
    readable = [key for key in keys[: 2 * count] if _is_readable(source, key)][:count]
    if len(readable) < MIN_IMAGES:
        raise DataError(f"{folder} has {len(readable)} readable images; calibration needs at least {MIN_IMAGES}")
    return Calibration(source, tuple(readable), seed)


def _is_readable(source: Source, key: str) -> bool:
    try:
        source.read(key)
    except ImageError:
        return False
    return True
