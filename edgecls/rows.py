"""Tables that people edit: the rows of CSV and JSONL files, one by one, and CSV as text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgecls.errors import DataError
from edgecls.files import read_text


def read_rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV or JSONL file in UTF-8: each one's line and its values that are not empty, by column in lower
    case. Raises `DataError`.
    """
    text = table_text(file)
    if file.suffix.lower() == ".csv":
        records = csv_records(text, file)
        _, header = next(records, (0, []))
        names = [name.strip().lower() for name in header]
        for number, values in records:
            yield number, {name: value for name, value in zip(names, values, strict=False) if name and value}
        return
    for number, row in json_objects(text.splitlines(), str(file)):
        yield number, {name.strip().lower(): str(value) for name, value in row.items() if value is not None}


def json_objects(lines: Iterable[str], origin: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSON lines, with the numbers of their lines; empty ones are left out. Raises `DataError`, which
    names `origin`.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{origin}, line {number} is not JSON") from error
            if not isinstance(row, dict):
                raise DataError(f"{origin}, line {number} is not a JSON object")
            yield number, row


def table_text(file: Path) -> str:
    """The text of a table in UTF-8. Raises `DataError`."""
    try:
        return read_text(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read as text in UTF-8: {error.strerror}") from error


def csv_records(text: str, origin: Path) -> Iterator[tuple[int, list[str]]]:
    """The records of a CSV text that are not empty, with the lines that they end in; the first is the header.

    Raises `DataError`, which names `origin`.
    """
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        yield from ((reader.line_num, values) for values in reader if values)
    except csv.Error as error:
        raise DataError(f"{origin}, line {reader.line_num} is not CSV: {error}") from error


def csv_text(lines: Iterable[Sequence[str]]) -> str:
    """Lines of values as CSV, what needs quotes in quotes."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
