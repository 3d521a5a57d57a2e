"""What the verbs share that serve a page until they are stopped: signals, and where the page is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgecls.cli.common import messages

if TYPE_CHECKING:
    from edgecls.web.server import Server

TOKEN_VARIABLE = "EDGECLS_WEB_TOKEN"
"""Where the page's token can come from: the command line is seen by everybody on a machine."""


def announced(server: Server, what: str = "web view") -> Callable[[str], None]:
    """Says where the page is, on standard error.

    Elsewhere than on a terminal others may read it too: then a token that was given is hidden. One that was drawn is
    not, as nobody could come in.
    """
    from edgecls.urls import SecretUrl

    def announce(url: str) -> None:
        whole = messages.is_terminal or server.drawn or not server.token
        messages.print(f"{what}: {url if whole else SecretUrl(url)}", soft_wrap=True)

    return announce


@contextmanager
def stopping_on_signals() -> Iterator[tuple[threading.Event, list[int]]]:
    """An event that Ctrl-C and SIGTERM set, and the signals that did; a second Ctrl-C ends the program at once."""
    stop, received = threading.Event(), list[int]()

    def handle(number: int, _frame: object) -> None:
        received.append(number)
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop, received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
