"""Frames that are worth a human's look, kept in a pool with the model's scores and the reason."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgecls.clock import milliseconds_since, now_ns
from edgecls.errors import OutputError
from edgecls.imaging.small import small_grey, unchanged
from edgecls.streaming.camera import utc_now
from edgecls.streaming.config import KEEP_REASONS, KeepConfig
from edgecls.streaming.decision import Decision, Health
from edgecls.streaming.frames import Frame
from edgecls.streaming.pool import Pool
from edgecls.streaming.sinks.base import Sink

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

    from edgecls.artifact.reference import Reference

WRONG = "wrong"
LOOKS_PER_S = 4.0
"""How many frames of one camera are looked at a second at most, but for those at which the decision changed."""
REMEMBERED = 300
"""Kept frames of a camera that others must differ from."""
ALIKE = 0.5
"""Frames whose embeddings are nearer than this share of the usual gap between validation images look alike."""
BURST = 6
"""An hour's frames by which a camera, reason and class may be ahead: a sixth of them."""
TOP = 5
"""Best classes whose probabilities are noted."""
PAUSE_S = 60.0
"""After the disk refused."""
JPEG_QUALITY = 95


@dataclass
class _Budget:
    """How many frames may be kept now; grows with time."""

    left: float
    at_s: float

    def refill(self, now_s: float, per_hour: int) -> float:
        """What is left at a time in seconds."""
        passed_s = max(0.0, now_s - self.at_s)
        self.left = min(max(1.0, per_hour / BURST), self.left + passed_s * per_hour / 3600)
        self.at_s = now_s
        return self.left


@dataclass(frozen=True)
class Held:
    """A frame as it would be kept: its camera, an ISO time, a JPEG and its line in the index."""

    camera: str
    time: str
    jpeg: bytes
    row: dict[str, Any]


