"""Configurations: each setting holds its default, meaning, bounds and choices once, for all callers of the library.

A configuration is a keyword-only dataclass that derives from `Config`; its fields are made by `setting`. The command
line turns each field into an option, and a field that holds another configuration into the options of that one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edgecls.errors import UsageError

LONGEST_S = 1e9
"""Of any time, 30 years: what waits and what counts nanoseconds can still do so."""
MOST = 2**32 - 1
"""Of anything that is counted."""
LEAST, LARGEST = 1e-12, 1e9
"""Of what is measured and has no bounds of its own: rates, sizes, factors."""
_METADATA = "edgecls"


@dataclass(frozen=True)
class Setting:
    """What a field of a configuration means, in one sentence, and the bounds of its number, in `unit`.

    `type` is the field's without None, `default` is `dataclasses.MISSING` where the field must be given, and `choices`
    are those of a `Literal`. A tuple's bounds are those of each element.
    """

    name: str
    type: Any
    default: Any
    optional: bool
    help: str
    low: float | None
    high: float | None
    unit: str

    @property
    def choices(self) -> tuple[Any, ...]:
        """What it can be; empty where that is no closed list."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    def check(self, value: Any) -> None:
        """Raise `UsageError` for a value that is of another type, beyond the bounds, or none of the choices."""
        if value is None and self.optional:
            return
        if self.choices:
            if value not in self.choices or isinstance(value, bool):
                raise UsageError(f"`{self.name}` takes {', '.join(map(str, self.choices))}, not {_shown(value)}")
        elif self.low is not None and self.high is not None:
            for each in value if isinstance(value, tuple) else (value,):
                check_bounds(self.name, each, self.low, self.high, self.unit)
        elif self.type in _WORDS and not isinstance(value, self.type):
            raise UsageError(f"`{self.name}` takes {_WORDS[self.type]}, not {_shown(value)}")


_WORDS = {bool: "true or false", str: "text", Path: "a path"}


def setting(
    default: Any = MISSING, help: str = "", *, low: float | None = None, high: float | None = None, unit: str = ""
) -> Any:
    """A field of a configuration. A number needs its bounds: ints for whole numbers, floats for others.

    `high` may be left out: it is then as large as anything that is counted or measured.
    """
    if low is not None and high is None:
        high = MOST if isinstance(low, int) else LARGEST
    return field(default=default, metadata={_METADATA: (help, low, high, unit)})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configurations. A path may be given as text, and text that names a file as a path."""

    def __post_init__(self) -> None:
        for each in settings_of(type(self)):
            value = getattr(self, each.name)
            if (each.type is Path and isinstance(value, str)) or (each.type is str and isinstance(value, Path)):
                object.__setattr__(self, each.name, each.type(value))

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        for each in settings_of(type(self)):
            each.check(getattr(self, each.name))
        for inner in inner_configs(self):
            inner.check()


def settings_of(config: type[Config]) -> tuple[Setting, ...]:
    """The settings of a configuration, in their order."""
    hints = get_type_hints(config)
    settings = []
    for each in fields(config):
        if _METADATA in each.metadata:
            kinds = get_args(hints[each.name]) if _is_union(hints[each.name]) else (hints[each.name],)
            kind = next(kind for kind in kinds if kind is not type(None))
            settings.append(Setting(each.name, kind, each.default, type(None) in kinds, *each.metadata[_METADATA]))
    return tuple(settings)


def inner_configs(config: Config) -> Iterator[Config]:
    """The configurations that a configuration holds."""
    for each in fields(config):
        value = getattr(config, each.name)
        if isinstance(value, Config):
            yield value


def check_bounds(name: str, value: Any, low: float, high: float, unit: str = "") -> None:
    """Raise `UsageError` for what is no number from `low` to `high`; a whole number where `low` is one (an int).

    None is let through, as it leaves the choice to the program.
    """
    whole = isinstance(low, int)
    known = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if value is not None and not (known and low <= value <= high):
        kind = "a whole number" if whole else "a number"
        of = f" of {unit}" if unit else ""
        between = f"of at least {_plain(low)}" if high in (MOST, LARGEST) else f"from {_plain(low)} to {_plain(high)}"
        raise UsageError(f"`{name}` takes {kind}{of} {between}, not {_shown(value)}")


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _plain(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:.6g}"


def _shown(value: Any) -> str:
    try:
        return repr(value)[:40]
    except ValueError:
        return "one of thousands of digits"
