"""What the verbs share: the console, and the words for figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from edgecls.cli.command import name_options
from edgecls.errors import MissingExtraError, UsageError
from edgecls.files import printable

if TYPE_CHECKING:
    from rich.status import Status
    from rich.table import Table

    from edgecls.adapting.verdict import Verdict


class _Console(Console):
    """Says the option where the library names a setting."""

    def print(self, *objects: Any, **style: Any) -> None:
        """See `Console.print`."""
        super().print(*(name_options(each) if isinstance(each, str) else each for each in objects), **style)


console = _Console(markup=False, highlight=False)
"""Names of classes, files and pip extras may hold square brackets, which are no markup."""
messages = _Console(stderr=True, markup=False, highlight=False)
"""Progress and remarks, so that what is printed for machines stays clean."""


def percent(fraction: float | None) -> str:
    """A fraction as a percentage, or a dash where it was not measured."""
    return "–" if fraction is None else f"{100 * fraction:.2f} %"


def points(fraction: float | None) -> str:
    """A fraction in hundredths without the sign, for a column that carries it, or a dash."""
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def megabytes(size_bytes: int) -> str:
    """Bytes in MB (10^6)."""
    return f"{size_bytes / 1e6:.1f} MB"


def working(step: str) -> Status:
    """A spinner with the name of the current step; silent where standard error is no terminal."""
    return messages.status(step)


@contextmanager
def opening(what: str = "the model") -> Iterator[Callable[[str], None]]:
    """A spinner while a model is opened, for the runtimes that build something on this device first: hears what."""
    with working(f"opening {what}") as spinner:
        yield lambda step: spinner.update(f"building for this device: {step}")


def require_two_files(html: Path, json_file: Path | None) -> None:
    """Raise `UsageError` where a page and its figures would be written to the same file."""
    if json_file is not None and html.resolve() == json_file.resolve():
        raise UsageError(f"--html and --json are both {shown(html)}; give each a file of its own")


def draw(picture: Callable[[], Path]) -> None:
    """Draw a picture and say where it is, or why there is none: no job fails for want of its picture."""
    try:
        messages.print(f"written: {shown(picture())}", soft_wrap=True)
    except MissingExtraError as error:
        messages.print(f"no picture: {error}", soft_wrap=True)


def shown(path: Path) -> str:
    """A path as a person would type it: relative where that is shorter, and in one line."""
    try:
        relative = path.resolve().relative_to(Path.cwd())
    except ValueError:
        return printable(path)
    return printable(relative)


def attempts_table(title: str, attempts: Sequence[Mapping[str, Any]]) -> Table:
    """What a search tried: points of top-1 lost and their interval, agreement with the run, latency and gain.

    An attempt is `kept`, or has a reason why not.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    sized = any(tried.get("size_bytes") for tried in attempts)
    for heading in (title, "drop pt", "95 %", "agree %", "ms", "gain", *(["MB"] if sized else []), "s", ""):
        in_words = heading in (title, "")
        table.add_column(heading, justify="left" if in_words else "right", no_wrap=not in_words)
    for tried in attempts:
        size_bytes = tried.get("size_bytes")
        table.add_row(
            tried["candidate"],
            _figure(tried["drop_points"], 2),
            _bounds(tried),
            points(tried["agreement"]),
            _figure(tried["latency_ms"], 2),
            _figure(tried["gain"], 2, "x"),
            *([_figure(size_bytes / 1e6 if size_bytes else None, 1)] if sized else []),
            _figure(tried["seconds"], 0),
            "kept" if tried["kept"] else tried["reason"] or "",
        )
    return table


def print_verdict(verdict: Verdict) -> None:
    """The verdict on what learned again, each group of images, and the classes that changed."""
    for change in verdict.groups:
        console.print(str(change), soft_wrap=True)
    for change in verdict.classes:
        if change.word != "equal":
            console.print(f"class {change}", soft_wrap=True)
    console.print(f"verdict: {verdict.word}")


def _bounds(tried: Mapping[str, Any]) -> str:
    """The 95 % interval of the drop."""
    low, high = tried["drop_low_points"], tried["drop_high_points"]
    return "–" if low is None or high is None else f"{low:.1f}…{high:.1f}"


def _figure(value: float | None, digits: int, unit: str = "") -> str:
    return "–" if value is None else f"{value:.{digits}f}{unit}"
