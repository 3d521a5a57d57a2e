"""What is decided about a frame, how decisions become events, and the state of a camera."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.artifact.card import Confidence
from edgecls.runtime.classifier import UNSURE, Prediction, in_words
from edgecls.runtime.unknown import UNKNOWN
from edgecls.streaming.config import Smoothing
from edgecls.streaming.drift import DriftFigures, Sign

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray


_UNKNOWN = -1
"""What stands in place of a class where the model does not know what it sees."""


class State(str, Enum):
    """What a camera is doing. `stale`: connected, but no frame for a while."""

    CONNECTING = "connecting"
    LIVE = "live"
    STALE = "stale"
    RECONNECTING = "reconnecting"
    ENDED = "ended"


@dataclass(frozen=True)
class Decision:
    """What was decided about one frame.

    `prediction` is the network's answer for this frame alone; `label` and `score` are what holds after smoothing, and
    `nearest` is the class whose score that is, where the label is "unsure" or "unknown" and stands for no class.
    `inference_ms` runs from preprocessing to scores, `age_ms` from the frame's capture to the decision. `fps` is the
    recent rate of the camera's decisions; `captured` and `dropped` count its frames so far. `snapshot` says where the
    frame is to be kept, if it begins an event and pictures of those are kept. `unknown` says that the label stands for
    what the model does not know, `changed` that it was another one before, `drifted` that the camera's pictures have
    moved away from those that the model knows. `pts_s` is the frame's time.
    `scores` (C,) and `embedding` (D,) are what the network gave, None where
    it was not asked for an embedding.
    """

    camera: str
    prediction: Prediction
    label: str
    score: float
    inference_ms: float
    age_ms: float
    fps: float
    captured: int
    dropped: int
    snapshot: Path | None = None
    pts_s: float = 0.0
    unknown: bool = False
    changed: bool = False
    drifted: bool = False
    scores: NDArray[float32] | None = None
    embedding: NDArray[float32] | None = None
    nearest: str | None = None

    @property
    def text(self) -> str:
        """Label and score for people."""
        return in_words(self.label, self.score, self.nearest)

    @property
    def is_unsure(self) -> bool:
        """Whether the label stands for no class: the smoothed score was too low for one."""
        return self.label == UNSURE and UNSURE not in self.prediction.classes


@dataclass(frozen=True)
class Event:
    """A stretch of time in which a camera's decision stayed the same.

    `unknown` says that the label stands for what the model does not know, and not for a class of that name.
    `started` and `ended` are ISO times in UTC (`ended` is None while it lasts), `start_s` and `end_s` the same in
    seconds of the source, `score` the mean over its frames, `snapshot` where the picture of its first frame is kept
    soon after, if at all, `nearest` the decision's at its first frame.
    """

    id: str
    camera: str
    label: str
    started: str
    start_s: float
    end_s: float
    first_frame: int
    last_frame: int
    frames: int
    score: float
    ended: str | None = None
    snapshot: str | None = None
    unknown: bool = False
    nearest: str | None = None

    @property
    def kind(self) -> str:
        """Whether it has begun or ended."""
        return "event_started" if self.ended is None else "event_ended"

    def to_json(self) -> dict[str, Any]:
        """Plain values, the kind in front, by which it is told from a change of state."""
        return {
            "kind": self.kind,
            **asdict(self),
            "start_s": round(self.start_s, 3),
            "end_s": round(self.end_s, 3),
            "score": round(self.score, 4),
        }


@dataclass(frozen=True)
class StateChange:
    """A camera that began to do something else, at an ISO time in UTC, for a reason in words."""

    camera: str
    state: State
    at: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Plain values, the kind in front, by which it is told from an event."""
        return {"kind": "state", **asdict(self), "state": self.state.value}


