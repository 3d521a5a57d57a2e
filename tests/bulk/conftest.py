"""The same photographs in every form that `predict` reads."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from edgecls.bulk.config import Answering, BulkConfig
from edgecls.bulk.listing import Inputs
from edgecls.bulk.run import Summary, predict_parts
from edgecls.runtime.store import Artifact

Predict = Callable[..., Summary]


@pytest.fixture
def model(bundle: Callable[[str, str], Artifact]) -> Path:
    return bundle("onnx", "fp32").path


@pytest.fixture
def predict(model: Path) -> Predict:
    """Classify into parts: `predict(out, argument, ...)`, with settings of the job as keywords."""

    def run(out: object, *arguments: object, list_file: object = None, top: int = 1, **settings: Any) -> Summary:
        inputs = Inputs(tuple(map(str, arguments)), str(list_file) if list_file else None, settings.pop("column", None))
        config = BulkConfig(**{"shard_images": 5, "patience_s": 0.0, **settings})
        return predict_parts(inputs, f"{out}/", Answering(model=model, top=top), config)

    return run


@pytest.fixture
def paths(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.jpg"))


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The rows of all parts, by image."""
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [row for part in sorted(out.glob("part-*.parquet")) for row in parquet.read_table(part).to_pylist()]
    return sorted(rows, key=lambda row: row["image"])


def answers_of(out: Path) -> list[tuple[object, object]]:
    """Labels and scores, in an order that the names of images do not change."""
    return sorted((row["label"], row["score"]) for row in rows_of(out))