@dataclass
class _Memory:
    """What was kept of one camera, as far as others must differ from it."""

    points: deque[NDArray[float32]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    small: deque[NDArray[uint8]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    looked_at_s: float = float("-inf")


class KeepSink(Sink):
    """Keeps what the configuration's reasons ask for, spread over time, cameras and classes: an hour's budget for each
    camera, reason and class, and nothing that looks like what was just kept. Random samples are exempt from both, so
    that they show what the camera sees.

    `reference` compares embeddings, where the model gives them; others are compared by small copies.
    """

    name = "pool"
    accepts_events = False
    queue = 8
    durable = True

    def __init__(self, config: KeepConfig, model: str = "", reference: Reference | None = None):
        assert config.keep_to is not None
        self.pool = Pool(config.keep_to, config.keep_max_bytes)
        self._reasons, self._sample = config.reasons(), config.sample_share()
        self._per_hour, self._model, self._reference = config.keep_per_hour, model, reference
        self._budgets: dict[tuple[str, str, int], _Budget] = {}
        self._memories: defaultdict[str, _Memory] = defaultdict(_Memory)
        self._sampled: deque[tuple[str, float]] = deque(maxlen=8 * self.queue)  # with who is not handed over any more
        self._random = random.Random()
        self._paused_ns: int | None = None

    def open(self, health: Callable[[], Health]) -> None:  # noqa: ARG002
        """See `Sink.open`."""
        self.pool.open()

    def wants(self, decision: Decision) -> bool:
        """See `Sink.wants`. Cheap: what a frame looks like is seen in the sink's own thread."""
        if self._paused_ns is not None and milliseconds_since(self._paused_ns) < PAUSE_S * 1000:
            return False
        if self._sample and self._random.random() < self._sample:
            self._sampled.append((decision.camera, decision.pts_s))
            return True
        if not self._asked_for(decision):
            return False
        memory = self._memories[decision.camera]
        passed_s = abs(decision.pts_s - memory.looked_at_s)  # a file that is played again begins anew
        if passed_s < 1 / LOOKS_PER_S and not decision.changed:
            return False
        memory.looked_at_s = decision.pts_s
        return True

    def write(self, frame: Frame, decision: Decision) -> None:
        """See `Sink.write`."""
        reasons = self._asked_for(decision)
        if (decision.camera, decision.pts_s) in list(self._sampled):
            reasons.append("sample")
        elif not self._may_keep(frame, decision, reasons):
            return
        self._remember(frame, decision)
        self._add(frame, decision, reasons)

    def hold(self, frame: Frame, decision: Decision) -> Held:
        """A frame that somebody calls wrong, as it would be kept; from any thread."""
        return Held(decision.camera, utc_now(), _jpeg(frame), self._row(frame, decision, [WRONG]))

    def keep_held(self, held: Held, label: str | None) -> None:
        """Keep a frame that somebody calls wrong, and says to show `label`, or none of the classes. From any thread.
        Raises `OutputError`.
        """
        self.pool.add(held.camera, held.time, held.jpeg, {**held.row, "label": label})

    def _asked_for(self, decision: Decision) -> list[str]:
        held = {
            "unsure": decision.prediction.unsure or decision.is_unsure, "changed": decision.changed,
            "drifted": decision.drifted, "unknown": (decision.prediction.novelty or 0.0) > 1,
        }  # fmt: skip
        return [reason for reason in KEEP_REASONS if reason in self._reasons and held[reason]]

    def _may_keep(self, frame: Frame, decision: Decision, reasons: list[str]) -> bool:
        """Whether the budget of one of the reasons allows it and it differs from what was kept; then it is charged."""
        budgets = []
        for reason in reasons:
            key = (decision.camera, reason, decision.prediction.index)
            budget = self._budgets.setdefault(key, _Budget(max(1.0, self._per_hour / BURST), frame.pts_s))
            if budget.refill(frame.pts_s, self._per_hour) >= 1:
                budgets.append(budget)
        if not budgets or self._is_alike(frame, decision):
            return False
        for budget in budgets:
            budget.left -= 1
        return True

    def _point(self, decision: Decision) -> NDArray[float32] | None:
        """The embedding in the reference's components, where there is one."""
        reference, embedding = self._reference, decision.embedding
        if reference is None or embedding is None or embedding.shape != reference.center.shape:
            return None
        return reference.project(embedding[None])[0]

    def _is_alike(self, frame: Frame, decision: Decision) -> bool:
        memory, point = self._memories[decision.camera], self._point(decision)
        if point is None or self._reference is None:
            small = small_grey(frame.image)
            return any(unchanged(small, other) for other in memory.small)
        if not memory.points:
            return False
        import numpy as np

        gaps = np.linalg.norm(np.stack(list(memory.points)) - point, axis=1)
        return bool(gaps.min() < ALIKE * self._reference.usual_gap)

    def _remember(self, frame: Frame, decision: Decision) -> None:
        memory, point = self._memories[decision.camera], self._point(decision)
        if point is None:
            memory.small.append(small_grey(frame.image))
        else:
            memory.points.append(point)

    def _add(self, frame: Frame, decision: Decision, reasons: list[str]) -> None:
        try:
            self.pool.add(decision.camera, utc_now(), _jpeg(frame), self._row(frame, decision, reasons))
        except OutputError:
            self._paused_ns = now_ns()
            raise
        self._paused_ns = None

    def _row(self, frame: Frame, decision: Decision, reasons: list[str]) -> dict[str, Any]:
        prediction = decision.prediction
        best, score = prediction.top(1)[0]
        return {
            "reasons": reasons, "label": None, "decided": decision.label, "best": best, "score": round(score, 4),
            "scores": [[name, round(value, 4)] for name, value in prediction.top(TOP)],
            "unsure": prediction.unsure, "unknown": prediction.unknown,
            "novelty": None if prediction.novelty is None else round(prediction.novelty, 4),
            "frame": frame.index, "time_s": round(frame.pts_s, 3), "model": self._model,
        }  # fmt: skip


def _jpeg(frame: Frame) -> bytes:
    from edgecls.imaging.opencv import cv2

    content: bytes = cv2.imencode(".jpg", frame.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    return content
