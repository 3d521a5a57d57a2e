"""What is kept: an annotated video, events, and a line for each decision."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edgecls.errors import OutputError, UsageError
from edgecls.files import make_folder, portable, safe_name, take_name, write_bytes, writing_to
from edgecls.settings import LONGEST_S, check_bounds
from edgecls.streaming.config import SHORTEST_SEGMENT_S
from edgecls.streaming.decision import Decision, DriftChange, Event, Health, StateChange
from edgecls.streaming.frames import Frame
from edgecls.streaming.sinks.base import Sink
from edgecls.streaming.sinks.picture import annotated
from edgecls.streaming.sources import Source

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv")
SPARE_BYTES = 64 * 1024 * 1024
"""Free space at which a recording is finished while it still can be."""
LONGEST_REPEAT_S = 2.0
"""Of a longer gap in a live source its recording shows so much."""
LOG_COLUMNS = ("time_s", "camera", "frame", "label", "score", "frame_label", "frame_score", "inference_ms", "age_ms")


class VideoSink(Sink):
    """Annotated video, a file for each camera. Each gets its name when it is finished, so it is whole or not there.

    A live source is recorded at its nominal rate, frames repeated or left out, so that a minute lasts a minute. With
    `segment_s` a new file, named by its time, begins whenever the last is so long.
    """

    name = "recording"
    accepts_events = False
    every_frame = True
    queue = 8
    durable = True

    def __init__(self, path: Path, sources: Sequence[Source], segment_s: float | None = None):
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise UsageError(f"`record` takes a .mp4, .avi or .mkv file, not {path.name}")
        if segment_s is not None:
            check_bounds("segment_minutes", segment_s / 60, SHORTEST_SEGMENT_S / 60, LONGEST_S / 60, "minutes")
        self._path = path
        self._sources = sources
        self._segment_s = segment_s
        self._recordings: dict[str, _Recording] = {}
        self.written: list[Path] = []

    def open(self, health: Callable[[], Health]) -> None:  # noqa: ARG002
        """See `Sink.open`."""
        folder = make_folder(self._path.parent)
        probe = folder / f".{self._path.name}.probe"
        with writing_to(self._path):
            probe.touch()
            probe.unlink()

    def write(self, frame: Frame, decision: Decision) -> None:
        """See `Sink.write`."""
        video = self._recordings.get(decision.camera)
        if video is not None and self._segment_s and frame.pts_s - video.begun_s >= self._segment_s:
            self._finish(self._recordings.pop(decision.camera))
            video = None
        image = annotated(frame.image, decision)
        if video is None:
            source = next(source for source in self._sources if source.name == decision.camera)
            video = _Recording(self._named(decision.camera), source.fps, image, frame.pts_s, source.live)
            self._recordings[decision.camera] = video
        if video.broken or shutil.disk_usage(video.part.parent).free < SPARE_BYTES:
            video.broken = True
            raise OutputError(f"the disk under {video.path} is full; recording stopped there, the file so far is kept")
        video.add(image, frame.pts_s)

    def _named(self, camera: str) -> Path:
        stem = self._path.stem
        if len(self._sources) > 1:
            named = [portable(source.name) for source in self._sources]
            number = [source.name for source in self._sources].index(camera)
            stem += f"-{named[number]}" + (f"-{number + 1}" if named.count(named[number]) > 1 else "")
        if self._segment_s:
            stem += datetime.now().strftime("-%Y%m%d-%H%M%S")
        return self._path.with_name(stem + self._path.suffix)

    def _finish(self, video: _Recording) -> None:
        video.finish()
        self.written.append(video.path)

    def close(self) -> None:
        """Finish the files and give them their names, each whatever becomes of the others."""
        with ExitStack() as stack:
            for video in self._recordings.values():
                stack.callback(self._finish, video)
            self._recordings = {}


class _Recording:
    """One video file that is being written."""

    def __init__(self, path: Path, fps: float, image: NDArray[uint8], begun_s: float, live: bool):
        from edgecls.imaging.opencv import cv2

        self.path = path
        self.part = path.with_name(f".{path.stem}.part{path.suffix}")
        self.begun_s = begun_s
        self.broken = False
        self._fps = fps
        self._live = live
        self._count = 0
        self._size = (image.shape[1], image.shape[0])
        codec = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix.lower() == ".avi" else "mp4v"))
        self._writer: Any = cv2.VideoWriter(str(self.part), codec, fps, self._size)
        if not self._writer.isOpened():
            self.part.unlink(missing_ok=True)
            raise OutputError(f"cannot record to {path}: OpenCV cannot write there; choose another place")

    def add(self, image: NDArray[uint8], pts_s: float) -> None:
        """Add a picture at its time."""
        from edgecls.imaging.opencv import cv2

        if (image.shape[1], image.shape[0]) != self._size:
            image = cv2.resize(image, self._size)
        due = round((pts_s - self.begun_s) * self._fps) + 1 if self._live else self._count + 1
        repeats = min(due - self._count, round(LONGEST_REPEAT_S * self._fps))
        for _ in range(repeats):
            self._writer.write(image)
        self._count = max(self._count, due)

    def finish(self) -> None:
        """Complete the file and give it its name."""
        self._writer.release()
        take_name(self.part, self.path)


class SnapshotSink(Sink):
    """The first picture of each event, as JPEG in a folder."""

    name = "snapshots"
    accepts_events = False
    every_frame = True
    queue = 8
    durable = True

    def __init__(self, folder: Path):
        self._folder = folder

    def path_of(self, event: Event) -> Path:
        """Where an event's picture is kept: of two events in two places, whatever their cameras' names hold."""
        return self._folder / f"{safe_name(event.id)}.jpg"

    def open(self, health: Callable[[], Health]) -> None:  # noqa: ARG002
        """See `Sink.open`."""
        make_folder(self._folder)

    def wants(self, decision: Decision) -> bool:
        """See `Sink.wants`."""
        return decision.snapshot is not None

    def write(self, frame: Frame, decision: Decision) -> None:
        """See `Sink.write`."""
        from edgecls.imaging.opencv import cv2

        assert decision.snapshot is not None
        write_bytes(decision.snapshot, cv2.imencode(".jpg", frame.image)[1].tobytes())


class LinesSink(Sink):
    """Appends lines to a text file, each complete when it is written."""

    durable = True

    def __init__(self, path: Path):
        self._path = path
        self._stream: IO[str] | None = None

    def open(self, health: Callable[[], Health]) -> None:  # noqa: ARG002
        """See `Sink.open`."""
        make_folder(self._path.parent)
        with writing_to(self._path):
            self._stream = self._path.open("a", encoding="utf-8", newline="")

    def _add(self, line: str) -> None:
        assert self._stream is not None
        with writing_to(self._path):
            self._stream.write(line + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        if self._stream:
            with writing_to(self._path):
                self._stream.close()


class EventSink(LinesSink):
    """One JSON line for each event when it ends, and for each change of a camera's state; `kind` says which."""

    name = "events"
    takes_frames = False

    def event(self, event: Event) -> None:
        """See `Sink.event`."""
        if event.ended is not None:
            self._add(json.dumps(event.to_json(), ensure_ascii=False))

    def state(self, change: StateChange) -> None:
        """See `Sink.state`."""
        self._add(json.dumps(change.to_json(), ensure_ascii=False))

    def drift(self, change: DriftChange) -> None:
        """See `Sink.drift`."""
        self._add(json.dumps(change.to_json(), ensure_ascii=False))


class LogSink(LinesSink):
    """One line for each decision, CSV with a heading or JSON by the file's suffix."""

    name = "log"
    accepts_events = False
    every_frame = True
    queue = 256

    def __init__(self, path: Path):
        if path.suffix.lower() not in (".csv", ".jsonl"):
            raise UsageError(f"`log` takes a .csv or .jsonl file, not {path.name}")
        super().__init__(path)
        self._as_csv = path.suffix.lower() == ".csv"

    def open(self, health: Callable[[], Health]) -> None:
        """See `Sink.open`."""
        super().open(health)
        if self._as_csv and not self._path.stat().st_size:
            self._add(",".join(LOG_COLUMNS))

    def write(self, frame: Frame, decision: Decision) -> None:
        """See `Sink.write`."""
        best, score = decision.prediction.top(1)[0]
        values = (
            round(frame.pts_s, 3), decision.camera, frame.index, decision.label, round(decision.score, 4), best,
            round(score, 4), round(decision.inference_ms, 3), round(decision.age_ms, 3),
        )  # fmt: skip
        if not self._as_csv:
            self._add(json.dumps(dict(zip(LOG_COLUMNS, values, strict=True)), ensure_ascii=False))
            return
        import io

        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(values)
        self._add(line.getvalue())
