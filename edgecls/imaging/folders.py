"""How labelled images lie on a disk, for training and devices: names of splits and of columns, and the quarantine."""

from __future__ import annotations

from pathlib import Path

from edgecls.errors import DataError
from edgecls.rows import csv_records, read_rows, table_text

DATA_FILE = "data.csv"
"""In a folder: what its images are."""
QUARANTINE_FILE = "quarantine.csv"
COLUMNS = {"image": "path", "filename": "path", "filepath": "path", "class": "label"}
"""Other names of columns that people use, and ours."""
MANIFESTS = (".csv", ".jsonl")
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def holds_labels(root: Path) -> bool:
    """Whether a folder has a `data.csv` that names path and label; another file of that name is not ours."""
    file = root / DATA_FILE
    if not file.is_file():
        return False
    _, header = next(csv_records(table_text(file), file), (0, []))
    return {"path", "label"} <= {name.strip().lower() for name in header}


def split_roots(root: Path) -> dict[str, Path]:
    """The folders with class folders inside, by split: those called as splits are, where there is a `train/`, or else
    `root` for "train". Raises `DataError` where two are of one split.
    """
    if not (root / "train").is_dir():
        return {"train": root}
    roots = {}
    for split, names in SPLIT_FOLDERS.items():
        there = [root / name for name in names if (root / name).is_dir()]
        if len(there) > 1:
            raise DataError(f"{root} has both {there[0].name}/ and {there[1].name}/; keep one of them")
        if there:
            roots[split] = there[0]
    return roots


def class_folders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden, sorted."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def split_named(name: str, file: Path, where: str) -> str:
    """The split that somebody calls so. Raises `DataError`, which names the file and where in it."""
    for split, names in SPLIT_FOLDERS.items():
        if name.lower() in names:
            return split
    raise DataError(f"{file}, {where}: there is no split {name!r}; there are {', '.join(SPLIT_FOLDERS)}")


def labelled_row(given: dict[str, str], file: Path, number: int) -> dict[str, str]:
    """A row of a manifest with our names of its columns. Raises `DataError` where it lacks path or label."""
    row = {COLUMNS.get(name, name): value for name, value in given.items()} | given
    if missing := [name for name in ("path", "label") if not row.get(name)]:
        raise DataError(f"{file}, line {number}: no {missing[0]}; each line needs path and label, and may have split")
    return row


def read_quarantine(root: Path) -> dict[str, str]:
    """Key and reason of each image below `root` that its quarantine list names. Raises `DataError`."""
    file = root / QUARANTINE_FILE
    if not file.is_file():
        return {}
    listed = {}
    for number, row in read_rows(file):
        if not row.get("path"):
            raise DataError(f"{file}, line {number}: no path; each line needs path, and may have reason")
        listed[row["path"]] = row.get("reason", "in quarantine")
    return listed
