"""A verb of the command line: numbers that somebody types are checked, and messages speak of options."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextvars import ContextVar
from re import Match
from typing import Any, TypeVar

from typer.core import TyperCommand

from edgecls.errors import SETTING, UsageError
from edgecls.settings import LARGEST, LEAST, MOST

T = TypeVar("T", int, float)


_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """A size as people write it, "2GB" or "500 MiB", in bytes. Raises `UsageError`."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]{0,3})", text.strip(), re.ASCII)
    if match is None or match[2].upper() not in _SIZES:
        raise UsageError(
            f"a size is a number with KB, MB, GB, TB, KiB, MiB or GiB behind it, as 2GB; not {text[:40]!r}"
        )
    return int(float(match[1]) * _SIZES[match[2].upper()])


def size_text(size_bytes: int) -> str:
    """The other way round, for sizes that are even."""
    unit = next(unit for unit in ("GB", "MB", "KB", "") if size_bytes % _SIZES[unit] == 0)
    return f"{size_bytes // _SIZES[unit]}{unit}"


def parse_numbers(text: str, kind: Callable[[str], T], separator: str = ",") -> list[T]:
    """Finite numbers of the option's text. Raises `ValueError` for anything else."""
    if not text.isascii():
        raise ValueError(text)
    values = [kind(part) for part in text.split(separator)]
    if not all(math.isfinite(value) and abs(value) <= LARGEST for value in values):
        raise ValueError(text)
    return values


def check_number(value: float, name: str) -> None:
    """Raise `UsageError` for what no option can mean: NaN, infinity, and sizes beyond all bounds."""
    if isinstance(value, int):
        if abs(value) > MOST:
            raise UsageError(f"{name} must be a number up to {MOST}, not one beyond it")
    elif not math.isfinite(value) or abs(value) > LARGEST or 0 < abs(value) < LEAST:
        raise UsageError(f"{name} takes a number of a usual size, not {value:g}")


class Command(TyperCommand):
    """A verb whose numeric options are checked before it begins, and whose messages name its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Read the arguments. Raises `UsageError` for an empty one, which as a path would be the working folder."""
        for before, typed in zip(["", *args], args, strict=False):
            name, _, value = typed.partition("=")
            if typed == "" or (name.startswith("--") and typed.endswith("=") and not value):
                option = name or (before if before.startswith("-") else "an argument")
                raise UsageError(f"{option} takes something that is not empty")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb. Raises `UsageError`."""
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            for each in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(each, (int, float)) and not isinstance(each, bool):
                    check_number(each, parameter.opts[0])
        _running.set(ctx)
        return super().invoke(ctx)


_running: ContextVar[Any] = ContextVar("running")
"""The context of the verb that runs."""


def name_options(message: str) -> str:
    """A message of the library with the option in place of each setting: of the verb that runs, or else of another.

    A setting whose value came from a variable of the environment is called by that. Other marked words stay marked.
    """
    ctx = _running.get(None)
    if ctx is None or "`" not in message:
        return message

    own = {name for parameter in ctx.command.params for name in parameter.opts}

    def option(setting: Match[str]) -> str:
        for parameter in ctx.command.params:
            if parameter.name == setting[1]:
                source = ctx.get_parameter_source(parameter.name)
                typed = source is None or source.name != "ENVIRONMENT"
                return _spelled(parameter) if typed else str(parameter.envvar)
        for verb in _verbs(ctx.find_root().command):
            for parameter in verb.params:
                if parameter.name == setting[1]:
                    shared = next((name for name in parameter.opts if name in own), None)
                    return shared or f"{_spelled(parameter)} of edgecls {verb.name}"
        return setting[0]

    return SETTING.sub(option, message)


def _verbs(group: Any) -> list[Any]:
    verbs = []
    for command in getattr(group, "commands", {}).values():
        verbs += [command, *_verbs(command)]
    return verbs


def _spelled(parameter: Any) -> str:
    """How a parameter is written: its first name, or what stands for an argument."""
    first: str = parameter.opts[0]
    return first if first.startswith("-") else (parameter.metavar or first).strip("[].").upper()
