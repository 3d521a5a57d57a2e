"""Where images come from: a folder, the embedded digits, or one of torchvision's data sets by name."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.errors import DataError, ImageError, MissingExtraError, first_line
from edgecls.files import expanded, make_folder, sha256
from edgecls.imaging.decode import read_image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy import uint8
    from numpy.typing import NDArray

    from edgecls.imaging.preprocess import Preprocess

DIGITS = "digits"
DOWNLOADS_VARIABLE = "EDGECLS_DATA"


class Source(ABC):
    """Where images come from. `location` finds them again; `name` is for people.

    `photographs` says whether they resemble what ImageNet weights were learned from; `default_augment` names a preset.
    """

    location: str
    name: str
    default_size_px: int = 224
    photographs: bool = True
    default_augment: str = "medium"
    horizontal_flip_safe: bool = True

    @abstractmethod
    def read(self, key: str) -> NDArray[uint8]:
        """Decode one image to BGR uint8 (H, W, 3). Raises `ImageError`."""

    def read_for(self, key: str, geometry: Preprocess) -> NDArray[uint8]:  # noqa: ARG002
        """The same image for `geometry`, which may be all that is decoded; see `imaging.decode.read_image`."""
        return self.read(key)

    def has(self, key: str) -> bool:  # noqa: ARG002
        """Whether the image is still there."""
        return True

    def stamp(self, key: str) -> tuple[int, int]:  # noqa: ARG002
        """Size in bytes and time of the last change in ns of the file: while these stay, so does the image.

        Both are 0 where images never change, and -1 where there is no file.
        """
        return 0, 0

    @abstractmethod
    def fingerprint(self, key: str) -> str:
        """SHA-256 of the image as stored."""


class FolderSource(Source):
    """Image files below a folder; a key is the path relative to it."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        self.location = str(self.root)
        self.name = self.root.name or self.location

    def read(self, key: str) -> NDArray[uint8]:
        """See `Source.read`."""
        return read_image(self.root / key)

    def read_for(self, key: str, geometry: Preprocess) -> NDArray[uint8]:
        """See `Source.read_for`."""
        return read_image(self.root / key, geometry=geometry)

    def has(self, key: str) -> bool:
        """See `Source.has`."""
        return (self.root / key).is_file()

    def stamp(self, key: str) -> tuple[int, int]:
        """See `Source.stamp`."""
        try:
            status = (self.root / key).stat()
        except (OSError, ValueError):  # ValueError: a name with a NUL
            return -1, -1
        return status.st_size, status.st_mtime_ns

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
    horizontal_flip_safe = False

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

        from edgecls.imaging.opencv import cv2

        grey = np.round(self._images[int(key)] * (255 / 16)).astype(np.uint8)
        large = cv2.resize(grey, (self.default_size_px,) * 2, interpolation=cv2.INTER_CUBIC)
        return cv2.cvtColor(large, cv2.COLOR_GRAY2BGR)

    def fingerprint(self, key: str) -> str:
        """SHA-256 of the 8x8 values."""
        return hashlib.sha256(self._images[int(key)].tobytes()).hexdigest()


@dataclass(frozen=True)
class Named:
    """One of torchvision's data sets: its class, and the arguments that give each split that it brings."""

    cls: str
    splits: Mapping[str, Mapping[str, Any]]
    size_px: int = 224
    photographs: bool = True
    horizontal_flip_safe: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


_FLAGS = {"train": {"train": True}, "test": {"train": False}}
_NAMES = {"train": {"split": "train"}, "test": {"split": "test"}}
_ALL_THREE = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}
TORCHVISION = {
    "cifar10": Named("CIFAR10", _FLAGS, 64),
    "cifar100": Named("CIFAR100", _FLAGS, 64),
    "mnist": Named("MNIST", _FLAGS, 32, photographs=False, horizontal_flip_safe=False),
    "kmnist": Named("KMNIST", _FLAGS, 32, photographs=False, horizontal_flip_safe=False),
    "fashion_mnist": Named("FashionMNIST", _FLAGS, 32, photographs=False),
    "svhn": Named("SVHN", _NAMES, 64, horizontal_flip_safe=False),
    "stl10": Named("STL10", _NAMES, 96),
    "flowers102": Named("Flowers102", _ALL_THREE),
    "imagenette": Named(
        "Imagenette", {"train": {"split": "train"}, "test": {"split": "val"}}, options={"size": "320px"}
    ),
    "pets": Named("OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "food101": Named("Food101", _NAMES),
    "dtd": Named("DTD", _ALL_THREE),
    "eurosat": Named("EuroSAT", {"train": {}}, 64),
    "gtsrb": Named("GTSRB", _NAMES, 64, horizontal_flip_safe=False),
    "aircraft": Named("FGVCAircraft", _ALL_THREE),
}


def downloads_folder() -> Path:
    """Where data sets are downloaded to: what EDGECLS_DATA says, or the user's cache."""
    cache = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.environ.get(DOWNLOADS_VARIABLE) or cache / "edgecls" / "data")


