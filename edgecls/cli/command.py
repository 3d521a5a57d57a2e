"""A verb of the command line: numbers that somebody types are checked, and messages speak of options."""

from __future__ import annotations

import math
from collections.abc import Callable
from re import Match
from typing import Any, TypeVar

from typer.core import TyperCommand

from edgecls.errors import SETTING, EdgeclsError, UsageError

T = TypeVar("T", int, float)

MAX_INTEGER = 2**32 - 1
"""Of any option: counts, pixels, MiB, seeds."""
MAX_FLOAT, MIN_FLOAT = 1e9, 1e-12
"""The largest and, except 0, smallest size of any option: seconds, rates, shares, learning rates."""


def parse_numbers(text: str, kind: Callable[[str], T], separator: str = ",") -> list[T]:
    """Finite numbers of the option's text. Raises `ValueError` for anything else."""
    if not text.isascii():
        raise ValueError(text)
    values = [kind(part) for part in text.split(separator)]
    if not all(math.isfinite(value) and abs(value) <= MAX_FLOAT for value in values):
        raise ValueError(text)
    return values


def check_number(value: float, name: str) -> None:
    """Raise `UsageError` for what no option can mean: NaN, infinity, and sizes beyond all bounds."""
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise UsageError(f"{name} must be a number up to {MAX_INTEGER}, not one beyond it")
    elif not math.isfinite(value) or abs(value) > MAX_FLOAT or 0 < abs(value) < MIN_FLOAT:
        raise UsageError(f"{name} must be 0 or a number from {MIN_FLOAT:g} to {MAX_FLOAT:g}, not {value:g}")


class Command(TyperCommand):
    """A verb whose numeric options are checked before it begins, and whose errors name its options."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb. Raises `UsageError`."""
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            for each in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(each, (int, float)) and not isinstance(each, bool):
                    check_number(each, max(parameter.opts, key=len))
        try:
            return super().invoke(ctx)
        except EdgeclsError as error:
            error.args = (name_options(str(error), ctx), *error.args[1:])
            raise


def name_options(message: str, ctx: Any) -> str:
    """A message of the library with the option in place of each setting: of this verb, or else of another one."""
    verbs = [ctx.command, *_verbs(ctx.find_root().command)]

    def option(setting: Match[str]) -> str:
        for verb in verbs:
            for parameter in verb.params:
                if parameter.name == setting[1]:
                    return _spelled(parameter)
        return setting[1]

    return SETTING.sub(option, message)


def _verbs(group: Any) -> list[Any]:
    verbs = []
    for command in getattr(group, "commands", {}).values():
        verbs += [command, *_verbs(command)]
    return verbs


def _spelled(parameter: Any) -> str:
    """How a parameter is written: its longest name, or what stands for an argument."""
    longest: str = max(parameter.opts, key=len)
    return longest if longest.startswith("-") else (parameter.metavar or longest).strip("[].").upper()
