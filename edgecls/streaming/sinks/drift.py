"""The watch over drift as a sink: in its own thread, it looks at some frames and tells the others what has changed."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from edgecls.runtime.scores import as_logits
from edgecls.streaming.camera import Camera, utc_now
from edgecls.streaming.decision import Decision, DriftChange
from edgecls.streaming.drift import DriftMonitor
from edgecls.streaming.frames import Frame
from edgecls.streaming.sinks.base import Sink

if TYPE_CHECKING:
    from edgecls.artifact.reference import Reference
    from edgecls.artifact.terms import Output

SHOWN = 6
"""Frames that show a drift most."""
SHOWN_WIDTH_PX = 240
FORGET_S = 300.0


class DriftSink(Sink):
    """Watches each camera against the reference and calls `publish` when a drift begins, changes its signs or ends."""

    name = "drift"
    accepts_events = False
    queue = 4

    def __init__(
        self,
        cameras: Mapping[str, Camera],
        reference: Reference,
        classes: int,
        output: Output,
        false_refusals: float,
        publish: Callable[[DriftChange], None],
    ):
        self._cameras, self._output, self._publish = cameras, output, publish
        self._monitors = {name: DriftMonitor(reference, classes, false_refusals) for name in cameras}
        self._strangest: dict[str, list[tuple[float, int, float, bytes]]] = {name: [] for name in cameras}

    def wants(self, decision: Decision) -> bool:
        """See `Sink.wants`."""
        return decision.scores is not None and self._monitors[decision.camera].is_due(decision.pts_s)

    def write(self, frame: Frame, decision: Decision) -> None:
        """See `Sink.write`."""
        monitor, before = self._monitors[decision.camera], self._monitors[decision.camera].figures.signs
        if decision.scores is None or not monitor.is_due(frame.pts_s):
            return
        logits = as_logits(decision.scores, self._output)
        if not monitor.take(frame.pts_s, logits, decision.embedding):
            return
        camera = self._cameras[decision.camera]
        camera.drift = monitor.figures
        self._remember(frame, decision, monitor.strangeness)
        if set(monitor.figures.signs) != set(before):
            frames = tuple((index, jpeg) for _, index, _, jpeg in self._strangest[decision.camera])
            self._publish(
                DriftChange(decision.camera, monitor.figures.signs, utc_now(), monitor.figures, frame.index, frames)
            )

    def _remember(self, frame: Frame, decision: Decision, strangeness: float) -> None:
        """Keep the frame small if it is among the strangest of the last minutes."""
        from edgecls.imaging.opencv import cv2

        kept = [each for each in self._strangest[decision.camera] if 0 <= frame.pts_s - each[2] < FORGET_S]
        if len(kept) < SHOWN or strangeness > min(kept)[0]:
            height, width = frame.image.shape[:2]
            size = (SHOWN_WIDTH_PX, max(1, round(SHOWN_WIDTH_PX * height / width)))
            small = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA)
            kept.append((strangeness, frame.index, frame.pts_s, cv2.imencode(".jpg", small)[1].tobytes()))
        self._strangest[decision.camera] = heapq.nlargest(SHOWN, kept)
