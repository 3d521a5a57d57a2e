"""Reading JSON that somebody may have edited: every field is checked for type and range, once, on reading."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from edgecls.errors import ArtifactError

MAX_DEPTH = 64
"""Of objects and lists inside each other; what we write stays far below."""
_SHOWN = 60
"""Characters of a wrong value that an error shows."""


def parse_json(text: str) -> Any:
    """The values in a JSON text. Raises `ValueError` for what is none, NaN, Infinity and endless nesting among it."""

    def finite(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refuse(text)

    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON number")

    try:
        values = json.loads(text, parse_constant=refuse, parse_float=finite)
        flat = _is_flat(values, MAX_DEPTH)
    except RecursionError:
        flat = False
    if not flat:
        raise ValueError("it is nested too deeply")
    return values


def _is_flat(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_is_flat(each, depth - 1) for each in inner)


class Fields:
    """A JSON object whose fields are read one by one. Each method raises `ArtifactError` with field and value.

    `origin` names the file and `prefix` the object inside of it. A field with a default may be missing or null.
    """

    def __init__(self, record: Any, origin: str, prefix: str = ""):
        self._origin, self._prefix = origin, prefix
        if not isinstance(record, Mapping):
            what = prefix.rstrip(".") or "the whole"
            raise ArtifactError(f"{origin}: {what} must be a JSON object, not {_shown(record)}")
        self._record = record

    def has(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self._record.get(name) is not None

    def fail(self, name: str, wanted: str) -> NoReturn:
        """Say that a field is not what it must be."""
        value = _shown(self._record[name]) if name in self._record else "missing"
        raise ArtifactError(f"{self._origin}: {self._prefix}{name} must be {wanted}, but is {value}")

    def within(self, name: str) -> Fields:
        """The fields of an object inside this one; of none where that is missing."""
        value = self._record.get(name)
        return Fields({} if value is None else value, self._origin, f"{self._prefix}{name}.")

    def text(self, name: str, default: str | None = None) -> str:
        """A string, not an empty one unless that is the default."""
        value = self._record.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or (not value and default is None):
            self.fail(name, "text")
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or None."""
        return self.text(name) if self.has(name) else None

    def choice(self, name: str, choices: tuple[str, ...], default: str | None = None) -> Any:
        """One of these strings."""
        value = self.text(name, default)
        if value not in choices:
            self.fail(name, f"one of {', '.join(choices)}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None, above: bool = False) -> float:
        """A finite number from `low` to `high`; with `above` not `low` itself."""
        value = self._record.get(name)
        if value is None and default is not None:
            return default
        if not _is_number(value, low, high) or (above and value == low):
            self.fail(name, f"a number {'above' if above else 'from'} {low:g} {'and up ' if above else ''}to {high:g}")
        return float(value)  # type: ignore[arg-type]  # _is_number has seen to it

    def optional_number(self, name: str, low: float, high: float) -> float | None:
        """A finite number from `low` to `high`, or None."""
        return self.number(name, low, high) if self.has(name) else None

    def integer(self, name: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self._record.get(name)
        if not isinstance(value, int) or not _is_number(value, low, high):
            self.fail(name, f"a whole number from {low} to {high}")
        return value

    def schema(self, known: int) -> int:
        """The version of the record's format, up to the one that this program knows."""
        value = self._record.get("schema")
        if isinstance(value, int) and not isinstance(value, bool) and value > known:
            raise ArtifactError(
                f"{self._origin} has schema {value}, this edgecls knows up to {known}: pip install --upgrade edgecls"
            )
        return self.integer("schema", 1, known)

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`, or None."""
        return self.integer(name, low, high) if self.has(name) else None

    def numbers(self, name: str, count: int, low: float, high: float) -> tuple[float, ...]:
        """So many finite numbers from `low` to `high`."""
        values = self._record.get(name)
        if not isinstance(values, list) or len(values) != count or not all(_is_number(v, low, high) for v in values):
            self.fail(name, f"{count} numbers from {low:g} to {high:g}")
        return tuple(float(value) for value in values)

    def names(self, name: str) -> tuple[str, ...]:
        """At least one string, none of them empty and no two alike."""
        values = self._record.get(name)
        if not isinstance(values, list) or not values or not all(map(is_name, values)):
            self.fail(name, "a list of names")
        if repeated := next((value for value in values if values.count(value) > 1), None) if _repeats(values) else None:
            self.fail(name, f"a list of names that differ ({repeated!r} stands there twice)")
        return tuple(values)

    def flag(self, name: str) -> bool | None:
        """True, false, or None."""
        value = self._record.get(name)
        if value is not None and not isinstance(value, bool):
            self.fail(name, "true or false")
        return value

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        """An object whose content is for reading only, or None."""
        value = self._record.get(name)
        if value is not None and not isinstance(value, Mapping):
            self.fail(name, "a JSON object")
        return value

    def mappings(self, name: str) -> list[Mapping[str, Any]] | None:
        """A list of such objects, or None."""
        values = self._record.get(name)
        if values is not None and not (isinstance(values, list) and all(isinstance(v, Mapping) for v in values)):
            self.fail(name, "a list of JSON objects")
        return values

    def items(self, name: str) -> Iterator[tuple[str, Any]]:
        """Keys and values of an object, of none where it is missing."""
        yield from (self.mapping(name) or {}).items()


def is_name(value: Any) -> bool:
    """Whether a value can be the name of a class: a string that is not blank and holds no NUL."""
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _is_number(value: Any, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return low <= value <= high and math.isfinite(value)


def _repeats(values: list[str]) -> bool:
    return len(set(values)) < len(values)


def _shown(value: Any) -> str:
    text = repr(value)[:_SHOWN]
    return text if len(text) < _SHOWN else f"{text}..."
