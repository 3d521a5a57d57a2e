"""Numbers that somebody types: finite, within bounds that anything real keeps, and written in plain digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from typer.core import TyperCommand

from edgecls.errors import UsageError

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
    """A verb whose numeric options are checked before it begins."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb. Raises `UsageError`."""
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            for each in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(each, (int, float)) and not isinstance(each, bool):
                    check_number(each, max(parameter.opts, key=len))
        return super().invoke(ctx)