class TorchvisionSource(Source):
    """One of torchvision's data sets, downloaded where it is not there yet; a key is `split/index`.

    Raises `DataError` where it cannot be fetched.
    """

    def __init__(self, name: str):
        named = TORCHVISION[name]
        self.location = self.name = name
        self.default_size_px, self.photographs = named.size_px, named.photographs
        self.default_augment = "medium" if named.photographs else "light"
        self.horizontal_flip_safe = named.horizontal_flip_safe
        self._parts = {split: _opened(name, named, arguments) for split, arguments in named.splits.items()}

    def classes(self) -> tuple[str, ...]:
        """The names of the classes; numbers where the data set has no names."""
        part = self._parts["train"]
        names = getattr(part, "classes", None)
        return tuple(map(str, names or range(max(max(labels) for labels in self.labels().values()) + 1)))

    def labels(self) -> dict[str, Sequence[int]]:
        """The class of each image of each split."""
        return {split: _labels_of(part) for split, part in self._parts.items()}

    def read(self, key: str) -> NDArray[uint8]:
        """See `Source.read`."""
        import numpy as np

        split, _, index = key.partition("/")
        try:
            picture, _ = self._parts[split][int(index)]
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow says of damaged files
            raise ImageError(f"{self.name} {key} cannot be decoded ({first_line(error)})") from error
        return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[:, :, ::-1])

    def fingerprint(self, key: str) -> str:
        """SHA-256 of the pixels."""
        return hashlib.sha256(self.read(key).tobytes()).hexdigest()


class JoinedSource(Source):
    """Several sources as one; a key is that of one of them behind its number and a slash.

    What depends on the kind of images is as the first one says.
    """

    def __init__(self, parts: Sequence[Source]):
        first = parts[0]
        self.parts = tuple(parts)
        self.location = json.dumps([part.location for part in parts])
        self.name = " and ".join(dict.fromkeys(part.name for part in parts))
        self.default_size_px, self.photographs = first.default_size_px, first.photographs
        self.default_augment, self.horizontal_flip_safe = first.default_augment, first.horizontal_flip_safe

    def read(self, key: str) -> NDArray[uint8]:
        """See `Source.read`."""
        part, own = self._found(key)
        return part.read(own)

    def read_for(self, key: str, geometry: Preprocess) -> NDArray[uint8]:
        """See `Source.read_for`."""
        part, own = self._found(key)
        return part.read_for(own, geometry)

    def has(self, key: str) -> bool:
        """See `Source.has`."""
        source, inside = self._found(key)
        return source.has(inside)

    def stamp(self, key: str) -> tuple[int, int]:
        """See `Source.stamp`."""
        part, own = self._found(key)
        return part.stamp(own)

    def fingerprint(self, key: str) -> str:
        """See `Source.fingerprint`."""
        part, own = self._found(key)
        return part.fingerprint(own)

    def _found(self, key: str) -> tuple[Source, str]:
        number, _, own = key.partition("/")
        return self.parts[int(number)], own


def _opened(name: str, named: Named, arguments: Mapping[str, Any]) -> Any:
    from edgecls.models.vision import import_torchvision

    import_torchvision()
    from torchvision import datasets

    make, folder = getattr(datasets, named.cls), make_folder(downloads_folder())
    settings = {**arguments, **named.options}
    try:
        return make(str(folder), download=False, **settings)
    except (RuntimeError, FileNotFoundError):
        pass  # torchvision says in many ways that it is not there yet
    try:
        return make(str(folder), download=True, **settings)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"the data set {name} is not in {folder} and cannot be fetched ({first_line(error)}); connect to the "
            f"network once, or set {DOWNLOADS_VARIABLE} to the folder that torchvision downloaded it to"
        ) from error


def _labels_of(part: Any) -> Sequence[int]:
    """Torchvision's data sets keep their labels under one of these names."""
    for name in ("targets", "labels", "_labels"):
        if (labels := getattr(part, name, None)) is not None:
            return [int(label) for label in labels]
    return [int(label) for _, label in part._samples]


def open_source(location: str) -> Source:
    """The source that was recorded under `location`. Raises `DataError` where its images are gone."""
    if location == DIGITS:
        return DigitsSource()
    if location.startswith('["'):  # of several; a folder's is its whole path
        return JoinedSource([open_source(each) for each in json.loads(location)])
    if location in TORCHVISION:
        return TorchvisionSource(location)
    source = FolderSource(Path(location))
    if not source.root.is_dir():
        raise DataError(f"the images are no longer at {location}; bring them back")
    return source
