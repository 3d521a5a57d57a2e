"""Which images the arguments mean: files, folders, globs, lists and manifests, tar files, Parquet files with images.

Everything is listed as it is asked for and in the same order each time; of a folder no more than the names in it and in
the folders above it are held.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from edgecls.bulk.stores import Stored, Stores, is_uri, joined, shown
from edgecls.errors import DataError, UsageError, first_line
from edgecls.imaging.decode import SUFFIXES, begins_as_image, counted
from edgecls.rows import json_objects
from edgecls.runtime.batch import import_arrow

Kind = Literal["image", "tar", "parquet"]
TARS = (".tar", ".tar.gz", ".tgz")
TABLES = (".csv", ".jsonl")
"""Manifests, where they are named; a folder's are left out."""
COLUMNS = ("image", "path", "uri", "url", "file", "file_name", "filename")
"""What manifests call the column of their images, the first that is there."""
_GLOB = re.compile(r"[*?\[]")
_MANIFEST_ROWS = 4096


@dataclass(frozen=True)
class Entry:
    """An image, or a file that holds many, whose content `version` stands for."""

    location: str
    kind: Kind
    version: str = ""


@dataclass(frozen=True)
class Inputs:
    """What is to be classified: `arguments` as somebody typed them, or the lines of `list_file` ("-" is standard
    input). `column` names the column of a manifest or of a Parquet file that holds the images.
    """

    arguments: tuple[str, ...] = ()
    list_file: str | None = None
    column: str | None = None

    def folders(self, stores: Stores) -> list[str]:
        """The folders among the arguments, canonical."""
        return [
            stores.canonical(each) for each in self.arguments if not _GLOB.search(each) and _is_folder(each, stores)
        ]

    def canonical(self, stores: Stores) -> list[str]:
        """One spelling of what is to be classified. Raises `UsageError` for what is named twice."""
        names = [each if each == "-" else stores.canonical(each) for each in (*self.arguments, self.list_file) if each]
        for name in names:
            outer = next((each for each in names if name.startswith(f"{each}/")), None)
            if names.count(name) > 1 or outer:
                raise UsageError(f"{shown(name)} is named twice{f', it lies in {shown(outer)}' if outer else ''}")
        return names


def entries(inputs: Inputs, stores: Stores, left_out: Counter[str] | None = None) -> Iterator[Entry]:
    """Everything that the inputs mean, in order. `left_out` counts other files, by suffix.

    Raises `DataError` for what is not there or holds no images, and what `Store` raises.
    """
    left_out = Counter() if left_out is None else left_out
    if inputs.list_file is not None:
        yield from _each(_lines(inputs.list_file, stores), stores)
    for argument in inputs.arguments:
        nothing = True
        for entry in _named(argument, inputs.column, stores, left_out):
            nothing = False
            yield entry
        if nothing:
            other = f"; it holds {counted(left_out)}" if left_out else ""
            raise DataError(f"{shown(argument)} holds no images ({', '.join(sorted(SUFFIXES))}){other}")


def kind_of(name: str) -> Kind | None:
    """What a file is by its name; None for what is none of these."""
    lower = name.lower()
    if lower.endswith(TARS):
        return "tar"
    if lower.endswith(".parquet"):
        return "parquet"
    return "image" if _suffix(lower) in SUFFIXES else None


def image_column(schema: Any, wanted: str | None) -> str | None:
    """The column of an Arrow schema that holds images: bytes, or a struct of `bytes` and `path`, as Hugging Face's data
    sets have it. None where there is none. Raises `UsageError` for several.
    """
    found = [field.name for field in schema if _holds_bytes(field.type)]
    if wanted is not None:
        return wanted if wanted in found else None
    named = [name for name in found if name in COLUMNS] or found
    if len(named) > 1:
        raise UsageError(f"the images may be in the columns {', '.join(named)}; name one with `column`")
    return named[0] if named else None


def _holds_bytes(kind: Any) -> bool:
    arrow, _ = import_arrow("reading Parquet")
    if arrow.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))


