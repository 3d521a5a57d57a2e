"""Many image files through one model: answers in order with bounded memory, and the tables that keep them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from edgecls.errors import DataError, ImageError, MissingExtraError, UsageError
from edgecls.files import new_file, shortened
from edgecls.imaging.decode import Colour, decode_image, read_image
from edgecls.runtime.classifier import Classifier, Prediction
from edgecls.runtime.pipeline import each_answered

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
PARQUET_ROWS = 10_000
"""Rows that a Parquet file keeps together, and that wait in memory to be written."""


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of an image file that comes from elsewhere than a folder, or, in `error`, why they cannot be had."""

    name: str
    content: bytes = b""
    error: str | None = None


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
        values = {"image": self.image, **self.prediction.to_json(top)}
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
    classifier: Classifier,
    images: Iterable[Path | EncodedImage],
    background: Colour | None = None,
    cpus: int | None = None,
) -> Generator[ImageResult, None, None]:
    """Classify image files, or their bytes, in order, several at a time; see `pipeline.each_answered`.

    What cannot be read gets an answer that says so. Transparent images lie over `background`; see `read_image`.
    """
    geometry = classifier.card.preprocess

    def answer(image: Path | EncodedImage) -> ImageResult:
        name = image.name if isinstance(image, EncodedImage) else str(image)
        try:
            if isinstance(image, Path):
                pixels = read_image(image, background, geometry)
            elif image.error is not None:
                return ImageResult(name, None, image.error)
            else:
                pixels = decode_image(image.content, shortened(name), background, geometry)
        except ImageError as error:
            return ImageResult(name, None, str(error))
        return ImageResult(name, classifier.answer(pixels))

    return each_answered(classifier.session, images, answer, cpus)


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
        raise UsageError(f"`out` takes a {', '.join(TABLE_SUFFIXES)} file, or FOLDER/ with a slash, not {path.name}")
    with new_file(path) as temporary, temporary.open("wb") as stream, rows(stream, suffix, top) as add:
        yield add


@contextmanager
def rows(stream: BinaryIO, suffix: str, top: int) -> Iterator[Callable[[ImageResult], None]]:
    """Yield what writes answers to a stream in the format of one of `TABLE_SUFFIXES`; all is written when the block
    ends. Raises `MissingExtraError`.
    """
    if suffix == ".parquet":
        with _parquet(stream, top) as add:
            yield add
        return
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="")
    try:
        yield _csv(text, top) if suffix == ".csv" else lambda answer: _json_line(text, answer, top)
    finally:
        text.detach()


def _json_line(stream: IO[str], answer: ImageResult, top: int) -> None:
    stream.write(json.dumps(answer.to_json(top), ensure_ascii=False) + "\n")


def _csv(stream: IO[str], top: int) -> Callable[[ImageResult], None]:
    writer = csv.DictWriter(stream, list(ImageResult("", None).to_row(top)))
    writer.writeheader()
    return lambda answer: writer.writerow(answer.to_row(top))


@contextmanager
def _parquet(stream: BinaryIO, top: int) -> Iterator[Callable[[ImageResult], None]]:
    arrow, parquet = import_arrow("writing Parquet")
    names = list(ImageResult("", None).to_row(top))
    schema = arrow.schema([(name, arrow.float32() if name.startswith("score") else arrow.string()) for name in names])
    waiting: list[dict[str, Any]] = []

    with parquet.ParquetWriter(stream, schema) as writer:

        def flush() -> None:
            writer.write_table(arrow.Table.from_pylist(waiting, schema))
            waiting.clear()

        def add(answer: ImageResult) -> None:
            row = answer.to_row(top)
            waiting.append({**row, "image": row["image"].encode("utf-8", "backslashreplace").decode()})
            if len(waiting) >= PARQUET_ROWS:
                flush()

        yield add
        flush()


def import_arrow(purpose: str) -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`. Raises `MissingExtraError`, which names the purpose."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", purpose) from error
    return pyarrow, parquet
