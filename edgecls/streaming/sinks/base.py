"""What every sink is."""

from __future__ import annotations

from collections.abc import Callable

from edgecls.streaming.decision import Decision, DriftChange, Event, Health, StateChange
from edgecls.streaming.frames import Frame


class Sink:
    """Takes decisions, events and changes of state, all from one thread; `close` leaves whole files behind.

    `takes_frames` and `accepts_events` (events and states) say what it is given. `queue` frames wait for it at most;
    `every_frame` says that it wants each one: those that its full queue lets go are counted, and finite sources wait
    for it. `foreground` sinks live in the main thread. `durable` ones keep something for later, so that their failure
    is the command's failure.
    """

    name = "sink"
    takes_frames = True
    accepts_events = True
    queue = 1
    every_frame = False
    foreground = False
    durable = False

    @property
    def trouble(self) -> str | None:
        """What keeps it from working now, though nothing is lost yet."""
        return None

    def open(self, health: Callable[[], Health]) -> None:
        """Begin; `health` gives the stream in figures at any time, from any thread. Raises `OutputError`."""

    def wants(self, decision: Decision) -> bool:  # noqa: ARG002
        """Whether `write` is to be called with a decision. Called from another thread."""
        return True

    def write(self, frame: Frame, decision: Decision) -> None:
        """Take one decision."""

    def event(self, event: Event) -> None:
        """Take an event that begins (`ended` is None) or ends."""

    def state(self, change: StateChange) -> None:
        """Take a camera's change of state."""

    def drift(self, change: DriftChange) -> None:
        """Take a camera's pictures moving away from those that the model knows, or coming back."""

    def idle(self) -> None:
        """Nothing has come for a while."""

    def begin_shutdown(self) -> None:
        """The stream is ending: give up what takes long. Called from another thread."""

    def close(self) -> None:
        """Finish."""
