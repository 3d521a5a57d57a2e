"""How images, their classes and their splits lie on a disk: class folders, manifests, and what is put in quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgecls.collecting.labelled import read_labelled
from edgecls.data.sources import DIGITS, TORCHVISION, DigitsSource, FolderSource, Source, TorchvisionSource
from edgecls.data.splits import Sample
from edgecls.errors import DataError
from edgecls.fields import is_name
from edgecls.files import expanded, write_text
from edgecls.imaging.decode import find_images
from edgecls.imaging.folders import (
    COLUMNS,
    DATA_FILE,
    MANIFESTS,
    QUARANTINE_FILE,
    class_folders,
    holds_labels,
    labelled_row,
    read_quarantine,
    split_named,
    split_roots,
)
from edgecls.rows import csv_text, read_rows

_READ = {"path", "label", "split", *COLUMNS}
GROUP_COLUMN = "group"
"""Of a manifest: images of one group, such as a series, stay together."""
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class DatasetIndex:
    """What was found: the samples of each split that is there ("train" always is), and what is in quarantine.

    `quarantine` maps keys to reasons; these samples are still among the others. `left_out` counts the files in class
    folders that are no images, by suffix. `unlisted` are the images that a folder's own `data.csv` does not list.
    `columns` maps keys to what else a manifest says about them, by column.
    """

    source: Source
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[Sample]]
    quarantine: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    unlisted: Sequence[str] = ()
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def index_dataset(location: str | None) -> DatasetIndex:
    """Look at a folder, a CSV or JSONL manifest, a torchvision data set by name, or, for None, the embedded digits.

    A folder holds one folder per class, or `train/`, `val/` (or `valid/`, `validation/`) and `test/` with one folder
    per class inside; where it has a `data.csv` with path and label, that says what its images are. A manifest
    names `path` (relative to itself) and `label` of each image, and may name its `split`.
    Raises `DataError`.
    """
    path = expanded(location or DIGITS)
    if location is None or (location == DIGITS and not path.exists()):
        digits = DigitsSource()
        samples = [Sample(str(index), label) for index, label in enumerate(digits.labels)]
        return DatasetIndex(digits, DIGIT_NAMES, {"train": samples})
    if location in TORCHVISION and not path.exists():
        named = TorchvisionSource(location)
        splits = {
            split: [Sample(f"{split}/{index}", label) for index, label in enumerate(labels)]
            for split, labels in named.labels().items()
        }
        return DatasetIndex(named, named.classes(), splits)
    left_out: Counter[str] = Counter()
    unlisted: Sequence[str] = ()
    columns: Mapping[str, Mapping[str, str]] = {}
    if path.is_dir() and holds_labels(path):
        root, (classes, members, columns, unlisted) = path, _listed(path)
    elif path.is_dir():
        root, (classes, members) = path, _scan(path.resolve(), left_out)
    elif path.suffix.lower() in MANIFESTS and path.is_file():
        root, (classes, members, columns) = path.parent, read_manifest(path)
    elif path.exists():
        raise DataError(f"{location} is a file; give a folder with one folder of images per class, or a manifest")
    else:
        raise DataError(
            f"there is no folder {location}; give a folder with one folder of images per class, a .csv or .jsonl "
            f"manifest, or one of {', '.join(TORCHVISION)}"
        )
    if wrong := [name for name in classes if not is_name(name)]:
        raise DataError(f"{location} has a class named {wrong[0]!r}; give it a name that can be read and typed")
    return DatasetIndex(FolderSource(root), classes, members, read_quarantine(root), left_out, unlisted, columns)


def groups_in(columns: Mapping[str, Mapping[str, str]]) -> Callable[[Sample], str]:
    """The group of a sample by what a manifest says, as `DatasetIndex.columns` has it; one without is its own."""
    return lambda sample: columns.get(sample.key, {}).get(GROUP_COLUMN) or sample.key


def names_splits(path: Path) -> bool:
    """Whether a folder or a manifest says which images are held out; see `index_dataset`."""
    if path.is_dir() and not holds_labels(path):
        return (path / "train").is_dir()
    table = path / DATA_FILE if path.is_dir() else path
    return any(row.get("split") for _, row in read_rows(table))


def _scan(root: Path, left_out: Counter[str]) -> tuple[tuple[str, ...], dict[str, list[Sample]]]:
    """Class names in order, and the samples of each split folder that is there."""
    roots = split_roots(root)
    classes = tuple(folder.name for folder in class_folders(roots["train"]))
    samples: dict[str, list[Sample]] = {}
    for split, folder in roots.items():
        for class_folder in class_folders(folder):
            if class_folder.name not in classes:
                raise DataError(f"{class_folder} is a class that {roots['train']} does not have; rename or remove it")
            label = classes.index(class_folder.name)
            samples.setdefault(split, []).extend(
                Sample(str(path.relative_to(root)), label) for path in find_images(class_folder, left_out)
            )
    return classes, {"train": [], **samples}


def read_manifest(file: Path) -> tuple[tuple[str, ...], dict[str, list[Sample]], dict[str, dict[str, str]]]:
    """Class names in order, the samples of each split that a manifest names, and each one's other columns by its key.

    Raises `DataError` with the line.
    """
    rows: dict[str, tuple[str, str]] = {}
    columns: dict[str, dict[str, str]] = {}
    for number, given in read_rows(file):
        row = labelled_row(given, file, number)
        if row["path"] in rows:
            raise DataError(f"{file}, line {number}: {row['path']} stands there twice")
        rows[row["path"]] = row["label"], split_named(row.get("split") or "train", file, f"line {number}")
        columns[row["path"]] = {name: value for name, value in given.items() if name not in _READ}
    return *_members(rows), columns


def _listed(
    root: Path,
) -> tuple[tuple[str, ...], dict[str, list[Sample]], dict[str, dict[str, str]], list[str]]:
    """What `read_manifest` gives of a folder's `data.csv`, and the images that it does not list."""
    rows, unlisted = read_labelled(root)
    splits = {row.path: split_named(row.split or "train", root / DATA_FILE, row.path) for row in rows}
    members = _members({row.path: (row.label, splits[row.path]) for row in rows})
    return *members, {row.path: row.others for row in rows}, unlisted


