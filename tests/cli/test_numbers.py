"""Numbers on the command line: whatever is typed, the answer is one clear line and exit code 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import Result

from edgecls.cli import app

WRONG = ["nan", "inf", "-inf", "1e-300", "1e308", "10" + 30 * "0", "\u00b2", "1,5", "", "x", "9" * 5000]


def numeric_options() -> Iterator[tuple[list[str], str]]:
    """Each verb's words and each of its options that takes a number."""

    def walk(command: Any, words: list[str]) -> Iterator[tuple[list[str], str]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, [*words, name])
        for parameter in command.params:
            if parameter.opts[0].startswith("-") and parameter.type_descriptor.annotation in (int, float):
                yield words, max(parameter.opts, key=len)

    yield from walk(get_command(app), [])


def test_verbs_have_numeric_options():
    assert len(list(numeric_options())) > 50


@pytest.mark.parametrize(("words", "option"), list(numeric_options()), ids=lambda value: value if value else "")
def test_what_is_no_usable_number_is_a_usage_error(cli: Callable[..., Result], words: list[str], option: str):
    # NaN for each of them, and one more in turn: every call builds the whole command line anew.
    for wrong in ("nan", WRONG[len(option) % len(WRONG)]):
        result = cli(*words, f"{option}={wrong}", *(["x"] if words[-1] in ("import", "check", "split") else []))
        assert result.exit_code == 2, (wrong, result.output)
        assert "internal error" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        (*verb, wrong)
        for verb in (
            ("export", "--batch"),
            ("import", "x", "--arch", "resnet18", "--size"),
            ("import", "x", "--mean"),
            ("import", "x", "--std"),
            ("benchmark", "--threads"),
            ("tune", "--epochs"),
            ("stream", "--roi"),
            ("stream", "--camera", "demo", "--web"),
        )
        for wrong in (
            "nan",
            "inf,inf,inf,inf",
            "1e308,1,1,1",
            "\u00b2",
            "\u00b2,1,1",
            "9" * 5000,
            "nan,nan,nan",
            ",",
            "",
        )
    ],
    ids=lambda words: " ".join(word[:12] for word in words),
)
def test_lists_of_numbers_are_checked_too(cli: Callable[..., Result], trained, arguments: tuple[str, ...]):
    result = cli(*arguments)
    assert result.exit_code == 2, result.output
    assert "internal error" not in result.output
