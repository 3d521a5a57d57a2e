"""Class names in output order, in the files that others keep them in."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

from edgecls.errors import DataError
from edgecls.fields import is_name, parse_json
from edgecls.files import read_text, shortened

TABLES = (".csv", ".tsv")
NAME_COLUMNS = ("name", "class_name", "label_name", "label", "class", "category", "species")
"""Headers of the column of names, the surest first."""
HEADERS = (*NAME_COLUMNS, "classes", "labels", "names", "categories", "class_names", "label_names")
"""Headers of a single column."""
_NUMBERED_LINE = re.compile(r"\s*([0-9]+)(?:\s*[:=]\s*(?=\D)|[.)]?\s+)(\S.*)")
"""A line that begins with its class's index: "0 cat", "0: cat", "0=cat", "0. cat", "0) cat"; not "0.5 l" or "0:30"."""
_SYNSET = re.compile(r"n\d{8}")


def read_classes(file: Path) -> tuple[str, ...]:
    """Class names in output order: one a line, with its index before it or without, a table, or JSON.

    A table (CSV with commas, semicolons or tabs; a header is optional) has a column that counts from 0, or is in output
    order and begins with WordNet's synsets, as timm's lists do.

    In JSON: a list, an object from index to name or from name to index (torchvision's `class_to_idx`), Hugging Face's
    `config.json`, or ImageNet's class index, whose two cranes and maillots get their synset's number.

    Raises `DataError` for an unreadable file and for names that are empty or come twice.
    """
    try:
        text = read_text(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"the classes file {shortened(file)} cannot be read ({reason})") from error
    if file.suffix.lower() == ".json":
        names = _json_classes(text, file)
    else:
        names = _listed(text, file)
    if len(names) < 2:
        raise DataError(f"{file} names {len(names)} classes; a classifier has at least two, one a line")
    if not all(names):
        raise DataError(f"{file} leaves the name of class {names.index('')} empty")
    if wrong := next((name for name in names if not is_name(name)), None):
        raise DataError(f"{file} names a class {wrong!r}; a name holds no NUL character")
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    if twice:
        raise DataError(f"{file} names the class {min(twice)!r} more than once; make the names differ")
    return tuple(names)


def _listed(text: str, file: Path) -> list[str]:
    """The names in a text of one name a line, or in a table."""
    lines = [line for line in text.splitlines() if line.strip()]
    if file.suffix.lower() in TABLES:
        return _table(lines, file)
    # A name may hold a comma, so only a text that is numbered, or has a tab in each line, is a table.
    if lines and (all("\t" in line for line in lines) or any(_is_table(lines, separator) for separator in ",;")):
        return _table(lines, file)
    return _without_index(lines) or _without_index(lines[1:]) or [line.strip() for line in lines]


def _is_table(lines: list[str], separator: str) -> bool:
    """Whether a column of the lines, without or with a header, counts from 0."""
    rows = [line.split(separator, 1) for line in lines]
    headed = len(rows) > 2 and len(rows[0]) == 2
    return _numbered(rows) is not None or (headed and _numbered(rows[1:]) is not None)


def _without_index(lines: list[str]) -> list[str]:
    """The names of lines that begin with the running index, from 0 and in any order; else none.

    Where the names would be the same without their numbers ("0 euro", "1 euro"), these are a part of them.
    """
    matches = [_NUMBERED_LINE.fullmatch(line) for line in lines]
    names = {int(match[1]): match[2].strip() for match in matches if match}
    if len(lines) < 2 or names.keys() != set(range(len(lines))) or len(set(names.values())) < len(names):
        return []
    return [names[index] for index in range(len(lines))]


def _table(lines: list[str], file: Path) -> list[str]:
    separators = [each for each in lines[0] if each in "\t;,"] if lines else []
    separator = "\t" if "\t" in separators else next(iter(separators), ",")
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator, strict=True)]
    except csv.Error as error:
        raise DataError(f"{file} cannot be read as a table ({error})") from error
    ragged = next((number for number, row in enumerate(rows, 1) if len(row) != len(rows[0])), None)
    if ragged:
        raise DataError(
            f"{file}: row {ragged} has {len(rows[ragged - 1])} columns and the first has {len(rows[0])}; put names "
            "that hold a comma in quotes"
        )
    if not rows or len(rows[0]) == 1:
        headed = bool(rows) and _header(rows[0][0]) in HEADERS
        names = [row[0] for row in rows[headed:]]
        return _without_index(names) or names
    header = [_header(cell) for cell in rows[0]]
    for head, body in (([], rows), (header, rows[1:])):
        counted = _numbered(body)
        if counted is not None:
            column = _name_column(head, len(rows[0]), counted)
            return [row[column] for row in sorted(body, key=lambda row: int(row[counted]))]
        if body and all(_SYNSET.fullmatch(row[0]) for row in body):
            return _imagenet_names([[row[0], row[1]] for row in body])
    raise DataError(f"{file} has no column that counts its classes from 0, each number once")


def _header(cell: str) -> str:
    return cell.lower().replace(" ", "_")


def _numbered(rows: list[list[str]]) -> int | None:
    """The column that holds each number from 0 to one less than there are rows; None where there is none."""
    wanted = {str(number) for number in range(len(rows))}
    columns = range(min(map(len, rows), default=0))
    return next((column for column in columns if {row[column].strip() for row in rows} == wanted), None)


def _name_column(header: list[str], columns: int, counted: int) -> int:
    others = [column for column in range(columns) if column != counted]
    known = [header.index(name) for name in NAME_COLUMNS if name in header]
    return next((column for column in known if column in others), others[0])


def _json_classes(text: str, file: Path) -> list[str]:
    try:
        record = parse_json(text)
        for key in ("id2label", "class_to_idx", "label2id", "classes", "label_names"):
            if isinstance(record, dict) and isinstance(record.get(key), (dict, list)):
                record = record[key]
        if isinstance(record, dict) and all(type(index) is int for index in record.values()):
            _check_indices(list(record.values()), file)
            record = {str(index): name for name, index in record.items()}
        if isinstance(record, dict):
            record = [record[str(index)] for index in range(len(record))]
        if all(isinstance(entry, list) and len(entry) == 2 for entry in record):
            return _imagenet_names(record)
        if not isinstance(record, list) or not all(isinstance(entry, (str, int)) for entry in record):
            raise TypeError
        return [str(entry).strip() for entry in record]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f'{file} is no JSON list of names nor an object from "0", "1", ... to names') from error


def _check_indices(indices: list[int], file: Path) -> None:
    """Raise `DataError` for an index that two names share: one of them would be lost."""
    if twice := {index for index in indices if indices.count(index) > 1}:
        raise DataError(f"{file} gives the index {min(twice)} to several classes; each has an index of its own, from 0")


def _imagenet_names(pairs: list[list[Any]]) -> list[str]:
    """Names of [synset, name] pairs; those that several synsets share get theirs."""
    names = [str(name).strip() for _, name in pairs]
    return [f"{name} ({pair[0]})" if names.count(name) > 1 else name for name, pair in zip(names, pairs, strict=True)]
