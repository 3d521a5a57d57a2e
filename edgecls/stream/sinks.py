"""Where decisions go: a window, the terminal, an annotated video, an event log."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edgecls.benchmark.clock import milliseconds_since, now_ns
from edgecls.errors import OutputError, UsageError
from edgecls.storage import make_folder, writing_to
from edgecls.stream.decision import Decision
from edgecls.stream.sources import Frame

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray
    from rich.console import Console, RenderableType
    from typing_extensions import Self

WINDOW_TITLE = "edgecls"
PLAIN_EVERY_S = 1.0
REFRESH_PER_S = 8


class Sink(ABC):
    """Takes each decision; a context manager whose exit leaves whole files behind."""

    @abstractmethod
    def write(self, frame: Frame, decision: Decision) -> None:
        """Take one decision. Must be quick: it runs between two inferences."""

    def close(self) -> None:
        """Finish."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class WindowSink(Sink):
    """A window with the live picture; q or Esc, or closing it, ends the stream."""

    def __init__(self, stop: threading.Event):
        from edgecls.opencv import cv2

        self._stop = stop
        self._sized = False
        try:
            cv2.namedWindow(WINDOW_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        except cv2.error as error:
            raise OutputError("OpenCV cannot open a window here; use --display terminal") from error

    def write(self, frame: Frame, decision: Decision) -> None:
        """See `Sink.write`."""
        from edgecls.opencv import cv2

        if not self._sized:
            cv2.resizeWindow(WINDOW_TITLE, frame.image.shape[1], frame.image.shape[0])
            self._sized = True
        cv2.imshow(WINDOW_TITLE, annotated(frame.image, decision))
        pressed = cv2.waitKey(1) & 0xFF
        if pressed in (ord("q"), 27) or cv2.getWindowProperty(WINDOW_TITLE, cv2.WND_PROP_VISIBLE) < 1:
            self._stop.set()

    def close(self) -> None:
        """Close the window."""
        from edgecls.opencv import cv2

        cv2.destroyAllWindows()


class TerminalSink(Sink):
    """A live view in the terminal, for machines without a screen; plain lines where the output is no terminal."""

    def __init__(self, console: Console, title: str):
        from rich.live import Live

        self._console = console
        self._title = title
        self._shown_ns = 0
        self._live = (
            Live(console=console, refresh_per_second=REFRESH_PER_S, transient=True) if console.is_terminal else None
        )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def write(self, frame: Frame, decision: Decision) -> None:
        """See `Sink.write`."""
        interval_ms = 1000 / REFRESH_PER_S if self._live else 1000 * PLAIN_EVERY_S
        if self._shown_ns and milliseconds_since(self._shown_ns) < interval_ms:
            return
        self._shown_ns = now_ns()
        if self._live:
            self._live.update(_panel(self._title, decision))
        else:
            label, score = decision.prediction.label, decision.prediction.score
            self._console.print(f"frame {frame.index:6d}  {label}  {score:.1%}  {status(decision)}")

    def close(self) -> None:
        """Take the live view away."""
        if self._live:
            self._live.stop()


class VideoSink(Sink):
    """An annotated MP4 video. It gets its name when the stream has ended, so that it is whole or not there."""

    def __init__(self, path: Path, fps: float):
        if path.suffix.lower() not in (".mp4", ".avi", ".mkv"):
            raise UsageError(f"--record takes a .mp4, .avi or .mkv file, not {path.name}")
        make_folder(path.parent)
        self._path = path
        self._part = path.with_name(f".{path.stem}.part{path.suffix}")
        self._fps = fps
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, frame: Frame, decision: Decision) -> None:
        """See `Sink.write`."""
        from edgecls.opencv import cv2

        image = annotated(frame.image, decision)
        if self._writer is None:
            self._size = (image.shape[1], image.shape[0])
            codec = cv2.VideoWriter.fourcc(*("MJPG" if self._path.suffix.lower() == ".avi" else "mp4v"))
            self._writer = cv2.VideoWriter(str(self._part), codec, self._fps, self._size)
            if not self._writer.isOpened():
                self._writer = None
                self._part.unlink(missing_ok=True)
                raise OutputError(f"cannot record to {self._path}: OpenCV cannot write there; choose another place")
        if (image.shape[1], image.shape[0]) != self._size:
            image = cv2.resize(image, self._size)
        self._writer.write(image)

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._writer is None:
            return
        self._writer.release()
        with writing_to(self._path):
            self._part.replace(self._path)


