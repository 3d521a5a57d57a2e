"""Every verb explains itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import Result

from edgecls.cli import app


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        yield words, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*words, name))

    yield from walk(get_command(app), ())


@pytest.mark.parametrize(
    ("words", "command"), list(commands()), ids=lambda v: " ".join(v) if isinstance(v, tuple) else ""
)
def test_help_tells_every_option_and_loses_no_word_to_markup(
    cli: Callable[..., Result], words: tuple[str, ...], command: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERMINAL_WIDTH", "400")
    result = cli(*words, "--help")
    assert result.exit_code == 0, result.output
    for parameter in command.params:
        if parameter.opts[0].startswith("--") and not getattr(parameter, "hidden", False):
            assert max(parameter.opts, key=len) in result.output
    assert "`" not in result.output  # which marks a setting of the library
    if words == ("retrain",):
        assert "with --freeze none" in result.output
    if words == ("stream",):
        assert "mqtt://[user:password@]host[:port][/prefix]" in result.output


def test_a_verb_does_not_wait_for_the_others():
    program = (
        "import sys; sys.argv = ['edgecls', 'doctor', '--help']\n"
        "from edgecls.cli import app\n"
        "try: app()\nexcept SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.startswith('edgecls.cli.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "['edgecls.cli.command', 'edgecls.cli.common', 'edgecls.cli.doctor']"
