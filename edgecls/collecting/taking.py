"""From frames to labelled images: series, pictures in which nothing has changed, undoing, and the figures of it all."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgecls.clock import milliseconds_since, now_ns
from edgecls.collecting.labelled import Change, Counts, LabelledFolder
from edgecls.collecting.recorded import RecordedFile
from edgecls.collecting.table import Row
from edgecls.imaging.small import small_grey, unchanged
from edgecls.labels import typed_label
from edgecls.streaming.frames import Frame

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

JPEG_QUALITY = 95
CONTINUES_S = 3.0
"""A series goes on where somebody presses again within this time: what is seen then is the same scene."""
COMPARED = 64
"""Pictures of a series that a new one is compared with."""
UNDOABLE = 200
"""Series that can be undone, the latest of all."""
RECENT = 8


@dataclass
class Series:
    """Pictures of one scene: those of one press, or of several that follow each other at once."""

    group: str | None = None
    small: deque[NDArray[uint8]] = field(default_factory=lambda: deque(maxlen=COMPARED))
    last_ns: int = field(default_factory=now_ns)


@dataclass
class Press:
    """One press of a button by one browser, from down to up."""

    client: str
    label: str
    series: Series
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Recent:
    """A picture that was taken lately: its row, and a small JPEG of it."""

    row: Row
    thumbnail: bytes


class Taking:
    """Takes pictures into a folder, for any number of threads; no frame is ever taken twice.

    Errors are those of `LabelledFolder`; then nothing was taken.
    """

    def __init__(self, folder: LabelledFolder, source: str, classes: tuple[str, ...] = (), keep_still: bool = False):
        self._folder, self._source, self._keep_still = folder, source, keep_still
        self._lock = threading.RLock()
        self._presses: OrderedDict[str, Press] = OrderedDict()
        self.last_frame = -1
        self.taken = 0
        self.undone = 0
        self.left_out: Counter[str] = Counter()
        self.known: Counter[str] = Counter()
        """Pictures that were in the folder before, by the label that they have there."""
        self.recent: deque[Recent] = deque(maxlen=RECENT)
        self.classes: list[str] = []
        for label in classes:
            self.add_class(label)

    def add_class(self, label: str) -> str:
        """One class more, unless it is known; returns it as it is kept. Raises `UsageError`."""
        with self._lock:
            label = typed_label(label, self.classes)
            self._know(label)
        return label

    def _know(self, label: str) -> None:
        if label not in self.classes:
            self.classes.append(label)

    def counts(self) -> dict[str, Counts]:
        """The images of all classes, those of others who work on the folder included."""
        found = self._folder.counts()
        with self._lock:
            for label in sorted(found):
                self._know(label)
            return {label: found.get(label, Counts({}, 0)) for label in self.classes}

    def take(
        self,
        frame: Frame,
        label: str,
        press: str,
        client: str = "",
        group: str | None = None,
        recorded: RecordedFile | None = None,
    ) -> Row | None:
        """Keep a frame as a picture of this press; None where it was taken before, or nothing has changed since.

        `press` is whatever names one press of a button, `client` who pressed. The series of a new press is `group`, if
        that is given, and `recorded` the file that the frame comes from.
        """
        from edgecls.web.pictures import to_jpeg

        image = frame.image
        small = small_grey(image)
        content = _encoded(image)
        with self._lock:
            if frame.index <= self.last_frame:
                return None
            label = typed_label(label, self.classes)
            known = self._presses.get(press)
            if known is None or known.label != label:
                known = self._begin(press, client, label)
                known.series.group = known.series.group or group
            series = known.series
            if not self._keep_still and any(unchanged(small, each) for each in series.small):
                self.last_frame, series.last_ns = frame.index, now_ns()
                self.left_out[label] += 1
                return None
            if recorded and (before := recorded.row_like(small, content, exactly=self._keep_still)):
                self.last_frame = frame.index
                self.known[before.label] += 1
                return None
            row = self._folder.add(content, label, self._source, series.group, as_is=True)
            series.group, series.last_ns = row.group, now_ns()
            series.small.append(small)
            self.last_frame = frame.index
            known.rows.append(row)
            self.taken += 1
            self._know(row.label)
            self.recent.appendleft(Recent(row, to_jpeg(image, 240)))
            return row

    def _begin(self, press: str, client: str, label: str) -> Press:
        """A new press: it goes on with the client's last series of the class where that ended just now."""
        series = next(
            (
                each.series
                for each in reversed(self._presses.values())
                if (each.client, each.label) == (client, label)
                and milliseconds_since(each.series.last_ns) < CONTINUES_S * 1000
            ),
            None,
        )
        self._presses[press] = begun = Press(client, label, series or Series())
        while len(self._presses) > UNDOABLE:
            self._presses.popitem(last=False)
        return begun

    def undoable(self, client: str) -> tuple[str, int] | None:
        """The label and number of the pictures that `undo` would delete."""
        with self._lock:
            press = self._last_of(client)
            return None if press is None else (self._presses[press].label, len(self._presses[press].rows))

    def undo(self, client: str) -> tuple[str, int] | None:
        """Delete the pictures of a client's last press; returns their label and number, None where there is none.

        Those that somebody else has changed since then stay.
        """
        with self._lock:
            press = self._last_of(client)
            if press is None:
                return None
            undone = self._presses[press]
            count = self._folder.undo(Change(tuple((None, row) for row in undone.rows)))
            del self._presses[press]
            gone = {row.path for row in undone.rows}
            self.recent = deque((each for each in self.recent if each.row.path not in gone), maxlen=RECENT)
            # What was left out because it looks like a picture that is gone now may be taken again.
            undone.series.small.clear()
            self.undone += count
            return undone.label, count

    def _last_of(self, client: str) -> str | None:
        return next(
            (name for name, press in reversed(self._presses.items()) if press.client == client and press.rows), None
        )


def _encoded(image: NDArray[uint8]) -> bytes:
    from edgecls.imaging.opencv import cv2

    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