class EventSink(Sink):
    """One JSON line for each stretch of frames with the same label, appended when the label changes and at the end."""

    def __init__(self, path: Path):
        make_folder(path.parent)
        self._path = path
        with writing_to(path):
            self._stream: IO[str] = path.open("a", encoding="utf-8")
        self._label: str | None = None
        self._event: dict[str, Any] = {}
        self._begun_ns = now_ns()

    def write(self, frame: Frame, decision: Decision) -> None:
        """See `Sink.write`."""
        at_s = round(milliseconds_since(self._begun_ns) / 1000, 3)
        if decision.prediction.label != self._label:
            self._finish()
            self._label = decision.prediction.label
            started = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            self._event = {"label": self._label, "started": started, "start_s": at_s, "first_frame": frame.index}
            self._event.update(frames=0, mean_score=0.0)
        self._event["frames"] += 1
        self._event["mean_score"] += decision.prediction.score
        self._event.update(end_s=at_s, last_frame=frame.index)

    def _finish(self) -> None:
        if not self._event:
            return
        self._event["mean_score"] = round(self._event["mean_score"] / self._event["frames"], 4)
        with writing_to(self._path):
            self._stream.write(json.dumps(self._event, ensure_ascii=False) + "\n")
            self._stream.flush()
        self._event = {}

    def close(self) -> None:
        """Write the last event and close the file."""
        self._finish()
        self._stream.close()


def annotated(image: NDArray[uint8], decision: Decision) -> NDArray[uint8]:
    """A copy of the picture (H, W, 3) with label, probability and status on a dark band at the bottom."""
    from edgecls.opencv import cv2

    picture = image.copy()
    height, width = picture.shape[:2]
    scale = max(0.4, height / 480)
    band = int(52 * scale)
    picture[height - band :] = picture[height - band :] // 4
    origin, line = (int(10 * scale), height - band + int(22 * scale)), cv2.LINE_AA
    text = f"{decision.prediction.label}  {decision.prediction.score:.0%}"
    cv2.putText(
        picture, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.75 * scale, (255, 255, 255), max(1, int(2 * scale)), line
    )
    below = (origin[0], height - int(10 * scale))
    cv2.putText(picture, status(decision), below, cv2.FONT_HERSHEY_SIMPLEX, 0.42 * scale, (200, 200, 200), 1, line)
    filled = int(width * decision.prediction.score)
    cv2.rectangle(picture, (0, height - band - 3), (filled, height - band), (235, 160, 60), -1)
    return picture


def status(decision: Decision) -> str:
    """Rate, latency, age and counters in one line of ASCII."""
    return (
        f"{decision.fps:5.1f} fps  {decision.inference_ms:5.1f} ms  age {decision.age_ms:5.1f} ms  "
        f"dropped {decision.dropped} of {decision.captured}"
    )


def _panel(title: str, decision: Decision) -> RenderableType:
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    ranking = Table.grid(padding=(0, 2))
    for label, score in decision.prediction.top(3):
        ranking.add_row(Text(label), ProgressBar(total=1.0, completed=score, width=30), f"{score:6.1%}")
    heading = Text(decision.prediction.label, style="bold")
    return Panel(Group(heading, Text(), ranking, Text(), Text(status(decision), style="dim")), title=title, width=72)
