"""The loop: newest frame in, decision out, with nothing waiting in between."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.bounds import LONGEST_S, MOST, check_bounds
from edgecls.clock import Latency, milliseconds_since, now_ns
from edgecls.concurrency import read_ahead
from edgecls.errors import SourceError, UsageError
from edgecls.runtime.classifier import Classifier
from edgecls.runtime.pipeline import overlapped
from edgecls.stream.camera import Camera, one_line, utc_now
from edgecls.stream.decision import (
    EACH_FRAME,
    SMOOTHED,
    CameraHealth,
    Decision,
    Event,
    EventLog,
    Health,
    SinkHealth,
    Smoother,
    Smoothing,
    State,
    StateChange,
)
from edgecls.stream.frames import FASTEST_FPS, SLOWEST_FPS, Frame
from edgecls.stream.outbox import Outbox
from edgecls.stream.sinks.base import Sink
from edgecls.stream.sinks.files import SnapshotSink
from edgecls.stream.sources import LiveSource, Source

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

KEPT = 20_000
"""Latest latencies that the summary is made of; memory stays bounded on a stream that never ends."""
TICK_S = 0.1
"""How often a loop without frames looks at its cameras, its limits and its signals."""
SHORTEST_S = 1e-3
"""Of a stream that is to end by itself."""
BATCH_PAYS = 0.9
"""A batch is used where it takes less than this share of single inferences."""


@dataclass(frozen=True)
class StreamConfig:
    """When to end by itself (None means never), how fast to go, and how decisions are made.

    `smoothing` is not used for images that have nothing to do with each other. `snapshots` is a folder for the first
    picture of each event, which gets a sink of its own.
    """

    duration_s: float | None = None
    frames: int | None = None
    max_fps: float | None = None
    smoothing: Smoothing = SMOOTHED
    snapshots: Path | None = None

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        check_bounds("--duration", self.duration_s, SHORTEST_S, LONGEST_S, "seconds")
        check_bounds("--frames", self.frames, 1, MOST)
        check_bounds("--max-fps", self.max_fps, SLOWEST_FPS, FASTEST_FPS, "decisions a second")
        self.smoothing.check()


@dataclass(frozen=True)
class Summary:
    """A stream in figures, over all cameras. `captured` = `decided` + `dropped`, where nothing is left in flight."""

    decided: int
    captured: int
    dropped: int
    skipped: int
    seconds: float
    inference: Latency | None
    age: Latency | None
    cameras: tuple[CameraHealth, ...]
    sinks: tuple[SinkHealth, ...]


class Stream:
    """Classifies the frames of one or many sources with one model, and hands decisions to sinks.

    Live sources are decided about in their newest frame; finite ones frame by frame, in turn, while the next are being
    decoded. Both kinds cannot be mixed. `beat` is called many times a second as long as the loop is alive. `sinks` are
    all of them, in the order of their health.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        classifier: Classifier,
        sinks: Sequence[Sink] = (),
        config: StreamConfig = StreamConfig(),
        beat: Callable[[], None] = lambda: None,
    ):
        config.check()
        if len({source.live for source in sources}) != 1:
            raise UsageError("live cameras and files do not mix; --realtime plays video files as live cameras")
        for source in sources:
            source.name = one_line(source.name)
        names = [source.name for source in sources]
        for number, source in enumerate(sources):
            if names.count(names[number]) > 1:
                source.name = f"{source.name} ({names[: number + 1].count(names[number])})"
        self._classifier = classifier
        self._config = config
        self._beat = beat
        self._snapshots = SnapshotSink(config.snapshots) if config.snapshots else None
        self.sinks = (*sinks, self._snapshots) if self._snapshots else tuple(sinks)
        self._outboxes = [Outbox(sink) for sink in self.sinks]
        self._begun_ns = now_ns()
        begun = utc_now()
        threshold = classifier.card.confidence.threshold
        self._cameras = [
            Camera(
                source,
                Smoother(
                    config.smoothing
                    if source.sequence
                    else replace(EACH_FRAME, min_confidence=config.smoothing.min_confidence),
                    classifier.card.classes,
                    threshold,
                ),
                EventLog(source.name, begun),
                since=begun,
            )
            for source in sources
        ]
        self._inference_ms: deque[float] = deque(maxlen=KEPT)
        self._age_ms: deque[float] = deque(maxlen=KEPT)

    @property
    def live(self) -> bool:
        """Whether the sources are live."""
        return self._cameras[0].source.live

    def health(self) -> Health:
        """The stream in figures, now; from any thread."""
        return Health(
            self._classifier.card.name,
            milliseconds_since(self._begun_ns) / 1000,
            tuple(camera.health() for camera in self._cameras),
            tuple(outbox.health() for outbox in self._outboxes),
        )

    def run(self, stop: threading.Event) -> Summary:
        """Classify until the sources end, the configuration says so, or `stop` is set.

        Sources and sinks are closed in every case. Raises `SourceError` where no source can go on, and `OutputError`
        where a sink cannot begin.
        """
        foreground = [outbox for outbox in self._outboxes if outbox.sink.foreground]
        with ExitStack() as stack:
            for camera in self._cameras:
                stack.callback(camera.source.close)
            for outbox in self._outboxes:
                outbox.start(self.health)
                stack.callback(outbox.close)
            stack.callback(self._finish)
            if foreground:
                self._run_beside(foreground, stop)
            else:
                self._run(stop)
        return self._summary()

    def _run_beside(self, foreground: Sequence[Outbox], stop: threading.Event) -> None:
        """The loop in a thread of its own, while this one, the main one, serves the sinks that need it."""
        errors: list[Exception] = []

        def work() -> None:
            try:
                self._run(stop)
            except Exception as error:
                errors.append(error)

        worker = threading.Thread(target=work, name="edgecls-inference")
        worker.start()
        try:
            while worker.is_alive():
                for outbox in foreground:
                    outbox.process_next(0.02)
        except BaseException:
            stop.set()
            raise
        finally:
            worker.join()
        if errors:
            raise errors[0]

    def _run(self, stop: threading.Event) -> None:
        try:
            if self.live:
                self._run_live(stop)
            else:
                self._run_finite(stop)
        finally:
            for camera in self._cameras:
                seen = camera.taken if self.live else camera.source.captured
                camera.taken, camera.discarded = seen, seen - camera.decided

    def _run_finite(self, stop: threading.Event) -> None:
        """Decoding and preprocessing run ahead in a thread; as many inferences are under way as the session allows."""
        for camera in self._cameras:
            self._to_state(camera, State.LIVE, "")
        with (
            closing(read_ahead(self._prepared(), 4)) as prepared,
            closing(overlapped(self._classifier.session, self._in_turn(prepared, stop))) as answered,
        ):
            for (camera, frame, begun_ns), scores in answered:
                self._decide(camera, frame, begun_ns, scores[0])
                if self._is_over():
                    break

    def _in_turn(
        self, prepared: Iterable[tuple[Camera, Frame, NDArray[uint8]]], stop: threading.Event
    ) -> Iterator[tuple[tuple[Camera, Frame, int], NDArray[uint8]]]:
        """What to infer next and with whom, not faster than `max_fps`, until the stream is to end."""
        for camera, frame, pixels in prepared:
            if self._config.max_fps:
                self._await_turn(camera, stop)
                camera.schedule_next(self._config.max_fps)
            self._beat()
            if stop.is_set() or self._is_over():
                return
            camera.taken += 1
            yield (camera, frame, now_ns()), pixels[None]

    def _await_turn(self, camera: Camera, stop: threading.Event) -> None:
        """Wait, alive, until a camera's next decision is due or the stream is to end."""
        while not (stop.is_set() or self._is_over()) and (left_ns := camera.due_ns - now_ns()) > 0:
            self._beat()
            stop.wait(min(left_ns / 1e9, TICK_S))

    def _prepared(self) -> Iterator[tuple[Camera, Frame, NDArray[uint8]]]:
        """The frames of all finite sources in turn, with their network inputs."""
        frames = [(camera, iter(camera.source)) for camera in self._cameras]
        while frames:
            for entry in list(frames):
                camera, iterator = entry
                frame = next(iterator, None)
                if frame is None:
                    frames.remove(entry)
                else:
                    yield camera, frame, self._classifier.card.preprocess(frame.image)

    def _run_live(self, stop: threading.Event) -> None:
        """One turn after the other: the newest frame of each camera that has one, together where that is faster."""
        changed = threading.Condition()
        sources = [camera.source for camera in self._cameras if isinstance(camera.source, LiveSource)]
        together = self._together(len(sources))
        for source in sources:
            source.start(changed)
        while not (stop.is_set() or self._is_over() or all(source.ended for source in sources)):
            self._beat()
            self._watch()
            with changed:
                if not changed.wait_for(lambda: any(self._is_due(camera) for camera in self._cameras), TICK_S):
                    continue
            turn = []
            for camera in self._cameras:
                frame = camera.take() if self._is_due(camera) else None
                if frame is not None:
                    turn.append((camera, frame))
            if together and len(turn) > 1:
                self._infer_together(turn)
            else:
                self._infer_one_by_one(turn)
        self._watch()

    def _is_due(self, camera: Camera) -> bool:
        source = camera.source
        return isinstance(source, LiveSource) and source.ready and now_ns() >= camera.due_ns

    def _infer_one_by_one(self, turn: Iterable[tuple[Camera, Frame]]) -> None:
        begun = ((camera, frame, now_ns()) for camera, frame in turn)
        inputs = ((entry, self._classifier.card.preprocess(entry[1].image)[None]) for entry in begun)
        for (camera, frame, begun_ns), scores in overlapped(self._classifier.session, inputs):
            self._decide(camera, frame, begun_ns, scores[0])

    def _infer_together(self, turn: Sequence[tuple[Camera, Frame]]) -> None:
        import numpy as np

        begun_ns = now_ns()
        pixels = np.stack([self._classifier.card.preprocess(frame.image) for _, frame in turn])
        for (camera, frame), scores in zip(turn, self._classifier.session.infer(pixels), strict=True):
            self._decide(camera, frame, begun_ns, scores)

    def _together(self, cameras: int) -> bool:
        """Whether a batch of all cameras' frames is faster here than one inference after the other: tried out."""
        if cameras < 2:
            return False
        import numpy as np

        session = self._classifier.session
        images = np.zeros((cameras, *self._classifier.card.input_shape), np.uint8)

        def fastest(images: NDArray[uint8], tries: int) -> float:
            session.infer(images)
            spent = []
            for _ in range(tries):
                begun_ns = now_ns()
                session.infer(images)
                spent.append(milliseconds_since(begun_ns))
            return min(spent)

        return fastest(images, 5) < BATCH_PAYS * cameras * fastest(images[:1], 10)

    def _decide(self, camera: Camera, frame: Frame, begun_ns: int, scores: NDArray[float32]) -> None:
        prediction = self._classifier.decide(scores)
        label, score = camera.smoother.decide(prediction.probabilities, frame.pts_s)
        camera.moments_ns.append(now_ns())
        inference_ms, age_ms = milliseconds_since(begun_ns), milliseconds_since(frame.captured_ns)
        camera.decided += 1
        camera.label, camera.score = label, score
        if self.live and self._config.max_fps:
            camera.schedule_next(self._config.max_fps)
        for kept, value in ((self._inference_ms, inference_ms), (self._age_ms, age_ms)):
            kept.append(value)
        camera.inference_ms.append(inference_ms)
        camera.age_ms.append(age_ms)
        decision = Decision(
            camera.source.name, prediction, label, score, inference_ms, age_ms, camera.fps(), camera.source.captured,
            camera.dropped,
        )  # fmt: skip
        ended, begun = camera.events.take(decision, frame.index, frame.pts_s, utc_now())
        if begun and self._snapshots:
            decision = replace(decision, snapshot=self._snapshots.place(begun))
            begun = camera.events.with_snapshot(str(decision.snapshot))
        for outbox in self._outboxes:
            outbox.put(frame, decision, wait=not self.live)
        for event in (ended, begun):
            if event:
                self._tell(event)

    def _tell(self, event: Event | StateChange) -> None:
        for outbox in self._outboxes:
            outbox.tell(event)

    def _watch(self) -> None:
        """Look after the cameras; the error of one counts only when none of the others can go on."""
        errors = []
        for camera in self._cameras:
            source = camera.source
            if not isinstance(source, LiveSource):
                continue
            try:
                source.watch()
            except SourceError as error:
                errors.append(error)
            self._to_state(camera, source.state, source.reason)
        if errors and len(errors) == len(self._cameras):
            raise errors[0]

    def _to_state(self, camera: Camera, state: State, reason: str) -> None:
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
        self._tell(StateChange(camera.source.name, state, camera.since, reason))

    def _end_event(self, camera: Camera) -> None:
        if event := camera.events.end(utc_now()):
            self._tell(event)

    def _finish(self) -> None:
        for camera in self._cameras:
            self._end_event(camera)

    def _is_over(self) -> bool:
        config = self._config
        if config.frames is not None and sum(camera.decided for camera in self._cameras) >= config.frames:
            return True
        return config.duration_s is not None and milliseconds_since(self._begun_ns) >= config.duration_s * 1000

    def _summary(self) -> Summary:
        cameras = tuple(camera.health() for camera in self._cameras)
        return Summary(
            decided=sum(camera.decided for camera in cameras),
            captured=sum(camera.captured for camera in cameras),
            dropped=sum(camera.dropped for camera in cameras),
            skipped=sum(camera.source.skipped for camera in self._cameras),
            seconds=milliseconds_since(self._begun_ns) / 1000,
            inference=Latency.of(self._inference_ms) if self._inference_ms else None,
            age=Latency.of(self._age_ms) if self.live and self._age_ms else None,
            cameras=cameras,
            sinks=tuple(outbox.health() for outbox in self._outboxes),
        )
