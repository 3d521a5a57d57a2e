"""A camera that somebody collects from, through a page: the newest frame, what is asked for, and the state."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from edgecls.clock import milliseconds_since, now_ns
from edgecls.collecting.config import RECOMMENDED_SERIES, CollectConfig
from edgecls.collecting.table import SHARES
from edgecls.collecting.taking import Taking
from edgecls.errors import EdgeclsError, SourceError
from edgecls.runtime.classifier import Classifier, Prediction
from edgecls.streaming.decision import State
from edgecls.streaming.frames import Frame
from edgecls.streaming.sources import LiveSource
from edgecls.web.pictures import Newest

TICK_S = 0.1
GUESS_EVERY_S = 0.4
NEXT_FRAME_S = 0.5
"""How long a press waits for a frame that nobody took yet."""


def newest_frames(source: LiveSource, over: Callable[[], bool]) -> Iterator[Frame]:
    """The newest frame each time, until `over` or the end. Raises `SourceError` where the source cannot go on."""
    changed = threading.Condition()
    source.start(changed)
    while not (over() or source.ended):
        source.watch()
        with changed:
            changed.wait_for(lambda: source.ready, TICK_S)
        if (frame := source.take()) is not None:
            yield frame
    source.watch()


class Session:
    """Shows a live source and takes pictures of it. `run` belongs to one thread, everything else to any."""

    def __init__(self, source: LiveSource, taking: Taking, config: CollectConfig, model: Classifier | None = None):
        self.taking = taking
        self.picture = Newest()
        self.closing: Callable[[], bool] = lambda: False
        self._source, self._config, self._model = source, config, model
        self._frame: Frame | None = None
        self._arrived = threading.Condition()
        self._one_at_a_time = threading.Lock()
        self._guess: Prediction | None = None
        self._guessed_ns = 0
        self._error: str | None = None

    def run(self, stop: threading.Event) -> None:
        """Look at the camera until `stop` is set, or the configuration says so. Raises `SourceError` where it ends."""
        begun_ns = now_ns()
        for frame in newest_frames(self._source, lambda: stop.is_set() or self._is_over(begun_ns)):
            self._show(frame)
            self._look_at(frame)

    def _show(self, frame: Frame) -> None:
        self.picture.put(frame.index, lambda: frame.image)
        with self._arrived:
            self._frame = frame
            self._arrived.notify_all()

    def _is_over(self, begun_ns: int) -> bool:
        frames, duration_s = self._config.frames, self._config.duration_s
        return (frames is not None and self.taking.taken >= frames) or (
            duration_s is not None and milliseconds_since(begun_ns) >= duration_s * 1000
        )

    def _look_at(self, frame: Frame) -> None:
        """What the model makes of the picture, some times a second."""
        if self._model is not None and milliseconds_since(self._guessed_ns) >= GUESS_EVERY_S * 1000:
            prediction = self._model.predict(frame.image)
            self._guess, self._guessed_ns = prediction, now_ns()

    def take(self, label: str, press: str, client: str) -> str:
        """Take a picture for a press; says what became of it: "taken", or "still" where nothing has changed.

        Waits for a frame that nobody took. Raises `SourceError` while the camera is away, and what `Taking.take` does.
        """
        with self._one_at_a_time:
            frame = self._new_frame()
            try:
                taken = self.taking.take(frame, label, press, client)
            except EdgeclsError as error:
                self._error = str(error)
                raise
            self._error = None
        return "still" if taken is None else "taken"

    def _new_frame(self) -> Frame:
        """The newest frame, if nobody took it, or else the next."""
        last = self.taking.last_frame
        with self._arrived:
            if self._source.state is not State.LIVE or self._frame is None:
                raise SourceError(self._source.reason or "the camera gives no picture yet")
            if not self._arrived.wait_for(lambda: self._frame is not None and self._frame.index > last, NEXT_FRAME_S):
                raise SourceError("the camera gives no new picture")
            return self._frame

    def state(self, client: str) -> dict[str, Any]:
        """What the page shows, for one browser. Errors of the folder are part of it."""
        try:
            counts, error = self.taking.counts(), self._error
        except EdgeclsError as failure:
            counts, error = {}, str(failure)
        undoable = self.taking.undoable(client)
        live = self._source.state is State.LIVE
        guess = self._guess if live else None
        return {
            "camera": {"name": self._source.name, "state": self._source.state.value, "reason": self._source.reason},
            "folder": str(self._config.out),
            "model": None if self._model is None else self._model.card.name,
            "guess": None if guess is None else {"label": guess.label, "score": guess.score, "nearest": guess.nearest},
            "minimum": self._config.minimum,
            "minimum_series": RECOMMENDED_SERIES,
            "per_second": self._config.per_second,
            "classes": [
                {
                    "label": label,
                    "images": count.images,
                    "series": count.series,
                    "splits": {split: count.splits.get(split, 0) for split in SHARES},
                    "left_out": self.taking.left_out[label],
                }
                for label, count in counts.items()
            ],
            "undo": None if undoable is None else {"label": undoable[0], "images": undoable[1]},
            "recent": [{"id": each.row.path, "label": each.row.label} for each in [*self.taking.recent]],
            "error": error,
        }