@contextmanager
def open_parquet(location: str, stores: Stores) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`. Raises `DataError` for what is none, also later when it is read."""
    arrow, parquet = import_arrow("reading Parquet")
    try:
        with stores.of(location).open(location) as stream, parquet.ParquetFile(stream) as file:
            yield file
    except arrow.ArrowException as error:
        raise DataError(f"{shown(location)} cannot be read as Parquet: {first_line(error)}") from error


# ── arguments ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _named(argument: str, column: str | None, stores: Stores, left_out: Counter[str]) -> Iterator[Entry]:
    """The entries of one argument."""
    try:
        stored = stores.of(argument).find(argument)
    except FileNotFoundError as error:
        if not _GLOB.search(argument):
            raise DataError(f"there is no image or folder {shown(argument)}") from error
        yield from _matching(argument, column, stores, left_out)
        return
    name = argument if is_uri(argument) else stored.location
    if stored.is_folder:
        yield from _below(argument, column, stores, left_out)
    elif argument.lower().endswith(TABLES):
        yield from _each(_table_lines(argument, column, stores), stores)
    elif kind_of(argument) == "parquet":
        if _gives_images(argument, column, stores):
            yield Entry(name, "parquet", stored.version)
        else:
            yield from _each(_parquet_lines(argument, column, stores), stores)
    else:
        yield Entry(name, kind_of(argument) or "image", stored.version)


def _below(
    folder: str,
    column: str | None,
    stores: Stores,
    left_out: Counter[str],
    wanted: Callable[[str], bool] = lambda _: True,
    above: frozenset[str] = frozenset(),
) -> Iterator[Entry]:
    """All images, tar and Parquet files below a folder whose locations are wanted. A link that leads to a folder above
    it is not followed.
    """
    here = stores.canonical(folder)
    if here in above:
        return
    for each in stores.of(folder).children(folder):
        if each.is_folder:
            yield from _below(each.location, column, stores, left_out, wanted, above | {here})
        elif not wanted(each.location):
            continue
        elif (entry := _in_folder(each, column, stores)) is not None:
            yield entry
        else:
            left_out[_suffix(each.location.lower()) or "without suffix"] += 1


def _in_folder(stored: Stored, column: str | None, stores: Stores) -> Entry | None:
    """The entry of a file in a folder; None for one that holds no images."""
    location, kind = stored.location, kind_of(stored.location)
    if kind is None:
        return Entry(location, "image") if not is_uri(location) and begins_as_image(Path(location)) else None
    if kind == "image":
        return Entry(location, kind) if is_uri(location) or Path(location).is_file() else None
    if kind == "parquet" and not _gives_images(location, column, stores):
        return None
    return Entry(location, kind, stored.version or stores.of(location).find(location).version)


def _matching(pattern: str, column: str | None, stores: Stores, left_out: Counter[str]) -> Iterator[Entry]:
    """All that a glob matches, and all below the folders that it matches."""
    names = pattern.split("/")
    first = next(index for index, name in enumerate(names) if _GLOB.search(name))
    root = "/".join(names[:first]) or ("/" if first else ".")
    if root.endswith("/") and is_uri(root):
        raise UsageError(f"{shown(pattern)} names no place to look in")
    matches = _compiled(names[first:])
    above = f"{stores.canonical(root)}/" if is_uri(root) else "" if root == "." else f"{Path(root)}/".replace("//", "/")
    try:
        wanted = lambda location: matches.fullmatch(location.removeprefix(above)) is not None  # noqa: E731
        yield from _below(root, column, stores, left_out, wanted)
    except FileNotFoundError as error:
        raise DataError(f"there is no folder {shown(root)}") from error


def _compiled(names: list[str]) -> re.Pattern[str]:
    """A glob's names: * and ? match within a name, ** any number of folders."""
    parts = ["(?:[^/]+/)*" if name == "**" else f"{_one(name)}/" for name in names if name]
    return re.compile(f"{''.join(parts).removesuffix('/')}(?:/.*)?", re.DOTALL)


def _one(name: str) -> str:
    any_letter = {"*": "[^/]*", "?": "[^/]"}
    classes = re.split(r"(\[!?[^\]]+\])", name)
    return "".join(
        each.replace("[!", "[^", 1) if each.startswith("[") and each.endswith("]")
        else "".join(any_letter.get(letter, re.escape(letter)) for letter in each)
        for each in classes
    )  # fmt: skip


def _gives_images(location: str, column: str | None, stores: Stores) -> bool:
    with open_parquet(location, stores) as file:
        return image_column(file.schema_arrow, column) is not None


# ── lists ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _each(lines: Iterable[str], stores: Stores) -> Iterator[Entry]:
    """An entry for each location; what holds many images is looked at."""
    for location in lines:
        kind = kind_of(location) or "image"
        try:
            version = "" if kind == "image" else stores.of(location).find(location).version
        except FileNotFoundError as error:
            raise DataError(f"there is no {shown(location)}, which a list names") from error
        yield Entry(location, kind, version)


@contextmanager
def _text(location: str, stores: Stores, errors: str = "strict") -> Iterator[IO[str]]:
    """A text in UTF-8. Raises `DataError` for what is none."""
    try:
        with stores.of(location).open(location) as stream:
            yield io.TextIOWrapper(
                stream, "utf-8-sig", errors, newline="" if location.lower().endswith(".csv") else None
            )
    except UnicodeDecodeError as error:
        raise DataError(f"{shown(location)} is no text in UTF-8") from error
    except OSError as error:
        reason = error.strerror or "it is not there"
        raise DataError(f"cannot read the list {shown(location)}: {reason}") from error


def _lines(location: str, stores: Stores) -> Iterator[str]:
    """The lines of a list; those of a store's are relative to its folder, of others to the working folder."""
    folder = location.rpartition("/")[0] if is_uri(location) else ""
    with nullcontext(sys.stdin) if location == "-" else _text(location, stores, "surrogateescape") as lines:
        for line in lines:
            if line.strip():
                yield joined(folder, line.rstrip("\r\n"))


def _table_lines(location: str, column: str | None, stores: Stores) -> Iterator[str]:
    """The locations in a CSV or JSONL manifest, relative to its folder."""
    with _text(location, stores) as lines:
        is_csv = location.lower().endswith(".csv")
        objects = (row for _, row in json_objects(lines, shown(location)))
        records: Iterable[dict[str, Any]] = csv.DictReader(lines) if is_csv else objects
        name: str | None = None
        for number, row in enumerate(records, start=1):
            name = name or _column(row, column, location)
            if not isinstance(value := row.get(name), str) or not value:
                raise DataError(f"{shown(location)}: record {number} names no image in the column {name}")
            yield joined(_folder(location), value)


def _parquet_lines(location: str, column: str | None, stores: Stores) -> Iterator[str]:
    """The locations in a Parquet manifest, relative to its folder."""
    with open_parquet(location, stores) as file:
        name = _column(file.schema_arrow.names, column, location)
        for batch in file.iter_batches(_MANIFEST_ROWS, columns=[name]):
            for value in batch.column(0).to_pylist():
                if not isinstance(value, str) or not value:
                    raise DataError(f"{shown(location)} names no image in some rows of the column {name}")
                yield joined(_folder(location), value)


def _column(names: Iterable[str], wanted: str | None, location: str) -> str:
    """The column that names the images."""
    known = list(names)
    found = next((name for name in ((wanted,) if wanted else COLUMNS) if name in known), None)
    if found is None:
        expected = wanted or ", ".join(COLUMNS)
        raise DataError(
            f"{shown(location)} holds no images: none of its columns ({', '.join(map(str, known))}) holds bytes or is "
            f"called {expected}; `column` names another"
        )
    return found


def _folder(location: str) -> str:
    return location.rpartition("/")[0] if is_uri(location) else str(Path(location).parent)


def _suffix(name: str) -> str:
    """As that of `PurePath`, which would keep each name."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return dot + suffix if stem and suffix else ""


def _is_folder(location: str, stores: Stores) -> bool:
    try:
        return stores.of(location).find(location).is_folder
    except OSError:
        return False
