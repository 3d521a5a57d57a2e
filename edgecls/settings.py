"""Configurations: each setting holds its default, meaning, bounds and choices once, for all callers of the library.

A configuration is a keyword-only dataclass that derives from `Config`; its fields are made by `setting`. The command
line turns each field into an option, and a field that holds another configuration into the options of that one.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from edgecls.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Self

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

    @property
    def is_tuple(self) -> bool:
        """Whether it holds several values."""
        return get_origin(self.type) is tuple

    def converted(self, value: Any) -> Any:
        """A path of text and the other way round, a tuple of a list; everything else as it is."""
        if self.is_tuple and isinstance(value, list | tuple):
            element = _without_none(get_args(self.type)[0])
            return tuple(_as(element, each) for each in value)
        return _as(self.type, value)

    def check(self, value: Any) -> None:
        """Raise `UsageError` for a value that is of another type, beyond the bounds, or none of the choices."""
        if value is None and self.optional:
            return
        if not self.is_tuple:
            self._check_one(self.type, value)
            return
        elements = get_args(self.type)
        endless = elements[-1] is Ellipsis
        if not isinstance(value, tuple) or not (endless or len(value) == len(elements)):
            wanted = "a list of values" if endless else f"{len(elements)} values"
            raise UsageError(f"`{self.name}` takes {wanted}, not {_shown(value)}")
        for each in value:
            if each is not None or not _is_union(elements[0]):
                self._check_one(_without_none(elements[0]), each)

    def _check_one(self, kind: Any, value: Any) -> None:
        if self.choices:
            if value not in self.choices or isinstance(value, bool):
                raise UsageError(f"`{self.name}` takes {', '.join(map(str, self.choices))}, not {_shown(value)}")
        elif self.low is not None and self.high is not None:
            check_bounds(self.name, value, self.low, self.high, self.unit)
        elif not isinstance(value, kind):
            raise UsageError(f"`{self.name}` takes {_WORDS.get(kind, f'a {kind.__name__}')}, not {_shown(value)}")


_WORDS = {bool: "true or false", str: "text", Path: "a path"}


def setting(
    default: Any = MISSING,
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    secret: bool = False,
) -> Any:
    """A field of a configuration. A number needs its bounds: ints for whole numbers, floats for others.

    `high` may be left out: it is then as large as anything that is counted or measured. `secret` keeps the value out of
    the configuration's `repr`.
    """
    if low is not None and high is None:
        high = MOST if isinstance(low, int) else LARGEST
    return field(default=default, repr=not secret, metadata={_METADATA: (help, low, high, unit)})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configurations. A path may be given as text or as what stands for one, and a tuple as a list."""

    def __post_init__(self) -> None:
        for each in settings_of(type(self)):
            object.__setattr__(self, each.name, each.converted(getattr(self, each.name)))

    @classmethod
    def checked(cls, config: Self | None = None) -> Self:
        """The configuration, or the usual one, checked. Raises `UsageError`, also for what is none."""
        config = cls() if config is None else config
        if not isinstance(config, cls):
            raise UsageError(f"this takes a {cls.__name__}, not a {type(config).__name__}")
        config.check()
        return config

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        for each in settings_of(type(self)):
            each.check(getattr(self, each.name))
        for name, kind in inner_configs(type(self)).items():
            inner = getattr(self, name)
            if not isinstance(inner, kind):
                raise UsageError(f"`{name}` takes a {kind.__name__}, not {_shown(inner)}")
            inner.check()


@cache
def _settings_of(config: Any) -> tuple[Setting, ...]:
    hints = get_type_hints(config)
    settings = []
    for each in fields(config):
        if _METADATA in each.metadata:
            optional = _is_union(hints[each.name]) and type(None) in get_args(hints[each.name])
            kind = _without_none(hints[each.name])
            settings.append(Setting(each.name, kind, each.default, optional, *each.metadata[_METADATA]))
    return tuple(settings)


def settings_of(config: type[Config]) -> tuple[Setting, ...]:
    """The settings of a configuration, in their order."""
    return _settings_of(config)  # type: ignore[arg-type]  # mypy takes a dataclass for one without a hash


def inner_configs(config: type[Config]) -> dict[str, type[Config]]:
    """The fields of a configuration that hold another one, by name."""
    return {each.name: type(each.default) for each in fields(config) if isinstance(each.default, Config)}


def check_bounds(name: str, value: Any, low: float, high: float, unit: str = "") -> None:
    """Raise `UsageError` for what is no number from `low` to `high`; a whole number where `low` is one (an int)."""
    whole = isinstance(low, int)
    known = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not (known and low <= value <= high):
        kind = "a whole number" if whole else "a number"
        of = f" of {unit}" if unit else ""
        beyond = known and value > high
        between = f"from {_plain(low)} to {_plain(high)}"
        if high in (MOST, LARGEST):
            between = f"of at most {_plain(high)}" if beyond else f"of at least {_plain(low)}"
        raise UsageError(f"`{name}` takes {kind}{of} {between}, not {_shown(value)}")


def _without_none(hint: Any) -> Any:
    return next(kind for kind in get_args(hint) if kind is not type(None)) if _is_union(hint) else hint


def _as(kind: Any, value: Any) -> Any:
    """A value as the type of its setting, where it only looks different: NumPy's numbers, text and paths."""
    if kind in (int, float) and not isinstance(value, (bool, int, float)):
        numbers: Any = Integral if kind is int else Real
        return kind(value) if isinstance(value, numbers) else value
    if (kind is Path and value != "" and isinstance(value, (str, PathLike))) or (
        kind is str and isinstance(value, Path)
    ):
        return kind(value)
    return value


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _plain(bound: float) -> str:
    short = f"{bound:.6g}"
    return str(bound) if isinstance(bound, int) or (bound < 1 and float(short) == 1) else short


def _shown(value: Any) -> str:
    try:
        return repr(value)[:40]
    except ValueError:
        return "one of thousands of digits"
