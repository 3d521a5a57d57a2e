"""Labels from other tools and for them: into our manifest, and out of it into any format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgecls.data.formats import manifest
from edgecls.data.formats.base import Format, LabelFile, LabelledImage, NamedImage, column_names, is_line
from edgecls.data.formats.folders import copy as copy_image
from edgecls.data.formats.places import AMBIGUOUS, MISSING, OUTSIDE, Places, in_full
from edgecls.data.formats.registry import FORMATS, FormatName, FormatOrAuto, recognised
from edgecls.data.splits import SPLITS
from edgecls.errors import DataError, OutputError, UsageError
from edgecls.fields import is_name
from edgecls.files import is_folder, make_folder, new_folder, shortened
from edgecls.imaging.folders import DATA_FILE, read_quarantine
from edgecls.settings import Config, setting

_UNLABELLED, _SEVERAL, _NO_NAME, _CONTRADICTION, _QUARANTINE = (
    "unlabelled", "several labels", "no name", "contradiction", "quarantine",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LabelImportConfig(Config):
    """Labels that another tool wrote, and where the images lie."""

    labels: Path = setting(help="A label file, or the folder that a tool exported.")
    images: Path | None = setting(None, "The folder of the images; that of the label file unless given.")
    out: Path | None = setting(None, "The manifest to write; data.csv in the folder of the images unless given.")
    format: FormatOrAuto = setting("auto", "What wrote the labels; found out by looking unless given.")
    copy: bool = setting(False, "Copy the images too, into the new folder of `out`.")
    strict: bool = setting(False, "Write nothing where an image must be left out.")

    def check(self) -> None:
        """Raise `UsageError` or `OutputError` for values that make no sense together."""
        super().check()
        if self.copy and self.out is None:
            raise UsageError("`copy` needs `out`: a manifest in a new folder, which the images go into")
        if self.out is not None and self.out.suffix.lower() != ".csv":
            raise UsageError(f"`out` is a manifest and ends in .csv, which {shortened(self.out)} does not")


@dataclass(frozen=True, kw_only=True)
class LabelExportConfig(Config):
    """Labelled images, and the tool that is to read them."""

    data: Path = setting(help="A folder of class folders, a manifest, or labels in any format that can be imported.")
    format: FormatName = setting(help="The format to write.")
    out: Path = setting(help="The file to write, or, where the format is one of a folder, the new folder.")
    images: Path | None = setting(None, "The folder of the images; that of the labels unless given.")
    strict: bool = setting(False, "Write nothing where an image must be left out.")


@dataclass(frozen=True)
class Exchanged:
    """What was done: the format read, the file or folder written, its images, and a line for each kind of trouble.

    `left_out` counts the images that the labels name and that are not among the others.
    """

    format: Format
    out: Path
    images: Sequence[LabelledImage]
    left_out: int
    remarks: Sequence[str]


def import_labels(config: LabelImportConfig) -> Exchanged:
    """Write a manifest of the images that a label file names. Raises `DataError`, `OutputError`, `UsageError`."""
    config.check()
    read_from, found = _found(config.labels, config.images, config.format, config.strict)
    out = config.out or found.root / DATA_FILE
    _require_free(out)
    if config.copy:
        _require_free(out.parent)
        with new_folder(out.parent) as folder:
            for image in found.images:
                copy_image(image.path, folder / image.name)
            manifest.write_csv(found.images, folder / out.name)
    else:
        make_folder(out.parent)
        manifest.write_csv([replace(image, name=_seen_from(out, image.path)) for image in found.images], out)
    return Exchanged(read_from, out, found.images, found.left_out, found.remarks)


def export_labels(config: LabelExportConfig) -> Exchanged:
    """Write labelled images in a format of another tool. Raises `DataError`, `OutputError`, `UsageError`."""
    config.check()
    written = FORMATS[config.format]
    _require_free(config.out)
    read_from, found = _found(config.data, config.images, "auto", config.strict)
    images, remarks = found.images, list(found.remarks)
    if written in (manifest.CSV, manifest.JSONL):
        images = [replace(image, name=_seen_from(config.out, image.path)) for image in images]
    if not written.keeps_columns and (names := column_names(images)):
        remarks.append(f"{written.title}: there is no place for {', '.join(names)}")
    if written.is_folder:
        with new_folder(config.out) as folder:
            remarks += written.write(images, folder)
    else:
        make_folder(config.out.parent)
        remarks += written.write(images, config.out)
    return Exchanged(read_from, config.out, images, found.left_out, remarks)


@dataclass(frozen=True)
class _Found:
    root: Path
    images: list[LabelledImage]
    left_out: int
    remarks: list[str]


def _found(labels: Path, images: Path | None, named: str, strict: bool) -> tuple[Format, _Found]:
    """Read labels and look for their images. Raises `DataError`, with `strict` also where one is left out."""
    if images is not None and not is_folder(images):
        raise DataError(f"there is no folder {shortened(images)}; `images` is the folder that the images lie in")
    read_from = recognised(labels) if named == "auto" else FORMATS[named]
    if not labels.exists():
        raise DataError(f"there is no file or folder {shortened(labels)}")
    given = read_from.read(labels)
    found = _matched(given, images or given.root)
    if not found.images:
        raise DataError("; ".join([f"{shortened(labels)} gives no image with one label", *found.remarks]))
    if strict and found.left_out:
        raise DataError("; ".join([f"{found.left_out} images would be left out", *found.remarks]))
    return read_from, found


def _matched(given: LabelFile, root: Path) -> _Found:
    """The images that are there and have one label; all others are counted by what is wrong with them."""
    places, quarantine = Places(root), read_quarantine(root)
    troubles: dict[str, list[str]] = {}
    found: dict[str, LabelledImage] = {}
    labels: dict[str, set[str]] = {}
    named, again, strange = set[str](), 0, list[str]()
    for image in given.images:
        name, trouble = places.find(image)
        named.add(name)
        trouble = trouble or (_QUARANTINE if name in quarantine else _trouble_of(image, name))
        if trouble:
            troubles.setdefault(trouble, []).append(image.name)
            continue
        known = image.split is None or image.split in SPLITS
        strange += [] if known else [str(image.split)]
        again += name in found
        labels.setdefault(name, set()).update(image.labels)
        split = image.split if known else None
        found.setdefault(name, LabelledImage(root / name, name, image.labels[0], split, image.columns))
    if torn := {name for name, given_to in labels.items() if len(given_to) > 1}:
        troubles[_CONTRADICTION] = sorted(torn)
    remarks = [*given.remarks, *(_line(kind, names, root) for kind, names in troubles.items())]
    if again:
        remarks.append(f"named more than once: {again} images")
    if strange:
        remarks.append(
            f"left without a split: {len(strange)} in one that is none of {', '.join(SPLITS)} ({strange[0]})"
        )
    if unnamed := len(set(places.names) - named):
        remarks.append(f"in {shortened(root)} but not among the labels: {unnamed} images")
    kept = [image for name, image in found.items() if name not in torn]
    return _Found(root, kept, sum(map(len, troubles.values())), remarks)


def _trouble_of(image: NamedImage, name: str) -> str:
    """Why an image that was found cannot be a line of a manifest, or ""."""
    if not image.labels:
        return _UNLABELLED
    if not all(is_name(each) and is_line(each) for each in (name, *image.labels)):
        return _NO_NAME
    return _SEVERAL if len(image.labels) > 1 else ""


_WORDS = {
    MISSING: "not found below {root}",
    OUTSIDE: "outside of {root} (`images` names another folder)",
    AMBIGUOUS: "of which {root} holds several by that name",
    _UNLABELLED: "without a label",
    _SEVERAL: "with several labels, of which a manifest holds one",
    _NO_NAME: "whose name or label is no line of text",
    _CONTRADICTION: "named with one label and with another",
    _QUARANTINE: "in quarantine",
}


def _line(kind: str, names: Sequence[str], root: Path) -> str:
    what = _WORDS[kind].format(root=shortened(root))
    return f"left out: {len(names)} {what}, such as {shortened(names[0])}"


def _require_free(path: Path) -> None:
    if os.path.lexists(path):
        raise OutputError(f"{shortened(path)} exists already; choose another `out` or remove it")


def _seen_from(out: Path, image: Path) -> str:
    """How a manifest names an image: relative to itself where it lies below its folder."""
    path, folder = in_full(image), in_full(out).parent
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
