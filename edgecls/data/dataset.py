"""Data sets: where the images are, what their classes are, and which split each one belongs to."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.data.images import SUFFIXES, read_image
from edgecls.data.parallel import ordered_map
from edgecls.data.splits import Sample, complete
from edgecls.errors import DataError, ImageError, MissingExtraError
from edgecls.storage import sha256, write_text

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

DIGITS = "digits"
DATA_FILE = "data.json"
_SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


class Source(ABC):
    """Where images come from. `location` finds them again; `name` is for people.

    `photographs` says whether they resemble what ImageNet weights were learned from; `default_augment` names a preset.
    """

    location: str
    name: str
    default_size_px: int = 224
    photographs: bool = True
    default_augment: str = "medium"
    mirrored_is_same_class: bool = True

    @abstractmethod
    def read(self, key: str) -> NDArray[uint8]:
        """Decode one image to BGR uint8 (H, W, 3). Raises `ImageError`."""

    @abstractmethod
    def fingerprint(self, key: str) -> str:
        """SHA-256 of the image as stored."""


class FolderSource(Source):
    """Image files below a folder; a key is the path relative to it."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        self.location = str(self.root)
        self.name = self.root.name

    def read(self, key: str) -> NDArray[uint8]:
        """See `Source.read`."""
        return read_image(self.root / key)

    def fingerprint(self, key: str) -> str:
        """SHA-256 of the file."""
        return sha256(self.root / key)


class DigitsSource(Source):
    """Scikit-learn's 1,797 handwritten digits (UCI Optical Recognition of Handwritten Digits, 8x8 pixels, 17 greys)."""

    location = DIGITS
    name = DIGITS
    default_size_px = 64
    photographs = False
    default_augment = "light"
    mirrored_is_same_class = False

    def __init__(self) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise MissingExtraError("scikit-learn", "train", "the embedded data set") from error
        digits = load_digits()
        self._images = digits.images
        self.labels: list[int] = [int(label) for label in digits.target]

    def read(self, key: str) -> NDArray[uint8]:
        """The digit in white on black, enlarged to 64x64 pixels."""
        import numpy as np

        from edgecls.opencv import cv2

        grey = np.round(self._images[int(key)] * (255 / 16)).astype(np.uint8)
        large = cv2.resize(grey, (self.default_size_px,) * 2, interpolation=cv2.INTER_CUBIC)
        return cv2.cvtColor(large, cv2.COLOR_GRAY2BGR)

    def fingerprint(self, key: str) -> str:
        """SHA-256 of the 8x8 values."""
        import hashlib

        return hashlib.sha256(self._images[int(key)].tobytes()).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """Images with classes and splits. `skipped` maps the keys of unusable images to the reason."""

    source: Source
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[Sample]]
    seed: int
    skipped: Mapping[str, str] = field(default_factory=dict)

    def read(self, sample: Sample) -> NDArray[uint8]:
        """Decode one sample to BGR uint8 (H, W, 3)."""
        return self.source.read(sample.key)

    def write(self, folder: Path) -> None:
        """Record location, seed and the split of every image in `folder/data.json`."""
        record = {
            "location": self.source.location,
            "seed": self.seed,
            "classes": list(self.classes),
            "splits": {name: [[s.key, s.label] for s in samples] for name, samples in self.splits.items()},
            "skipped": dict(self.skipped),
        }
        write_text(folder / DATA_FILE, json.dumps(record, indent=1) + "\n")


def open_dataset(location: str | None, seed: int) -> Dataset:
    """Open a folder of images, or the embedded digits for None, and complete its splits.

    A folder holds one folder per class, or `train/`, `val/` (or `valid/`, `validation/`) and `test/` with one folder
    per class inside; splits that are missing are drawn from `train`, stratified and seeded. Every image is decoded
    once: unusable ones are skipped and named in `skipped`. Raises `DataError`.
    """
    if location is None or (location == DIGITS and not Path(DIGITS).exists()):
        digits = DigitsSource()
        samples = [Sample(str(index), label) for index, label in enumerate(digits.labels)]
        names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
        return Dataset(digits, names, complete({"train": samples}, names, seed), seed)
    source = FolderSource(_existing_folder(location))
    classes, found = _scan(source.root)
    skipped = _unusable(source, (sample for samples in found.values() for sample in samples))
    usable = {name: [s for s in samples if s.key not in skipped] for name, samples in found.items()}
    _check_classes(source, classes, usable["train"], skipped)
    return Dataset(source, classes, complete(usable, classes, seed), seed, skipped)


