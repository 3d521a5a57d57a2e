"""Data sets: usable images, what their classes are, and which split each one belongs to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.artifact.card import CARD_FILE
from edgecls.concurrency import ordered_map
from edgecls.data.layout import DatasetIndex, groups_in, index_dataset
from edgecls.data.sources import Source, open_source
from edgecls.data.splits import Sample, complete, divide
from edgecls.errors import DataError, ImageError
from edgecls.files import read_text, write_text
from edgecls.imaging.decode import SUFFIXES, counted
from edgecls.imaging.preprocess import ANY_SIZE

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

DATA_FILE = "data.json"


@dataclass(frozen=True)
class Dataset:
    """Images with classes and splits.

    `skipped` maps the keys of unusable images to the reason, `columns` those of all images to what else a manifest says
    about them, by column.
    """

    source: Source
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[Sample]]
    seed: int
    skipped: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def read(self, sample: Sample) -> NDArray[uint8]:
        """Decode one sample to BGR uint8 (H, W, 3)."""
        return self.source.read(sample.key)

    def write(self, folder: Path) -> None:
        """Record location, seed, and the split and columns of every image in `folder/data.json`."""
        record = {
            "location": self.source.location,
            "seed": self.seed,
            "classes": list(self.classes),
            "splits": {name: [[s.key, s.label] for s in samples] for name, samples in self.splits.items()},
            "skipped": dict(self.skipped),
            "columns": {key: dict(named) for key, named in self.columns.items() if named},
        }
        write_text(folder / DATA_FILE, json.dumps(record, indent=1) + "\n")


def open_dataset(location: str | None, seed: int) -> Dataset:
    """Open the images that `index_dataset` finds at `location`, and complete their splits.

    Splits that are missing are drawn from `train`, stratified and seeded, groups of a manifest kept together. Every
    image is decoded once: unusable ones, and those in quarantine, are skipped and named in `skipped`. A run's folder
    means its images in its splits. Raises `DataError`.
    """
    if location is not None and is_run_record(Path(location)):
        return open_recorded(Path(location))
    layout = index_dataset(location)
    usable, skipped = usable_samples(layout)
    _check_classes(layout, usable["train"], skipped)
    splits = complete(usable, layout.classes, seed, groups_in(layout.columns))
    return Dataset(layout.source, layout.classes, splits, seed, skipped, layout.columns)


def open_for_classes(location: str, classes: Sequence[str], seed: int) -> Dataset:
    """Open images for a network whose classes are fixed already.

    Classes are matched by name; those without a folder have no images. Without a test split half of the images, drawn
    at random, becomes it, groups of a manifest kept together. Raises `DataError`.
    """
    import random

    layout = index_dataset(location)
    if strange := [name for name in layout.classes if name not in classes]:
        known = ", ".join(classes[:5])
        raise DataError(f"{location}: {strange[0]} is no class of this network; its classes are {known}, ...")
    usable, skipped = usable_samples(layout)
    splits = {
        split: [Sample(s.key, classes.index(layout.classes[s.label])) for s in samples]
        for split, samples in usable.items()
    }
    if not splits.get("test"):
        everything = splits["train"]
        group_of = groups_in(layout.columns)
        if len({group_of(sample) for sample in everything}) < len(everything):
            splits = divide(everything, group_of, {"test": 0.5}, seed)
        else:
            random.Random(seed).shuffle(everything)
            half = len(everything) // 2
            splits = {"train": everything[:half], "test": everything[half:]}
    if not splits["train"] or not splits["test"]:
        raise DataError(f"{location} holds too few usable images of these classes; two are the least")
    return Dataset(layout.source, tuple(classes), {"val": [], **splits}, seed, skipped, layout.columns)


def is_run_record(folder: Path) -> bool:
    """Whether a folder is a run's, with the record of its images, and no folder of images."""
    return (folder / DATA_FILE).is_file() and (folder / CARD_FILE).is_file()


def open_recorded(folder: Path, moved_to: Path | None = None) -> Dataset:
    """Open the data set that `Dataset.write` recorded in `folder`; its images may have been `moved_to` another one.

    Records of older versions hold no columns. Raises `DataError` where its images are gone.
    """
    path = folder / DATA_FILE
    try:
        record: dict[str, Any] = json.loads(read_text(path))
        location = str(moved_to or record["location"])
        splits = {name: [Sample(key, label) for key, label in samples] for name, samples in record["splits"].items()}
        classes, seed = tuple(record["classes"]), int(record["seed"])
        columns = {key: dict(named) for key, named in record.get("columns", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} does not say which images the run was trained on: {reason}") from error
    return Dataset(open_source(location), classes, splits, seed, record.get("skipped", {}), columns)


def balanced(samples: Iterable[Sample], count: int, seed: int) -> list[Sample]:
    """Draw up to `count` samples, the same number from each class as far as there are enough, seeded."""
    import random

    generator = random.Random(seed)
    by_class: dict[int, list[Sample]] = {}
    for sample in samples:
        by_class.setdefault(sample.label, []).append(sample)
    for members in by_class.values():
        generator.shuffle(members)
    drawn: list[Sample] = []
    while len(drawn) < count and any(by_class.values()):
        for label in sorted(by_class):
            if by_class[label] and len(drawn) < count:
                drawn.append(by_class[label].pop())
    return drawn


def subset(dataset: Dataset, split: str, count: int | None = None) -> Sequence[Sample]:
    """The samples of a split, or `count` of them, balanced over the classes."""
    samples = dataset.splits[split]
    return samples if count is None or count >= len(samples) else balanced(samples, count, dataset.seed)


def usable_samples(layout: DatasetIndex) -> tuple[dict[str, list[Sample]], dict[str, str]]:
    """The samples of each split that can be read and are not in quarantine, and the others with the reason."""

    def reason(sample: Sample) -> tuple[str, str | None]:
        if sample.key in layout.quarantine:
            return sample.key, f"{sample.key} is in quarantine: {layout.quarantine[sample.key]}"
        try:
            layout.source.read_for(sample.key, ANY_SIZE)
        except ImageError as error:
            return sample.key, str(error)
        return sample.key, None

    everything = (sample for samples in layout.splits.values() for sample in samples)
    skipped = {key: why for key, why in ordered_map(reason, everything) if why is not None}
    skipped |= {key: f"{key} does not stand in the data.csv of its folder" for key in layout.unlisted}
    return {split: [s for s in samples if s.key not in skipped] for split, samples in layout.splits.items()}, skipped


def _check_classes(layout: DatasetIndex, train: Sequence[Sample], skipped: Mapping[str, str]) -> None:
    root, classes = Path(layout.source.location), layout.classes
    if not train:
        detail = f"; {len(skipped)} could not be read, the first: {next(iter(skipped.values()))}" if skipped else ""
        loose = len([path for path in root.iterdir() if path.suffix.lower() in SUFFIXES]) if root.is_dir() else 0
        if layout.left_out:
            detail += f"; its files are {counted(layout.left_out)}"
        if loose:
            detail = f"; its {loose} images lie loose, sort them into one folder per class"
        raise DataError(f"{root} holds no usable training images in class folders{detail}")
    counts = Counter(sample.label for sample in train)
    if len(classes) < 2:
        raise DataError(f"{root} has one class only ({classes[0]}); a classifier needs at least two folders of images")
    empty = [name for label, name in enumerate(classes) if not counts[label]]
    if empty:
        raise DataError(f"{root}: no usable training images in class {', '.join(empty)}; fill or remove the folder")
