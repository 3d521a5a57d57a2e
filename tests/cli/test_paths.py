"""Paths on the command line: whatever is typed, the answer is one clear line and an exit code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import Result

from edgecls.cli import app

WRONG = ["x" * 300, "x" * 5000, "~nosuchuser/x", "nul\0", "new\nline/x", "surrogate\udcff/x", "/dev/null/x", ""]
NEEDED = {
    "import": ["nowhere.pt"], "check": ["nowhere"], "split": ["nowhere"], "train": ["--data", "nowhere"],
    "tune": ["--data", "nowhere"], "stream": ["--camera", "nowhere.mp4"],
}  # fmt: skip
"""What a verb is given besides: wrong too, so that no long work begins."""


def paths() -> Iterator[tuple[list[str], str]]:
    """Each verb's words and each of its arguments and options that takes a path; an argument has no name."""

    def walk(command: Any, words: list[str]) -> Iterator[tuple[list[str], str]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, [*words, name])
        for parameter in command.params:
            if parameter.type_descriptor.annotation in (Path, list[Path]):
                yield words, max(parameter.opts, key=len) if parameter.opts[0].startswith("-") else ""

    yield from walk(get_command(app), [])


def test_verbs_take_paths():
    assert len(list(paths())) > 30


@pytest.mark.parametrize(("words", "option"), list(paths()), ids=lambda value: " ".join(value) if value else "-")
def test_a_path_that_cannot_be_is_one_clear_line(
    cli: Callable[..., Result],
    words: list[str],
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGECLS_RUNS", str(tmp_path / "runs"))
    # Two of them in turn: every call builds the whole command line anew.
    turn = sum(map(ord, option)) + len(words[0])
    for wrong in (WRONG[turn % len(WRONG)], WRONG[(turn + 3) % len(WRONG)]):
        given = [f"{option}={wrong}", *NEEDED.get(words[-1], [])] if option else [wrong]
        result = cli(*words, *given)
        assert 1 < result.exit_code < 70, (wrong[:20], result.output, result.exception)
        assert "internal error" not in result.output
        assert "Traceback" not in result.output
