"""JSON in COCO's style, with a category for a whole image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecls.data.formats.base import (
    Format,
    LabelFile,
    LabelledImage,
    NamedImage,
    classes_of,
    columns_of,
    json_of,
    objects,
    plain,
    size_of,
    split_in,
    split_of,
    word,
)
from edgecls.errors import DataError
from edgecls.files import shortened, write_text

_USUAL = frozenset({"id", "file_name", "width", "height", "license", "coco_url", "flickr_url", "date_captured"})


def _read(path: Path) -> LabelFile:
    record = json_of(path)
    if not isinstance(record, Mapping):
        raise DataError(f"{shortened(path)} must be a JSON object with images, annotations and categories")
    names = {word(each, "id", path): word(each, "name", path) for each in objects(record, "categories", path)}
    labels: dict[str, list[str]] = {}
    boxes = 0
    for annotation in objects(record, "annotations", path):
        category = word(annotation, "category_id", path)
        if category not in names:
            raise DataError(f"{shortened(path)}: an annotation has category {category}, which is not among categories")
        labels.setdefault(word(annotation, "image_id", path), []).append(names[category])
        boxes += bool(annotation.get("bbox") or annotation.get("segmentation"))
    split = split_in(path.stem)
    within = (*(f"{folder}{split}" for folder in ("images/", "") if split), "images")
    images = [
        NamedImage(
            word(each, "file_name", path),
            tuple(dict.fromkeys(labels.get(word(each, "id", path), ()))),
            split_of(plain(each.get("split"))) or split,
            columns_of(each, _USUAL),
            within,
        )
        for each in objects(record, "images", path)
    ]
    remarks = (f"{boxes} annotations have boxes or outlines; only their categories are read",) if boxes else ()
    return LabelFile(path.parent.parent if path.parent.name == "annotations" else path.parent, images, remarks)


def _write(images: Sequence[LabelledImage], out: Path) -> list[str]:
    classes = {name: number for number, name in enumerate(classes_of(images), start=1)}
    listed: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        height, width = size_of(image.path)
        listed.append(
            {
                "id": number,
                "file_name": image.name,
                "width": width,
                "height": height,
                **({"split": image.split} if image.split else {}),
                **image.columns,
            }
        )
    record = {
        "images": listed,
        "annotations": [
            {"id": number, "image_id": number, "category_id": classes[image.label]}
            for number, image in enumerate(images, start=1)
        ],
        "categories": [{"id": number, "name": name, "supercategory": ""} for name, number in classes.items()],
    }
    write_text(out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return []


def _recognises(_path: Path, content: Any) -> bool:
    return isinstance(content, Mapping) and {"images", "categories"} <= content.keys()


FORMAT = Format("coco", "COCO-style JSON with categories of images", _recognises, _read, _write)
