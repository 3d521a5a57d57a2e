"""One folder per class, or train/, val/ and test/ with class folders inside: ours, Ultralytics' and ImageNet's."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgecls.data.formats.base import Format, LabelFile, LabelledImage, NamedImage
from edgecls.data.layout import index_dataset
from edgecls.errors import DataError


def _read(path: Path) -> LabelFile:
    index = index_dataset(str(path))
    divided = len(index.splits) > 1 or (path / "train").is_dir()
    images = [
        NamedImage(Path(sample.key).as_posix(), (index.classes[sample.label],), split if divided else None)
        for split, samples in index.splits.items()
        for sample in samples
    ]
    return LabelFile(path, images)


def _write(images: Sequence[LabelledImage], out: Path) -> list[str]:
    divided = any(image.split for image in images)
    for image in images:
        if Path(image.label).name != image.label or image.label.startswith("."):
            raise DataError(f"no folder can be named {image.label!r} as a class; choose another `format`")
        folder = out / (image.split or "train") / image.label if divided else out / image.label
        copy(image.path, free(folder / Path(image.name).name))
    return []


def copy(source: Path, target: Path) -> None:
    """Copy an image, with the folders above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def free(path: Path) -> Path:
    """The path, or the first of NAME-2, NAME-3, ... that is not taken."""
    number, name = 2, path
    while name.exists():
        name = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return name


def _recognises(path: Path, _content: Any) -> bool:
    return path.is_dir()


FORMAT = Format(
    "folders", "class folders (also Ultralytics)", _recognises, _read, _write, is_folder=True, keeps_columns=False
)
