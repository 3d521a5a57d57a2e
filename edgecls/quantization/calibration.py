"""Calibration images, the manifest that is their provenance, and the reasons to refuse a set."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.artifact.golden import Golden
from edgecls.concurrency import ordered_map
from edgecls.data.dataset import Dataset, balanced, open_recorded
from edgecls.data.sources import FolderSource, Source, open_source
from edgecls.data.splits import Sample
from edgecls.errors import DataError, ImageError
from edgecls.files import read_text, write_text
from edgecls.imaging.decode import find_images
from edgecls.imaging.preprocess import ANY_SIZE, Preprocess
from edgecls.runtime.store import Artifact

if TYPE_CHECKING:
    from numpy import float64, uint8
    from numpy.typing import NDArray

MANIFEST_FILE = "calibration.json"
MIN_IMAGES = 16
"""Fewer than this say too little about the range of any activation."""
STATISTICS_IMAGES = 64
MAX_SHIFT = 3.0
"""Largest allowed distance of mean colour or contrast from the run's own images, in their standard deviations."""
MIN_DEVIATION = 10.0
"""Grey levels below which the run's own images count as alike, so that near-identical ones do not refuse everything."""


@dataclass(frozen=True)
class Calibration:
    """Images to calibrate with: keys of a source in the order of use, and each one's class where it is known.

    Any first part of the keys is balanced over the classes. `spare` are keys of images that were left over, for a
    comparison with the parent where the run brings no held-out images of its own.
    """

    source: Source
    keys: tuple[str, ...]
    classes: tuple[str | None, ...]
    seed: int
    spare: tuple[str, ...] = ()

    def images(self, preprocess: Preprocess, count: int | None = None) -> Iterable[NDArray[uint8]]:
        """Raw network inputs (h, w, 3) of the first `count`, read ahead in threads."""
        return ordered_map(lambda key: preprocess(self.source.read_for(key, preprocess)), self.keys[:count])

    def sparing_half(self) -> Calibration:
        """The first half to calibrate with; the other half is spare."""
        kept = -(-len(self.keys) // 2)
        return replace(self, keys=self.keys[:kept], classes=self.classes[:kept], spare=self.keys[kept:])

    def to_json(self) -> dict[str, Any]:
        """The manifest: where the images are, and path, class and SHA-256 of each."""
        images = [
            {"path": key, "class": name, "sha256": self.source.fingerprint(key)}
            for key, name in zip(self.keys, self.classes, strict=True)
        ]
        return {"location": self.source.location, "seed": self.seed, "images": images}

    def write(self, path: Path) -> dict[str, Any]:
        """Write the manifest; return its digest and size for the lineage."""
        record = self.to_json()
        write_text(path, json.dumps(record, indent=1) + "\n")
        listing = "\n".join(f"{image['sha256']} {image['path']}" for image in record["images"])
        digest = hashlib.sha256(os.fsencode(listing)).hexdigest()
        return {"digest": digest, "images": len(record["images"]), "seed": self.seed}


@dataclass(frozen=True)
class Findings:
    """What a check of a calibration set saw. `shift` is None where the run has no images to compare with."""

    images: int
    classes: Mapping[str, int]
    shift: float | None
    compared_with_held_out: bool


def choose(
    run: Artifact, count: int, given: Path | None = None, seed: int | None = None, sparing: bool = False
) -> Calibration:
    """Up to `count` images from a manifest, a folder, or the run's training images, balanced over the classes.

    With `sparing`, and where the run has no held-out images, half of the given images are spared for the comparison
    with the parent. Raises `DataError` where images are gone or were changed.
    """
    if given is None:
        return _from_run(run, count, seed)
    sparing = sparing and _dataset(run) is None
    count = 2 * count if sparing else count
    chosen = _from_folder(given, count, seed or 0) if given.is_dir() else _from_manifest(given, count)
    return chosen.sparing_half() if sparing else chosen


def check(calibration: Calibration, run: Artifact) -> Findings:
    """Refuse a set that would calibrate wrongly: `DataError` says why and what to do.

    Too few images; all of one class; images of the run's validation or test split; very different pixel statistics.
    """
    count = len(calibration.keys)
    if count < MIN_IMAGES:
        raise DataError(
            f"{calibration.source.location} gives {count} calibration images; at least {MIN_IMAGES} are needed, "
            "some hundred are better"
        )
    counts: dict[str, int] = {}
    for name in calibration.classes:
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    if len(counts) == 1 and sum(counts.values()) == count and len(run.card.classes) > 1:
        raise DataError(f"all {count} calibration images are of class {next(iter(counts))}; give images of every class")
    dataset = _dataset(run)
    _refuse_leak(calibration, dataset)
    return Findings(count, counts, _refuse_shift(calibration, run), dataset is not None)


def _dataset(run: Artifact) -> Dataset | None:
    try:
        return open_recorded(run.path)
    except DataError:
        return None


def _held_out_fingerprints(dataset: Dataset) -> dict[str, str]:
    samples = [(split, sample.key) for split in ("val", "test") for sample in dataset.splits[split]]

    def fingerprint(item: tuple[str, str]) -> tuple[str, str]:
        split, key = item
        try:
            return dataset.source.fingerprint(key), f"{split} image {key}"
        except OSError as error:
            raise DataError(f"{key} of the run's {split} split cannot be read ({error.strerror})") from error

    return dict(ordered_map(fingerprint, samples))


def _refuse_leak(calibration: Calibration, dataset: Dataset | None) -> None:
    if dataset is None:
        return
    held_out = _held_out_fingerprints(dataset)
    leaked = [(key, held_out[digest]) for key in calibration.keys if (digest := _digest(calibration, key)) in held_out]
    if leaked:
        key, twin = leaked[0]
        raise DataError(
            f"{len(leaked)} calibration images are among the images that the run is judged by ({key} is {twin}); "
            "leave them out, or the measured drop means nothing"
        )


def _digest(calibration: Calibration, key: str) -> str:
    try:
        return calibration.source.fingerprint(key)
    except OSError as error:
        raise DataError(f"calibration image {key} cannot be read ({error.strerror})") from error


def _refuse_shift(calibration: Calibration, run: Artifact) -> float | None:
    import numpy as np

    if run.card.lineage.data is None:
        return None
    own = _statistics(Golden.read(run.path, run.card).images)
    count = min(STATISTICS_IMAGES, len(calibration.keys))
    given = _statistics(calibration.images(run.card.preprocess, count))
    deviation = np.maximum(own.std(axis=0), MIN_DEVIATION)
    shifts = np.abs(given.mean(axis=0) - own.mean(axis=0)) / deviation
    worst = int(shifts.argmax())
    if shifts[worst] > MAX_SHIFT:
        what = ("red", "green", "blue", "contrast")[worst]
        raise DataError(
            f"the calibration images do not look like the run's: mean {what} is {given.mean(axis=0)[worst]:.0f} where "
            f"the run's images have {own.mean(axis=0)[worst]:.0f} ± {own.std(axis=0)[worst]:.0f} grey levels; "
            "calibrate with images like those that the device will see"
        )
    return float(shifts[worst])


def _statistics(images: Iterable[NDArray[uint8]]) -> NDArray[float64]:
    """Mean red, green and blue and the standard deviation of all values, one row an image."""
    import numpy as np

    return np.array([[*image.mean(axis=(0, 1)), image.std()] for image in images], np.float64)


def _from_run(run: Artifact, count: int, seed: int | None) -> Calibration:
    try:
        dataset = open_recorded(run.path)
    except DataError as error:
        raise DataError(f"{error}, or give a folder of similar images with `calibration`") from error
    seed = dataset.seed if seed is None else seed
    held_out = _held_out_fingerprints(dataset)
    drawn = balanced(dataset.splits["train"], count, seed)
    # A training image may have a twin among the held-out ones; it must not help to choose what those judge.
    kept = [sample for sample in drawn if dataset.source.fingerprint(sample.key) not in held_out]
    keys = tuple(sample.key for sample in kept)
    return Calibration(dataset.source, keys, tuple(dataset.classes[sample.label] for sample in kept), seed)


def _from_folder(folder: Path, count: int, seed: int) -> Calibration:
    """Images drawn from anywhere below a folder; a folder inside it is a class."""
    source = FolderSource(folder)
    paths = find_images(source.root)
    names = sorted({path.parent.name for path in paths if path.parent != source.root})
    samples = [
        Sample(str(path.relative_to(source.root)), names.index(path.parent.name) if path.parent != source.root else -1)
        for path in paths
    ]
    kept = [sample for sample in balanced(samples, 2 * count, seed) if _is_readable(source, sample.key)][:count]
    return Calibration(
        source,
        tuple(sample.key for sample in kept),
        tuple(names[sample.label] if sample.label >= 0 else None for sample in kept),
        seed,
    )


def _is_readable(source: Source, key: str) -> bool:
    try:
        source.read_for(key, ANY_SIZE)
    except ImageError:
        return False
    return True


def _from_manifest(file: Path, count: int) -> Calibration:
    """The images of a manifest, each compared with its recorded SHA-256."""
    try:
        record = json.loads(read_text(file))
        location, seed, images = str(record["location"]), int(record["seed"]), list(record["images"])
        wanted = [(str(image["path"]), image.get("class"), str(image["sha256"])) for image in images]
    except FileNotFoundError:
        raise DataError(f"there is no calibration folder or manifest {file}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is no calibration manifest ({error}); make one: edgecls calibrate make") from error
    source = open_source(location)
    calibration = Calibration(
        source, tuple(path for path, _, _ in wanted[:count]), tuple(name for _, name, _ in wanted[:count]), seed
    )
    for path, _, digest in wanted[:count]:
        if _digest(calibration, path) != digest:
            raise DataError(f"{path} is not the image that {file} lists (SHA-256 differs); make the manifest anew")
    return calibration


def summary(counts: Mapping[str, int]) -> str:
    """How many images of how many classes, for people."""
    if not counts:
        return "classes unknown"
    values: Sequence[int] = list(counts.values())
    return f"{len(counts)} classes, {min(values)} to {max(values)} images each"
