"""Ctrl-C and SIGTERM between two optimizer steps, where a training can be put down whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interruption:
    """Whether the process was asked to end, and by what."""

    def __init__(self) -> None:
        self._held: Callable[[], Any] | None = None

    @property
    def wanted(self) -> bool:
        """Whether a signal is waiting."""
        return self._held is not None

    def hold(self, handler: Callable[[int, FrameType | None], Any], number: int, frame: FrameType | None) -> None:
        """Keep the first signal; the second one goes through at once."""
        if self.wanted:
            handler(number, frame)
        self._held = lambda: handler(number, frame)

    def go(self) -> None:
        """Let the waiting signal do what it would have done."""
        if self._held:
            self._held()


@contextmanager
def deferred_signals() -> Iterator[Interruption]:
    """Within it, the first Ctrl-C or SIGTERM waits until it is let `go`. Signals that Python does not handle stay."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def holding(handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], None]:
        return lambda number, frame: interruption.hold(handler, number, frame)

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, holding(handler))
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
