"""The step from a frame's scores to its decision, its events and the sinks: what the live and the finite loop share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgecls.clock import milliseconds_since, now_ns
from edgecls.runtime.classifier import Classifier
from edgecls.streaming.camera import Camera, utc_now
from edgecls.streaming.config import LoopConfig
from edgecls.streaming.decision import Decision, DriftChange, Event, State, StateChange
from edgecls.streaming.frames import Frame
from edgecls.streaming.outbox import Outbox
from edgecls.streaming.sinks.files import SnapshotSink

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

KEPT = 20_000
"""Latest latencies that the summary is made of; memory stays bounded on a stream that never ends."""
TICK_S = 0.1
"""How often a loop that waits looks at its cameras, its limits and its signals."""


class Step:
    """Cameras, one model and the sinks of a stream. `beat` is to be called as long as a loop is alive."""

    def __init__(
        self,
        cameras: Sequence[Camera],
        classifier: Classifier,
        outboxes: Sequence[Outbox],
        snapshots: SnapshotSink | None,
        config: LoopConfig,
        beat: Callable[[], None],
    ):
        self.cameras, self.classifier, self.config, self.beat = cameras, classifier, config, beat
        self.begun_ns = now_ns()
        self.inference_ms: deque[float] = deque(maxlen=KEPT)
        self.age_ms: deque[float] = deque(maxlen=KEPT)
        self._outboxes, self._snapshots = outboxes, snapshots

    def decide(
        self, camera: Camera, frame: Frame, begun_ns: int, outputs: tuple[NDArray[float32], ...], index: int = 0
    ) -> None:
        """Decide about a frame whose inference began at `begun_ns`, and hand it to the sinks. What the session gave for
        it stands at an index of `outputs`.
        """
        embedding = self.classifier.embedding_in(outputs, index)
        prediction = self.classifier.decide(outputs[0][index], embedding)
        label, score = camera.smoother.decide(prediction.probabilities, frame.pts_s, prediction.unknown)
        camera.moments_ns.append(now_ns())
        inference_ms, age_ms = milliseconds_since(begun_ns), milliseconds_since(frame.captured_ns)
        camera.decided += 1
        camera.label, camera.score, camera.nearest = label, score, camera.smoother.nearest
        if camera.source.live and self.config.max_fps:
            camera.schedule_next(self.config.max_fps)
        for kept, value in ((self.inference_ms, inference_ms), (self.age_ms, age_ms)):
            kept.append(value)
        camera.inference_ms.append(inference_ms)
        camera.age_ms.append(age_ms)
        decision = Decision(
            camera.source.name, prediction, label, score, inference_ms, age_ms, camera.fps(), camera.source.captured,
            camera.dropped, pts_s=frame.pts_s, unknown=camera.smoother.unknown, drifted=camera.drifted,
            scores=outputs[0][index], embedding=embedding, nearest=camera.nearest,
        )  # fmt: skip
        ended, begun = camera.events.take(decision, frame.index, frame.pts_s, utc_now())
        if begun:
            decision = replace(decision, changed=ended is not None)
        if begun and self._snapshots:
            decision = replace(decision, snapshot=self._snapshots.path_of(begun))
            begun = camera.events.with_snapshot(str(decision.snapshot))
        for outbox in self._outboxes:
            outbox.put(frame, decision, wait=not camera.source.live)
        for event in (ended, begun):
            if event:
                self.publish(event)

    def publish(self, event: Event | StateChange | DriftChange) -> None:
        """Hand an event, a change of state or a drift to the sinks. From any thread."""
        for outbox in self._outboxes:
            outbox.send_event(event)

    def to_state(self, camera: Camera, state: State, reason: str) -> None:
        """Note what a camera does now, and tell the sinks where that is new."""
        if (state, reason) == (camera.state, camera.reason):
            return
        changed = state is not camera.state
        camera.state, camera.reason = state, reason
        if not changed:
            return
        camera.since = utc_now()
        if state in (State.RECONNECTING, State.ENDED):
            self._end_event(camera)
            camera.smoother.reset()
            camera.label = None
        self.publish(StateChange(camera.source.name, state, camera.since, reason))

    def _end_event(self, camera: Camera) -> None:
        if event := camera.events.end(utc_now()):
            self.publish(event)

    def finish(self) -> None:
        """End the events that are under way."""
        for camera in self.cameras:
            self._end_event(camera)

    def is_over(self) -> bool:
        """Whether the configuration says that the stream ends now."""
        config = self.config
        if config.frames is not None and sum(camera.decided for camera in self.cameras) >= config.frames:
            return True
        return config.duration_s is not None and milliseconds_since(self.begun_ns) >= config.duration_s * 1000