def _members(rows: Mapping[str, tuple[str, str]]) -> tuple[tuple[str, ...], dict[str, list[Sample]]]:
    """Class names in order, and the samples of each split, from the label and split of each path."""
    classes = tuple(sorted({label for label, _ in rows.values()}))
    number_of = {label: number for number, label in enumerate(classes)}
    samples: dict[str, list[Sample]] = {"train": []}
    for path, (label, split) in rows.items():
        samples.setdefault(split, []).append(Sample(path, number_of[label]))
    return classes, samples


def write_manifest(layout: DatasetIndex, splits: Mapping[str, Sequence[Sample]], file: Path) -> None:
    """Write a CSV manifest of these splits; paths are relative to it where the images lie below its folder."""
    root, folder = Path(layout.source.location), file.resolve().parent
    lines = [["path", "label", "split"]]
    for split, samples in splits.items():
        for sample in samples:
            path = root / sample.key
            shown = path.relative_to(folder) if path.is_relative_to(folder) else path
            lines.append([str(shown), layout.classes[sample.label], split])
    write_text(file, csv_text(lines), errors="surrogateescape")


def write_quarantine(root: Path, listed: Mapping[str, str]) -> Path:
    """Write the quarantine list of the images below `root`; returns its path. The images stay where they are."""
    lines = [["path", "reason"], *([path, why] for path, why in listed.items())]
    write_text(root / QUARANTINE_FILE, csv_text(lines), errors="surrogateescape")
    return root / QUARANTINE_FILE
