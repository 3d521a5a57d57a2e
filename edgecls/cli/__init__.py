"""The command line: one thin module per verb, each of which parses, calls one function and prints."""

from __future__ import annotations

import atexit
import io
import keyword
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command

from edgecls import __version__
from edgecls.cli.command import Command, name_options
from edgecls.errors import EdgeclsError, OutputError, UsageError
from edgecls.files import is_disk_trouble, path_error, shortened
from edgecls.urls import SecretUrl

DEBUG_VARIABLE = "EDGECLS_DEBUG"
INTERNAL_ERROR = 70
"""EX_SOFTWARE of sysexits.h."""
BROKEN_PIPE = 141
"""What a shell says of a process that SIGPIPE ended."""


_PARSER_WORDS = re.compile(r"Input should be a valid (integer|number).*")
"""How Typer's parser says that a text is no number."""


class _Said(logging.Handler):
    """Says what the library logs, in one line, with options in place of settings."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        try:
            _say(f"{record.levelname.lower()}: {record.getMessage()}")
        except OSError:
            self.handleError(record)  # a full disk under the log ends nothing


class _Terminated(KeyboardInterrupt):
    """SIGTERM arrived: end as on Ctrl-C, with everything cleaned up."""


class _Verbs(Mapping[str, Any]):
    """The verbs by their names. Each is imported when it is asked for: who wants one does not wait for the others."""

    _NAMES = (
        "collect", "review", "train", "retrain", "adapt", "tune", "shrink", "import", "data", "calibrate", "export",
        "build", "repository", "evaluate", "compare", "benchmark", "predict", "explain", "stream", "serve", "cameras",
        "verify", "info", "doctor", "cache",
    )  # fmt: skip

    def __init__(self) -> None:
        self._commands: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._NAMES)

    def __len__(self) -> int:
        return len(self._NAMES)

    def __getitem__(self, name: str) -> Any:
        if name not in self._NAMES:
            raise KeyError(name)
        if name not in self._commands:
            self._commands[name] = _command(name)
        return self._commands[name]


def _command(name: str) -> Any:
    """The command of a verb: a function, or a Typer of its own, that is called as its module is."""
    own = f"{name}_" if keyword.iskeyword(name) else name
    module = import_module(f"edgecls.cli.{own}")
    verb = getattr(module, own)
    if not isinstance(verb, typer.Typer):
        alone = typer.Typer(add_completion=False)
        alone.command(cls=getattr(module, "COMMAND", Command))(verb)
        verb = alone
    command = get_command(verb)
    command.name = name
    return command


class _Group(TyperGroup):
    """Turns errors into one line and an exit code; `--debug` lets them through with their traceback."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.commands = _Verbs()  # type: ignore[assignment]  # nobody adds one

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Read what stands in front of the verb."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            _end_for_usage(error)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        try:
            _require_working_folder()
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            _say("stopped; nothing was left half-written")
            raise typer.Exit(143 if isinstance(interrupt, _Terminated) else 130) from None
        except BrokenPipeError:
            # Whoever read our output went away; the interpreter must not complain when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None
        except EdgeclsError as error:
            if os.environ.get(DEBUG_VARIABLE):
                raise
            _say(f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            _end_for_usage(error)
            if os.environ.get(DEBUG_VARIABLE):
                raise
            if (reason := path_error(error)) is not None:
                full = isinstance(error, OSError) and is_disk_trouble(error)
                _say(f"error: {reason}")
                raise typer.Exit(OutputError.exit_code if full else UsageError.exit_code) from None
            _say(f"internal error: {type(error).__name__}: {error}; please report it with the output of --debug")
            raise typer.Exit(INTERNAL_ERROR) from None


def _end_for_usage(error: Any) -> None:
    """Say in one line what Typer has to say about a wrong option; raises `typer.Exit`. Other errors pass.

    What Typer raises in order to print its help, where nothing else is given, passes too.
    """
    if not hasattr(error, "format_message") or type(error).__name__ == "NoArgsIsHelpError":
        return
    context = getattr(error, "ctx", None)
    message = error.format_message().replace("Value error, ", "").strip().rstrip(".")
    message = _PARSER_WORDS.sub(lambda match: f"it is no {match[1].replace('integer', 'whole number')}", message)
    for typed in sys.argv:
        if "://" in typed:  # which Typer repeats where it stands alone
            message = SecretUrl(typed.partition("=")[2] if typed.startswith("-") else typed).scrubbed(message)
    _say(f"error: {message}; see {context.command_path if context else 'edgecls'} --help")
    raise typer.Exit(error.exit_code) from None


def _require_working_folder() -> None:
    """Raise `UsageError` where the working folder was deleted: names are relative to it, and libraries ask for it."""
    try:
        Path.cwd()
    except OSError as error:
        raise UsageError("the working folder is no longer there; change to another one") from error


def _say(line: str) -> None:
    """Print a message in one line; names in it that are as long as no line should be are shortened."""
    print(" ".join(shortened(word) for word in name_options(line).split()), file=sys.stderr)


app = typer.Typer(
    cls=_Group,
    name="edgecls",
    help="From a folder of photographs to a verified, fast classifier running on the device in front of you.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"edgecls {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works after a verb too.")
    ] = False,
) -> None:
    """See the help of the app."""


def _terminate(_number: int, _frame: object) -> None:
    raise _Terminated


def main() -> None:
    """Run the command line."""
    logging.getLogger(__package__.partition(".")[0]).addHandler(_Said(logging.WARNING))
    for number in (signal.SIGTERM, signal.SIGHUP):  # a terminal that is closed sends the latter
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores it
            signal.signal(number, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name that is no UTF-8 is printed escaped, as standard error does already, and stops nothing.
        sys.stdout.reconfigure(errors="backslashreplace")
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ[DEBUG_VARIABLE] = "1"
    try:
        app()
    except SystemExit as ended:
        _end(ended.code if isinstance(ended.code, int) else 0)
    except OSError as error:  # of the help or the version, which are printed before there is a command
        if not is_disk_trouble(error):
            raise
        _say(f"error: standard output cannot be written: {error.strerror}")
        _end(OutputError.exit_code)


def _end(code: int) -> NoReturn:
    """End the process as the interpreter does, but for taking apart all modules and what runtimes hold, which is a
    tenth of the time of a short command: threads are waited for, exit functions run and output is flushed.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or BROKEN_PIPE
    except OSError as error:
        if not code:
            _say(f"error: standard output cannot be written: {error.strerror}")
            code = OutputError.exit_code
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(code)
