"""What all formats share: images as a label file names them, images as they were found, and reading that ends in one
clear line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from edgecls.data.splits import SPLITS
from edgecls.errors import DataError, MissingExtraError
from edgecls.fields import parse_json
from edgecls.files import read_text, shortened
from edgecls.imaging.decode import read_image
from edgecls.imaging.folders import COLUMNS, SPLIT_FOLDERS

NO_SPLIT = "default"
"""What CVAT and Datumaro call the subset of images without one."""
_OURS = frozenset({"path", "label", "split", *COLUMNS})
_SIDEWAYS = range(5, 9)
"""EXIF orientations that swap height and width."""


@dataclass(frozen=True)
class NamedImage:
    """An image as a label file names it: by path or URL, with all the labels that it has there.

    `within` are folders in which the format keeps images, tried in this order before the root itself; a `bare` name
    lacks its suffix. `columns` holds what else is known, such as source, time or group.
    """

    name: str
    labels: tuple[str, ...]
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    within: tuple[str, ...] = ()
    bare: bool = False


@dataclass(frozen=True)
class LabelFile:
    """The content of a label file. Names are relative to `root`; each of `remarks` says what was not read."""

    root: Path
    images: Sequence[NamedImage]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class LabelledImage:
    """An image that was found: its file, its name relative to the folder of images, and its one label."""

    path: Path
    name: str
    label: str
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """One way to write labels down.

    `recognises` looks at a path and, of a JSON file, at its content. `read` raises `DataError`. `write` makes a file
    or, with `is_folder`, fills an empty folder with copies of the images, and returns remarks. `keeps_columns` says
    whether the format has a place for further columns.
    """

    name: str
    title: str
    recognises: Callable[[Path, Any], bool]
    read: Callable[[Path], LabelFile]
    write: Callable[[Sequence[LabelledImage], Path], list[str]]
    is_folder: bool = False
    keeps_columns: bool = True


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def text_of(path: Path) -> str:
    """The text of a label file. Raises `DataError`."""
    try:
        return read_text(path)
    except OSError as error:
        raise DataError(f"{shortened(path)} cannot be read as text in UTF-8: {error.strerror}") from error


def json_of(path: Path) -> Any:
    """The values in a JSON file. Raises `DataError`."""
    try:
        return parse_json(text_of(path))
    except ValueError as error:
        raise DataError(f"{shortened(path)} is no JSON: {error}") from error


def xml_of(path: Path) -> Element:
    """The root of an XML file. Document types, which is where entities are made, are refused. Raises `DataError`."""
    builder, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise DataError(f"{shortened(path)} declares a document type, which no label tool writes; it is not read")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(text_of(path).encode(), True)
    except expat.ExpatError as error:
        raise DataError(f"{shortened(path)} is no XML: {error}") from error
    return builder.close()


def objects(record: Any, name: str, origin: Path) -> list[Mapping[str, Any]]:
    """A list of JSON objects in an object, by its name. Raises `DataError`."""
    values = record.get(name)
    if not isinstance(values, list) or not all(isinstance(each, Mapping) for each in values):
        raise DataError(f"{shortened(origin)}: {name} must be a list of JSON objects")
    return values


def word(record: Mapping[str, Any], name: str, origin: Path) -> str:
    """A field that must be text, or a number as such. Raises `DataError`."""
    if (found := plain(record.get(name))) is None or not found:
        raise DataError(f"{shortened(origin)}: an entry has no {name}")
    return found


def plain(value: Any) -> str | None:
    """Text or a number as text; None for anything else."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def columns_of(record: Mapping[str, Any], besides: frozenset[str] = frozenset()) -> dict[str, str]:
    """The fields of an object that can be columns of a manifest, but for our own and those of `besides`."""
    texts = {name: plain(value) for name, value in record.items() if name.lower() not in _OURS and name not in besides}
    return {name: text for name, text in texts.items() if text and is_line(name) and is_line(text)}


def split_of(name: str | None) -> str | None:
    """The split of that name, in any of its spellings; what is none as it is, but `NO_SPLIT` and nothing as None."""
    spelled = (name or NO_SPLIT).strip().lower()
    known = {each: split for split, names in SPLIT_FOLDERS.items() for each in names}
    return known.get(spelled, None if spelled == NO_SPLIT else name)


def split_in(stem: str) -> str | None:
    """The split that is a word of a file's name, as in `instances_train`."""
    return next((split for each in re.split(r"[^a-z]+", stem.lower()) if (split := split_of(each)) in SPLITS), None)


def is_line(text: str) -> bool:
    """Whether a text can stand in a line of a file in UTF-8: no line breaks, NULs, or halves of letters."""
    return text.splitlines() == [text] and text.isprintable()


# ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def classes_of(images: Sequence[LabelledImage]) -> list[str]:
    """The labels that occur, sorted."""
    return sorted({image.label for image in images})


def column_names(images: Sequence[LabelledImage]) -> list[str]:
    """The further columns that occur, in the order in which they do."""
    return list(dict.fromkeys(name for image in images for name in image.columns))


def key_of(name: str, taken: Container[str]) -> str:
    """A name without its suffix, by which some formats know an image, and a number where that is taken already."""
    number, bare = 1, str(PurePosixPath(name).with_suffix(""))
    while (key := bare if number == 1 else f"{bare}-{number}") in taken:
        number += 1
    return key


def size_of(path: Path) -> tuple[int, int]:
    """Height and width of an image in pixels, upright, from its header. Raises `ImageError`."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtraError("pillow", "train", "writing the sizes of images") from error
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            return (width, height) if picture.getexif().get(0x0112) in _SIDEWAYS else (height, width)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError):
        height, width = read_image(path).shape[:2]
        return height, width
