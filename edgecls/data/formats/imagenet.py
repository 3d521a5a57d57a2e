"""ImageNet's lists: SPLIT.txt with a path and a class number a line, synsets.txt with the names, images in images/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edgecls.data.formats.base import (
    NO_SPLIT,
    Format,
    LabelFile,
    LabelledImage,
    NamedImage,
    classes_of,
    split_of,
    text_of,
)
from edgecls.data.formats.folders import copy
from edgecls.errors import DataError
from edgecls.files import shortened, write_text

_NAMES, _IMAGES = "synsets.txt", "images"


def _read(path: Path) -> LabelFile:
    folder = path if path.is_dir() else path.parent
    files = sorted(file for file in path.glob("*.txt") if file.name != _NAMES) if path.is_dir() else [path]
    classes = [name.strip() for name in text_of(folder / _NAMES).splitlines()]
    images = []
    for file in files:
        for number, line in enumerate(text_of(file).splitlines(), start=1):
            if line.strip():
                name, labels = _parsed(line, classes, f"{shortened(file)}, line {number}")
                images.append(NamedImage(name, labels, split_of(file.stem), within=(_IMAGES,)))
    return LabelFile(folder, images)


def _parsed(line: str, classes: Sequence[str], where: str) -> tuple[str, tuple[str, ...]]:
    """The path, which stands in quotes up to its suffix where it holds spaces, and the labels."""
    _, quoted, rest = line.partition('"') if line.lstrip().startswith('"') else ("", "", line)
    stem, _, rest = rest.rpartition('"') if quoted else ("", "", rest)
    suffix, *numbers = rest.split() or [""]
    if not all(number.isdecimal() and int(number) < len(classes) for number in numbers):
        raise DataError(f"{where}: {' '.join(numbers)} is no number of one of the {len(classes)} classes")
    return stem + suffix, tuple(classes[int(number)] for number in numbers)


def _write(images: Sequence[LabelledImage], out: Path) -> list[str]:
    classes, lists = classes_of(images), dict[str, list[str]]()
    for image in images:
        if '"' in image.name or image.label != image.label.strip():
            raise DataError(
                f"{image.name!r} as {image.label!r} cannot stand in ImageNet's lists; choose another `format`"
            )
        path = PurePosixPath(image.name)
        name = f'"{path.with_suffix("")}"{path.suffix}' if " " in image.name else image.name
        lists.setdefault(image.split or NO_SPLIT, []).append(f"{name} {classes.index(image.label)}\n")
        copy(image.path, out / _IMAGES / image.name)
    write_text(out / _NAMES, "".join(f"{name}\n" for name in classes))
    for split, listed in lists.items():
        write_text(out / f"{split}.txt", "".join(listed))
    return []


def _recognises(path: Path, _content: Any) -> bool:
    folder = path if path.is_dir() else path.parent
    return (path.is_dir() or path.suffix.lower() == ".txt") and (folder / _NAMES).is_file()


FORMAT = Format("imagenet", "ImageNet's lists (.txt)", _recognises, _read, _write, is_folder=True, keeps_columns=False)