def open_for_classes(location: str, classes: Sequence[str], seed: int) -> Dataset:
    """Open a folder of images, one folder per class, for a network whose classes are fixed already.

    Folders are matched with `classes` by name; classes without a folder have no images. Without a `test/` folder half
    of the images, drawn at random, becomes the test split. Raises `DataError`.
    """
    import random

    source = FolderSource(_existing_folder(location))
    names, found = _scan(source.root)
    if strange := [name for name in names if name not in classes]:
        known = ", ".join(classes[:5])
        raise DataError(f"{source.root}/{strange[0]} is no class of this network; its classes are {known}, ...")
    skipped = _unusable(source, (sample for samples in found.values() for sample in samples))
    splits = {
        split: [Sample(s.key, classes.index(names[s.label])) for s in samples if s.key not in skipped]
        for split, samples in found.items()
    }
    if not splits.get("test"):
        everything = splits["train"]
        random.Random(seed).shuffle(everything)
        half = len(everything) // 2
        splits = {"train": everything[:half], "test": everything[half:]}
    if not splits["train"] or not splits["test"]:
        raise DataError(f"{source.root} holds too few usable images in class folders; two are the least")
    return Dataset(source, tuple(classes), {"val": [], **splits}, seed, skipped)


def open_recorded(folder: Path) -> Dataset:
    """Open the data set that `Dataset.write` recorded in `folder`. Raises `DataError` where its images are gone."""
    path = folder / DATA_FILE
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        location = record["location"]
        splits = {name: [Sample(key, label) for key, label in samples] for name, samples in record["splits"].items()}
        classes, seed = tuple(record["classes"]), int(record["seed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} does not say which images the run was trained on ({error})") from error
    return Dataset(open_source(location), classes, splits, seed, record.get("skipped", {}))


def open_source(location: str) -> Source:
    """The source that was recorded under `location`. Raises `DataError` where its images are gone."""
    if location == DIGITS:
        return DigitsSource()
    source = FolderSource(Path(location))
    if not source.root.is_dir():
        raise DataError(f"the images are no longer at {location}; bring them back")
    return source


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


def _existing_folder(location: str) -> Path:
    root = Path(location).expanduser()
    if not root.exists():
        raise DataError(f"there is no folder {location}; give a folder with one folder of images per class")
    if not root.is_dir():
        raise DataError(f"{location} is a file; give a folder with one folder of images per class")
    return root


def _scan(root: Path) -> tuple[tuple[str, ...], dict[str, list[Sample]]]:
    """Class names in order, and the samples of each split folder that is there."""
    roots = {}
    if (root / "train").is_dir():
        for split, names in _SPLIT_FOLDERS.items():
            there = [root / name for name in names if (root / name).is_dir()]
            if len(there) > 1:
                raise DataError(f"{root} has both {there[0].name}/ and {there[1].name}/; keep one of them")
            if there:
                roots[split] = there[0]
    else:
        roots["train"] = root
    classes = tuple(folder.name for folder in _class_folders(roots["train"]))
    samples: dict[str, list[Sample]] = {}
    for split, folder in roots.items():
        for class_folder in _class_folders(folder):
            if class_folder.name not in classes:
                raise DataError(f"{class_folder} is a class that {roots['train']} does not have; rename or remove it")
            label = classes.index(class_folder.name)
            samples.setdefault(split, []).extend(
                Sample(str(path.relative_to(root)), label) for path in find_images(class_folder)
            )
    return classes, {"train": [], **samples}


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _unusable(source: Source, samples: Iterable[Sample]) -> dict[str, str]:
    def reason(sample: Sample) -> tuple[str, str | None]:
        try:
            source.read(sample.key)
        except ImageError as error:
            return sample.key, str(error)
        return sample.key, None

    return {key: why for key, why in ordered_map(reason, samples) if why is not None}


def _check_classes(
    source: FolderSource, classes: Sequence[str], train: Sequence[Sample], skipped: Mapping[str, str]
) -> None:
    root = source.root
    if not train:
        detail = f"; {len(skipped)} could not be read, the first: {next(iter(skipped.values()))}" if skipped else ""
        loose = len([path for path in root.iterdir() if path.suffix.lower() in SUFFIXES])
        if loose:
            detail = f"; its {loose} images lie loose, sort them into one folder per class"
        raise DataError(f"{root} holds no usable training images in class folders{detail}")
    counts = Counter(sample.label for sample in train)
    if len(classes) < 2:
        raise DataError(f"{root} has one class only ({classes[0]}); a classifier needs at least two folders of images")
    empty = [name for label, name in enumerate(classes) if not counts[label]]
    if empty:
        raise DataError(f"{root}: no usable training images in class {', '.join(empty)}; fill or remove the folder")
