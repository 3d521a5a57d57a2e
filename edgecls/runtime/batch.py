"""Many image files through one model: answers in order with bounded memory, and the tables that keep them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgecls.errors import DataError, ImageError, MissingExtraError, UsageError
from edgecls.files import new_file
from edgecls.imaging.decode import Colour, read_image
from edgecls.runtime.classifier import Classifier, Prediction
from edgecls.runtime.pipeline import each_answered

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
PARQUET_ROWS = 10_000
"""Rows that a Parquet file keeps together, and that wait in memory to be written."""


@dataclass(frozen=True)
class ImageResult:
    """What is known of one image: a prediction, or why it cannot be read."""

    image: str
    prediction: Prediction | None
    error: str | None = None

    def to_json(self, top: int) -> dict[str, Any]:
        """Plain values, with the `top` best classes."""
        if self.prediction is None:
            return {"image": self.image, "error": self.error}
        ranking = [{"label": label, "score": score} for label, score in self.prediction.top(top)]
        values = {"image": self.image, "label": self.prediction.label, "score": self.prediction.score, "top": ranking}
        flags = {name: True for name in ("unsure", "unknown") if getattr(self.prediction, name)}
        more = {"nearest": self.prediction.nearest, "novelty": self.prediction.novelty}
        return {**values, **flags, **{name: value for name, value in more.items() if value is not None}}

    def to_row(self, top: int) -> dict[str, Any]:
        """One row of a table: `label_1` is the best class also where `label` is "unsure" or "unknown"."""
        ranking = self.prediction.top(top) if self.prediction else ()
        row: dict[str, Any] = {
            "image": self.image,
            "label": self.prediction.label if self.prediction else None,
            "score": self.prediction.score if self.prediction else None,
            "error": self.error,
        }
        for rank in range(1, top + 1):
            row[f"label_{rank}"], row[f"score_{rank}"] = ranking[rank - 1] if rank <= len(ranking) else (None, None)
        return row


def classify(
    classifier: Classifier, paths: Iterable[Path], background: Colour | None = None
) -> Generator[ImageResult, None, None]:
    """Classify image files in order, several at a time; see `pipeline.each_answered`.

    A file that cannot be read gets an answer that says so. Transparent images lie over `background`; see `read_image`.
    """

    def answer(path: Path) -> ImageResult:
        try:
            image = read_image(path, background, classifier.card.preprocess)
        except ImageError as error:
            return ImageResult(str(path), None, str(error))
        return ImageResult(str(path), classifier.answer(image))

    return each_answered(classifier.session, paths, answer)


def listed(path: Path) -> Iterator[Path]:
    """The paths in a text file, one a line; "-" is standard input, read as it comes. Raises `DataError`."""
    import sys

    try:
        with sys.stdin if path == Path("-") else path.open(encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                if line.strip():
                    yield Path(line.rstrip("\n"))
    except OSError as error:
        raise DataError(f"cannot read the list {path}: {error.strerror}") from error


@contextmanager
def table(path: Path, top: int) -> Iterator[Callable[[ImageResult], None]]:
    """Yield what takes answers for a CSV, JSON Lines or Parquet file, by the suffix.

    The file appears when the block ends well. Raises `UsageError` for another suffix and `MissingExtraError`.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise UsageError(f"`out` takes a {', '.join(TABLE_SUFFIXES)} file, not {path.name}")
    if suffix == ".parquet":
        with _parquet(path, top) as add:
            yield add
        return
    with (
        new_file(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as s,
    ):
        yield _csv(s, top) if suffix == ".csv" else lambda answer: _json_line(s, answer, top)


def _json_line(stream: IO[str], answer: ImageResult, top: int) -> None:
    stream.write(json.dumps(answer.to_json(top), ensure_ascii=False) + "\n")


def _csv(stream: IO[str], top: int) -> Callable[[ImageResult], None]:
    writer = csv.DictWriter(stream, list(ImageResult("", None).to_row(top)))
    writer.writeheader()
    return lambda answer: writer.writerow(answer.to_row(top))


@contextmanager
def _parquet(path: Path, top: int) -> Iterator[Callable[[ImageResult], None]]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "writing Parquet") from error
    names = list(ImageResult("", None).to_row(top))
    schema = arrow.schema([(name, arrow.float32() if name.startswith("score") else arrow.string()) for name in names])
    rows: list[dict[str, Any]] = []

    with new_file(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:

        def flush() -> None:
            writer.write_table(arrow.Table.from_pylist(rows, schema))
            rows.clear()

        def add(answer: ImageResult) -> None:
            row = answer.to_row(top)
            rows.append({**row, "image": row["image"].encode("utf-8", "backslashreplace").decode()})
            if len(rows) >= PARQUET_ROWS:
                flush()

        yield add
        flush()
