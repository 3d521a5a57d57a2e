"""Our manifest as CSV or JSONL: `path`, `label`, `split` and further columns; Label Studio's CSV is read too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecls.data.formats.base import Format, LabelFile, LabelledImage, NamedImage, column_names, columns_of, split_of
from edgecls.errors import DataError
from edgecls.files import shortened, write_text
from edgecls.imaging.folders import COLUMNS, DATA_FILE
from edgecls.rows import csv_text, read_rows

"""The manifest of the images in its folder."""
_CHOICE = "choice"
"""Where Label Studio's CSV has the label."""


def _read(path: Path) -> LabelFile:
    file = path / DATA_FILE if path.is_dir() else path
    images = []
    for number, given in read_rows(file):
        row = {COLUMNS.get(name, name): value for name, value in given.items()} | given
        if not row.get("path"):
            raise DataError(f"{shortened(file)}, line {number}: no path; each line needs path and label")
        labels = _labels(row.get("label") or row.get(_CHOICE) or "")
        images.append(NamedImage(row["path"], labels, split_of(row.get("split")), columns_of(given, _LABELS_CSV)))
    return LabelFile(file.parent, images)


_LABELS_CSV = frozenset({_CHOICE, "annotator", "annotation_id", "created_at", "updated_at", "lead_time"})


def _labels(text: str) -> tuple[str, ...]:
    """One label, or those of Label Studio's {"choices": [...]}."""
    if text.startswith('{"choices"'):
        try:
            return tuple(map(str, json.loads(text)["choices"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # then it is a label like any other
    return (text,) if text else ()


def lines(images: Sequence[LabelledImage]) -> list[Mapping[str, str]]:
    """The rows of a manifest; no column is empty throughout."""
    divided = any(image.split for image in images)
    return [
        {
            "path": image.name,
            "label": image.label,
            **({"split": image.split or "train"} if divided else {}),
            **{name: image.columns.get(name, "") for name in column_names(images)},
        }
        for image in images
    ]


def write_csv(images: Sequence[LabelledImage], out: Path) -> list[str]:
    """Write a CSV manifest."""
    found = lines(images)
    write_text(out, csv_text([list(found[0]), *(list(line.values()) for line in found)]))
    return []


def _write_jsonl(images: Sequence[LabelledImage], out: Path) -> list[str]:
    write_text(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines(images)))
    return []


def _is_csv(path: Path, _content: Any) -> bool:
    return path.suffix.lower() == ".csv" or (path / DATA_FILE).is_file()


def _is_jsonl(path: Path, _content: Any) -> bool:
    return path.suffix.lower() == ".jsonl"


CSV = Format("csv", "a manifest as CSV", _is_csv, _read, write_csv)
JSONL = Format("jsonl", "a manifest as JSONL", _is_jsonl, _read, _write_jsonl)
