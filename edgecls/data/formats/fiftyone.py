"""FiftyOneImageClassificationDataset: labels.json beside data/."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edgecls.data.formats.base import (
    Format,
    LabelFile,
    LabelledImage,
    NamedImage,
    classes_of,
    columns_of,
    json_of,
    key_of,
    plain,
    split_of,
)
from edgecls.data.formats.folders import copy
from edgecls.errors import DataError
from edgecls.files import shortened, write_text

_LABELS, _DATA, _PATHS = "labels.json", "data", "data.json"


def _read(path: Path) -> LabelFile:
    file = path / _LABELS if path.is_dir() else path
    record = json_of(file)
    labels = record.get("labels") if isinstance(record, Mapping) else None
    if not isinstance(labels, Mapping):
        raise DataError(f"{shortened(file)}: labels must be a JSON object of ids and labels")
    classes, paths = record.get("classes"), {}
    if (file.parent / _PATHS).is_file():
        paths = json_of(file.parent / _PATHS)
    images = []
    for key, given in labels.items():
        targets = given if isinstance(given, list) else [given]
        attributes = next((_attributes(each) for each in targets if isinstance(each, Mapping)), {})
        named = plain(paths.get(key)) if isinstance(paths, Mapping) else None
        images.append(
            NamedImage(
                named or key,
                tuple(dict.fromkeys(label for each in targets if (label := _label(each, classes, file)))),
                split_of(plain(attributes.get("split"))),
                columns_of(attributes),
                (_DATA,),
                bare=not named,
            )
        )
    return LabelFile(file.parent, images)


def _attributes(target: Mapping[str, Any]) -> Mapping[str, Any]:
    found = target.get("attributes")
    return found if isinstance(found, Mapping) else {}


def _label(target: Any, classes: Any, file: Path) -> str | None:
    """A label by its name, or by its position among the classes."""
    value = target.get("label") if isinstance(target, Mapping) else target
    if isinstance(classes, list) and isinstance(value, int):
        if not 0 <= value < len(classes):
            raise DataError(f"{shortened(file)}: there is a label {value}, and there are {len(classes)} classes")
        value = classes[value]
    return plain(value)


def _write(images: Sequence[LabelledImage], out: Path) -> list[str]:
    classes, labels = classes_of(images), dict[str, Any]()
    with_attributes = any(image.split or image.columns for image in images)
    for image in images:
        key = key_of(image.name, labels)
        attributes = {**({"split": image.split} if image.split else {}), **image.columns}
        number = classes.index(image.label)
        labels[key] = {"label": number, "attributes": attributes} if with_attributes else number
        copy(image.path, out / _DATA / f"{key}{PurePosixPath(image.name).suffix}")
    write_text(out / _LABELS, json.dumps({"classes": classes, "labels": labels}, ensure_ascii=False) + "\n")
    return []


def _recognises(path: Path, content: Any) -> bool:
    if path.is_dir():
        return (path / _LABELS).is_file()
    return isinstance(content, Mapping) and isinstance(content.get("labels"), Mapping) and "classes" in content


FORMAT = Format("fiftyone", "FiftyOneImageClassificationDataset", _recognises, _read, _write, is_folder=True)
