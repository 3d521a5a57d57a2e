"""Datumaro's own JSON: annotations/SUBSET.json beside images/SUBSET/."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecls.data.formats.base import (
    NO_SPLIT,
    Format,
    LabelFile,
    LabelledImage,
    NamedImage,
    classes_of,
    columns_of,
    json_of,
    key_of,
    objects,
    plain,
    size_of,
    split_of,
    word,
)
from edgecls.data.formats.folders import copy
from edgecls.errors import DataError
from edgecls.files import shortened, write_text

_ANNOTATIONS, _IMAGES = "annotations", "images"


def _read(path: Path) -> LabelFile:
    files = sorted((path / _ANNOTATIONS).glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{shortened(path / _ANNOTATIONS)} holds no .json")
    images = [image for file in files for image in _images(file)]
    folder = files[0].parent
    return LabelFile(folder.parent if folder.name == _ANNOTATIONS else folder, images)


def _images(file: Path) -> list[NamedImage]:
    record = json_of(file)
    categories = record.get("categories") if isinstance(record, Mapping) else None
    labels = categories.get("label") if isinstance(categories, Mapping) else None
    if not isinstance(labels, Mapping):
        raise DataError(f"{shortened(file)} has no categories of labels, so it is not Datumaro's of a classification")
    names = [word(each, "name", file) for each in objects(labels, "labels", file)]
    return [_image(item, names, file) for item in objects(record, "items", file)]


def _image(item: Mapping[str, Any], names: Sequence[str], file: Path) -> NamedImage:
    labels = []
    for annotation in objects({"annotations": [], **item}, "annotations", file):
        if annotation.get("type") == "label":
            number = annotation.get("label_id")
            if not isinstance(number, int) or not 0 <= number < len(names):
                raise DataError(f"{shortened(file)}: item {item.get('id')} has label {number} of {len(names)}")
            labels.append(names[number])
    image, attributes = item.get("image"), item.get("attr")
    path = plain(image.get("path")) if isinstance(image, Mapping) else None
    return NamedImage(
        path or word(item, "id", file), tuple(dict.fromkeys(labels)), split_of(file.stem),
        columns_of(attributes) if isinstance(attributes, Mapping) else {},
        (f"{_IMAGES}/{file.stem}", _IMAGES), bare=not path,
    )  # fmt: skip


def _write(images: Sequence[LabelledImage], out: Path) -> list[str]:
    classes = classes_of(images)
    categories = {"label": {"labels": [{"name": name, "parent": "", "attributes": []} for name in classes]}}
    subsets: dict[str, dict[str, dict[str, Any]]] = {}
    for image in images:
        subset = image.split or NO_SPLIT
        label = {"id": 0, "type": "label", "attributes": {}, "group": 0, "label_id": classes.index(image.label)}
        items = subsets.setdefault(subset, {})
        key = key_of(image.name, items)
        items[key] = {
            "id": key,
            "annotations": [label],
            "attr": dict(image.columns),
            "image": {"path": image.name, "size": list(size_of(image.path))},
        }
        copy(image.path, out / _IMAGES / subset / image.name)
    (out / _ANNOTATIONS).mkdir()
    for subset, items in subsets.items():
        head = {"dm_format_version": "1.0", "media_type": 2, "infos": {}, "categories": categories}
        record = {**head, "items": list(items.values())}
        write_text(out / _ANNOTATIONS / f"{subset}.json", json.dumps(record, ensure_ascii=False) + "\n")
    return []


def _recognises(path: Path, content: Any) -> bool:
    if path.is_dir():
        return any((path / _ANNOTATIONS).glob("*.json"))
    return isinstance(content, Mapping) and {"items", "categories"} <= content.keys()


FORMAT = Format("datumaro", "Datumaro (JSON)", _recognises, _read, _write, is_folder=True)
