"""Label Studio's JSON and JSON-MIN: tasks with choices."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgecls.data.formats.base import Format, LabelFile, LabelledImage, NamedImage, columns_of, json_of, plain, split_of
from edgecls.errors import DataError
from edgecls.files import shortened, write_text
from edgecls.imaging.decode import SUFFIXES

LOCAL_FILES = "/data/local-files/?d="
"""How a task names a file below the folder that Label Studio serves."""
_MINIMAL = frozenset({"id", "choice", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"})
"""What JSON-MIN has beside a task's data."""


def _read(path: Path) -> LabelFile:
    tasks = json_of(path)
    if not isinstance(tasks, list) or not all(isinstance(task, Mapping) for task in tasks):
        raise DataError(f"{shortened(path)} must be a list of tasks")
    return LabelFile(path.parent, [_image(task, path) for task in tasks])


def _image(task: Mapping[str, Any], origin: Path) -> NamedImage:
    whole = isinstance(task.get("data"), Mapping)
    data = task["data"] if whole else task
    key = next((name for name in ("image", *data) if _names_image(data.get(name))), None)
    if key is None and not isinstance(data.get("image"), str):
        raise DataError(f"{shortened(origin)}: task {task.get('id', '')} names no image")
    labels = _answers(task) if whole else _choices(task.get("choice"))
    columns = columns_of(data, frozenset({key or "image"}) | (frozenset() if whole else _MINIMAL))
    return NamedImage(data[key or "image"], tuple(dict.fromkeys(labels)), split_of(plain(data.get("split"))), columns)


def _names_image(value: Any) -> bool:
    path = value.rpartition("?d=")[2].partition("?")[0] if isinstance(value, str) else ""
    return path.lower().endswith(tuple(SUFFIXES))


def _answers(task: Mapping[str, Any]) -> Iterator[str]:
    """The choices of all annotators who did not skip the task."""
    for annotation in _all(task.get("annotations", task.get("completions"))):
        if not annotation.get("was_cancelled"):
            for result in _all(annotation.get("result")):
                value = result.get("value")
                if isinstance(value, Mapping):
                    yield from _choices(value)


def _choices(value: Any) -> list[str]:
    """A choice, a list of them, or an object that holds such."""
    if isinstance(value, Mapping):
        value = value.get("choices")
    found = [plain(each) for each in (value if isinstance(value, list) else [value])]
    return [each for each in found if each]


def _all(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _write(images: Sequence[LabelledImage], out: Path) -> list[str]:
    tasks = []
    for image in images:
        choice = {"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": [image.label]}}
        split = {"split": image.split} if image.split else {}
        data = {"image": LOCAL_FILES + quote(image.name), **split, **image.columns}
        tasks.append({"data": data, "annotations": [{"result": [choice]}]})
    write_text(out, json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")
    return [
        "Label Studio shows these images with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT set to their folder"
    ]


def _recognises(_path: Path, content: Any) -> bool:
    return isinstance(content, list)


FORMAT = Format("label-studio", "Label Studio (JSON, JSON-MIN)", _recognises, _read, _write)
