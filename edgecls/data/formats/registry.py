"""All formats, and finding out which one it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from edgecls.data.formats import coco, cvat, datumaro, fiftyone, folders, imagenet, label_studio, manifest
from edgecls.data.formats.base import Format, json_of
from edgecls.errors import DataError
from edgecls.files import shortened

FormatName = Literal[
    "csv", "jsonl", "label-studio", "cvat", "datumaro", "coco", "fiftyone", "imagenet", "folders"
]  # fmt: skip
FormatOrAuto = Literal["auto", FormatName]
FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        manifest.CSV, manifest.JSONL, label_studio.FORMAT, cvat.FORMAT, datumaro.FORMAT, coco.FORMAT,
        fiftyone.FORMAT, imagenet.FORMAT, folders.FORMAT,
    )
}  # fmt: skip
"""By name, in the order in which they are asked: a folder that is none of the others may be one of class folders."""


def recognised(path: Path) -> Format:
    """The format of a label file or folder. Raises `DataError` for what is of none."""
    if not path.exists():
        raise DataError(f"there is no file or folder {shortened(path)}")
    content: Any = json_of(path) if path.suffix.lower() == ".json" and path.is_file() else None
    for each in FORMATS.values():
        if each.recognises(path, content):
            return each
    known = ", ".join(each.title for each in FORMATS.values())
    raise DataError(f"{shortened(path)} is of none of the formats that are known: {known}")
