"""For whoever stands in front of the machine: a window, and a view in the terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgecls.clock import milliseconds_since, now_ns
from edgecls.errors import OutputError
from edgecls.runtime.classifier import in_words
from edgecls.streaming.decision import CameraHealth, Decision, Health, State, StateChange
from edgecls.streaming.frames import Frame
from edgecls.streaming.sinks.base import Sink
from edgecls.streaming.sinks.picture import annotated, side_by_side, status

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray
    from rich.console import Console, RenderableType

WINDOW_TITLE = "edgecls"
PLAIN_EVERY_S = 1.0
REFRESH_PER_S = 8


class WindowSink(Sink):
    """A window with the live picture of every camera; q or Esc, or closing it, ends the stream."""

    name = "window"
    foreground = True

    def __init__(self, stop: threading.Event):
        self._stop = stop
        self._pictures: dict[str, NDArray[uint8]] = {}
        self._shown = 0

    def open(self, health: Callable[[], Health]) -> None:  # noqa: ARG002
        """See `Sink.open`."""
        from edgecls.imaging.opencv import cv2

        if not self.works():
            raise OutputError("OpenCV cannot open a window here; the terminal shows decisions too")
        cv2.namedWindow(WINDOW_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)

    @staticmethod
    def works() -> bool:
        """Whether this OpenCV can open windows; its headless build cannot."""
        from edgecls.imaging.opencv import cv2

        try:
            cv2.namedWindow(WINDOW_TITLE, cv2.WINDOW_NORMAL)
            cv2.destroyWindow(WINDOW_TITLE)
        except cv2.error:
            return False
        return True

    def write(self, frame: Frame, decision: Decision) -> None:
        """See `Sink.write`."""
        from edgecls.imaging.opencv import cv2

        self._pictures[decision.camera] = annotated(frame.image, decision)
        picture = side_by_side(list(self._pictures.values()))
        if self._shown != len(self._pictures):
            self._shown = len(self._pictures)
            cv2.resizeWindow(WINDOW_TITLE, picture.shape[1], picture.shape[0])
        cv2.imshow(WINDOW_TITLE, picture)
        self.idle()

    def state(self, change: StateChange) -> None:
        """A camera that is lost shows a dark picture, not its last one."""
        if change.state is State.RECONNECTING and change.camera in self._pictures:
            self._pictures[change.camera] = self._pictures[change.camera] // 5

    def idle(self) -> None:
        """Let the window answer to keys and to being closed."""
        from edgecls.imaging.opencv import cv2

        pressed = cv2.waitKey(1) & 0xFF
        closed = self._shown and cv2.getWindowProperty(WINDOW_TITLE, cv2.WND_PROP_VISIBLE) < 1
        if pressed in (ord("q"), 27) or closed:
            self._stop.set()

    def close(self) -> None:
        """Close the window."""
        from edgecls.imaging.opencv import cv2

        cv2.destroyAllWindows()


class TerminalSink(Sink):
    """A live view in the terminal, for machines without a screen; plain lines where the output is no terminal."""

    name = "terminal"

    def __init__(self, console: Console, messages: Console, title: str):
        from rich.live import Live

        self._console = console
        self._messages = messages
        self._title = title
        self._shown_ns: dict[str, int] = {}
        self._health: Callable[[], Health] | None = None
        self._latest: dict[str, Decision] = {}
        self._lost: set[str] = set()
        self._live = (
            Live(console=console, refresh_per_second=REFRESH_PER_S, transient=True) if console.is_terminal else None
        )

    def open(self, health: Callable[[], Health]) -> None:
        """See `Sink.open`."""
        self._health = health
        if self._live:
            self._live.start()

    def write(self, frame: Frame, decision: Decision) -> None:
        """See `Sink.write`."""
        interval_ms = 1000 / REFRESH_PER_S if self._live else 1000 * PLAIN_EVERY_S
        self._latest[decision.camera] = decision
        shown_ns = self._shown_ns.get(decision.camera)
        if shown_ns and milliseconds_since(shown_ns) < interval_ms:
            return
        self._shown_ns[decision.camera] = now_ns()
        if self._live:
            self._show()
        else:
            camera = f"{decision.camera}  " if self._several else ""
            text = in_words(decision.label, decision.score, decision.nearest, 1)
            self._console.print(f"{camera}frame {frame.index:6d}  {text}  {status(decision)}", soft_wrap=True)

    def state(self, change: StateChange) -> None:
        """A line for each camera that is lost or back."""
        if self._live:
            self._show()
        if change.state is State.ENDED or (change.state is State.LIVE and change.camera not in self._lost):
            return
        if change.state is State.LIVE:
            self._lost.remove(change.camera)
        else:
            self._lost.add(change.camera)
        message = f"{change.camera}: {change.state.value}" + (f", {change.reason}" if change.reason else "")
        self._messages.print(message, soft_wrap=True)

    def idle(self) -> None:
        """Show an outage that goes on."""
        if self._live:
            self._show()

    @property
    def _several(self) -> bool:
        return self._health is not None and len(self._health().cameras) > 1

    def _show(self) -> None:
        if self._live and self._health:
            cameras = self._health().cameras
            if len(cameras) > 1:
                self._live.update(_table(self._title, cameras))
            elif cameras[0].state is State.LIVE and cameras[0].camera in self._latest:
                self._live.update(_panel(self._title, self._latest[cameras[0].camera]))
            else:
                self._live.update(_outage(self._title, cameras[0]))

    def close(self) -> None:
        """Take the live view away."""
        if self._live:
            self._live.stop()


def _panel(title: str, decision: Decision) -> RenderableType:
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    ranking = Table.grid(padding=(0, 2))
    for label, score in decision.prediction.top(3):
        ranking.add_row(Text(label), ProgressBar(total=1.0, completed=score, width=30), f"{score:6.1%}")
    heading = Text(decision.text, style="bold")
    return Panel(Group(heading, Text(), ranking, Text(), Text(status(decision), style="dim")), title=title, width=72)


def _outage(title: str, camera: CameraHealth) -> RenderableType:
    from rich.panel import Panel
    from rich.text import Text

    return Panel(Text(f"{camera.state.value}  {camera.reason}", style="yellow"), title=title, width=72)


def _score(camera: CameraHealth) -> str:
    if camera.label is None:
        return "–"
    return f"{f'nearest {camera.nearest} ' if camera.nearest else ''}{camera.score:.0%}"


def _table(title: str, cameras: tuple[CameraHealth, ...]) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=box.SIMPLE_HEAD)
    for heading in ("camera", "state", "label", "score", "fps", "ms", "age ms", "dropped"):
        table.add_column(heading)
    for camera in cameras:
        healthy = camera.state is State.LIVE
        table.add_row(
            Text(camera.camera), Text(camera.state.value, style="" if healthy else "yellow"), Text(camera.label or "–"),
            _score(camera), f"{camera.fps:.1f}", f"{camera.inference_ms:.1f}",
            f"{camera.age_ms:.1f}", f"{camera.dropped} of {camera.captured}",
        )  # fmt: skip
    return table