@dataclass(frozen=True)
class DriftChange:
    """A camera whose pictures begin to move away from those that the model knows, do so in another way, or come back
    (then there are no `signs`), at an ISO time in UTC and a frame's number. `strangest` are the numbers of recent
    frames that show it most, strangest first, each with a small JPEG.
    """

    camera: str
    signs: tuple[Sign, ...]
    at: str
    figures: DriftFigures
    frame: int
    strangest: tuple[tuple[int, bytes], ...] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the kind in front, by which it is told from an event."""
        figures = {name: value for name, value in asdict(self.figures).items() if name != "signs"}
        return {
            "kind": "drift", "camera": self.camera, "signs": list(self.signs), "at": self.at, "figures": figures,
            "frame": self.frame, "strangest": [index for index, _ in self.strangest],
        }  # fmt: skip


class Smoother:
    """Turns the answers for a camera's frames into a steady decision.

    `confidence` says from which probability on a class is one, unless the smoothing does.
    """

    def __init__(self, smoothing: Smoothing, classes: tuple[str, ...], confidence: Confidence):
        self._how = smoothing
        self._classes = classes
        least = smoothing.min_confidence
        self._least = [confidence.threshold_of(name) if least is None else least for name in classes]
        self._votes: deque[int] = deque(maxlen=smoothing.majority or 1)
        self._votes_unknown: deque[bool] = deque(maxlen=smoothing.majority or 1)
        self.reset()

    def reset(self) -> None:
        """Forget the past, as after an outage."""
        self._average: NDArray[float32] | None = None
        self._at_s = 0.0
        self._held: int | None = None
        self._next: tuple[int | None, float] | None = None
        self._share_unknown: float | None = None
        self._begun = False
        self.nearest: str | None = None
        """The class whose score the last one was, where the label stood for none."""
        self._votes.clear()
        self._votes_unknown.clear()

    @property
    def unknown(self) -> bool:
        """Whether what holds is that the model does not know what it sees."""
        return self._held == _UNKNOWN

    def decide(self, probabilities: NDArray[float32], pts_s: float, unknown: bool = False) -> tuple[str, float]:
        """Label and score after a frame's probabilities (C,) at a time in seconds; the label may be "unsure", or
        "unknown" where most of the recent frames were: then the score is that of the best class.
        """
        passed_s = pts_s - self._at_s
        average = self._averaged(probabilities, pts_s)
        best = int(average.argmax())
        candidate = _UNKNOWN if self._mostly_unknown(unknown, passed_s) else self._candidate(average, best)
        if not self._begun:
            self._begun, self._held = True, candidate
        elif candidate == self._held:
            self._next = None
        else:
            if self._next is None or self._next[0] != candidate:
                self._next = (candidate, pts_s)
            if pts_s - self._next[1] >= self._how.dwell_s:
                self._held, self._next = candidate, None
        self.nearest = None
        if self._held is None or self._held == _UNKNOWN:
            self.nearest = self._classes[best]
            return UNSURE if self._held is None else UNKNOWN, float(average[best])
        return self._classes[self._held], float(average[self._held])

    def _averaged(self, probabilities: NDArray[float32], pts_s: float) -> NDArray[float32]:
        import numpy as np

        if self._how.majority:
            self._votes.append(int(probabilities.argmax()))
            return np.bincount(self._votes, minlength=len(probabilities)).astype(np.float32) / np.float32(
                len(self._votes)
            )
        if self._average is None or not self._how.smooth_s:
            self._average = probabilities
        else:
            kept = math.exp(-max(0.0, pts_s - self._at_s) / self._how.smooth_s)
            self._average = kept * self._average + (1 - kept) * probabilities
        self._at_s = pts_s
        return self._average

    def _mostly_unknown(self, unknown: bool, passed_s: float) -> bool:
        """Whether the unknown prevails among recent frames, by the same weights as classes."""
        if self._how.majority:
            self._votes_unknown.append(unknown)
            share = sum(self._votes_unknown) / len(self._votes_unknown)
        elif self._share_unknown is None or not self._how.smooth_s:
            share = float(unknown)
        else:
            kept = math.exp(-max(0.0, passed_s) / self._how.smooth_s)
            share = kept * self._share_unknown + (1 - kept) * unknown
        self._share_unknown = share
        return share > (0.5 - self._how.hysteresis / 2 if self.unknown else 0.5)

    def _candidate(self, average: NDArray[float32], best: int) -> int | None:
        """The class that would be right if it held; None for "unsure". Who holds already needs less."""
        if self._held is None or self._held == _UNKNOWN:
            return best if average[best] >= self._least[best] else None
        stays = average[self._held] >= self._least[self._held] - self._how.hysteresis
        if best == self._held:
            return best if stays else None
        if average[best] >= max(self._least[best], average[self._held] + self._how.hysteresis):
            return best
        return self._held if stays else None


class EventLog:
    """Finds the events in one camera's decisions."""

    def __init__(self, camera: str, begun: str):
        self.camera = camera
        self.latest: Event | None = None
        self._begun = begun.replace(":", "").replace("-", "")[:15]
        self._count = 0

    def take(self, decision: Decision, index: int, pts_s: float, now: str) -> tuple[Event | None, Event | None]:
        """The event that this decision ends, and the one that it begins, if it does."""
        event = self.latest
        if event is not None and (event.label, event.unknown) == (decision.label, decision.unknown):
            frames = event.frames + 1
            score = event.score + (decision.score - event.score) / frames
            self.latest = replace(event, frames=frames, score=score, end_s=pts_s, last_frame=index)
            return None, None
        ended = self.end(now)
        self._count += 1
        self.latest = Event(
            f"{self.camera}-{self._begun}-{self._count}", self.camera, decision.label, now, pts_s, pts_s, index, index,
            1, decision.score, unknown=decision.unknown, nearest=decision.nearest,
        )  # fmt: skip
        return ended, self.latest

    def with_snapshot(self, path: str) -> Event:
        """The latest event with its picture noted."""
        assert self.latest is not None
        self.latest = replace(self.latest, snapshot=path)
        return self.latest

    def end(self, now: str) -> Event | None:
        """End the latest event, as when the camera is lost."""
        event, self.latest = self.latest, None
        return replace(event, ended=now) if event else None


@dataclass(frozen=True)
class CameraHealth:
    """A camera in figures; `captured` = `decided` + `dropped` + `in_flight` at every moment. Times in ms are recent.
    `drift` is None where nobody looks; `nearest` is the decision's.
    """

    camera: str
    state: State
    reason: str
    since: str
    captured: int
    decided: int
    dropped: int
    in_flight: int
    reconnects: int
    fps: float
    inference_ms: float
    age_ms: float
    label: str | None
    score: float
    drift: DriftFigures | None = None
    nearest: str | None = None


@dataclass(frozen=True)
class SinkHealth:
    """A sink in figures: what it took, what its full queue let go, what failed, and why or what it waits for."""

    sink: str
    written: int
    lost: int
    failed: int
    error: str | None


@dataclass(frozen=True)
class Health:
    """A stream in figures."""

    model: str
    running_s: float
    cameras: tuple[CameraHealth, ...]
    sinks: tuple[SinkHealth, ...]

    @property
    def healthy(self) -> bool:
        """Whether every camera gives frames."""
        return all(camera.state in (State.LIVE, State.ENDED) for camera in self.cameras)

    def to_json(self) -> Mapping[str, Any]:
        """Plain values."""
        cameras = [{**asdict(camera), "state": camera.state.value} for camera in self.cameras]
        sinks = [asdict(sink) for sink in self.sinks]
        return {
            "model": self.model,
            "running_s": self.running_s,
            "healthy": self.healthy,
            "cameras": cameras,
            "sinks": sinks,
        }
