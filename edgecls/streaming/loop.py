"""A stream: sources, one model and sinks, run by the live or the finite loop, and its figures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from edgecls.artifact.reference import FALSE_REFUSALS, Reference
from edgecls.clock import Latency, milliseconds_since
from edgecls.errors import UsageError
from edgecls.runtime.classifier import Classifier
from edgecls.streaming.camera import Camera, one_line, utc_now
from edgecls.streaming.config import EACH_FRAME, LoopConfig
from edgecls.streaming.decision import CameraHealth, EventLog, Health, SinkHealth, Smoother
from edgecls.streaming.finite import run_finite
from edgecls.streaming.live import run_live
from edgecls.streaming.outbox import Outbox
from edgecls.streaming.sinks.base import Sink
from edgecls.streaming.sinks.drift import DriftSink
from edgecls.streaming.sinks.files import SnapshotSink
from edgecls.streaming.sources import Source
from edgecls.streaming.step import Step


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
    all of them, in the order of their health. With a `reference` cameras are watched for drift.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        classifier: Classifier,
        sinks: Sequence[Sink] = (),
        config: LoopConfig = LoopConfig(),
        beat: Callable[[], None] = lambda: None,
        reference: Reference | None = None,
    ):
        config.check()
        if len({source.live for source in sources}) != 1:
            raise UsageError("live cameras and files do not mix; `realtime` plays video files as live cameras")
        for source in sources:
            source.name = one_line(source.name)
        names = [source.name for source in sources]
        for number, source in enumerate(sources):
            if names.count(names[number]) > 1:
                source.name = f"{source.name} ({names[: number + 1].count(names[number])})"
        snapshots = SnapshotSink(config.snapshots) if config.snapshots else None
        begun = utc_now()
        self._cameras = [
            Camera(
                source,
                Smoother(
                    config.smoothing
                    if source.sequence
                    else replace(EACH_FRAME, min_confidence=config.smoothing.min_confidence),
                    classifier.card.classes,
                    classifier.card.confidence,
                ),
                EventLog(source.name, begun),
                since=begun,
            )
            for source in sources
        ]
        self.sinks = (*sinks, snapshots) if snapshots else tuple(sinks)
        self.sinks = (*self.sinks, self._watch(reference, classifier)) if reference else self.sinks
        self._outboxes = [Outbox(sink) for sink in self.sinks]
        self.classifier = classifier
        self._step = Step(self._cameras, classifier, self._outboxes, snapshots, config, beat)

    def _watch(self, reference: Reference, classifier: Classifier) -> DriftSink:
        cameras = {camera.source.name: camera for camera in self._cameras}
        share = classifier.detector.false_refusals if classifier.detector else FALSE_REFUSALS
        card = classifier.card
        return DriftSink(
            cameras, reference, len(card.classes), card.output, share, lambda change: self._step.publish(change)
        )

    @property
    def live(self) -> bool:
        """Whether the sources are live."""
        return self._cameras[0].source.live

    def health(self) -> Health:
        """The stream in figures, now; from any thread."""
        return Health(
            self._step.classifier.card.name,
            milliseconds_since(self._step.begun_ns) / 1000,
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
            stack.callback(self._step.finish)
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
                run_live(self._step, stop)
            else:
                run_finite(self._step, stop)
        finally:
            for camera in self._cameras:
                seen = camera.taken if self.live else camera.source.captured
                camera.taken, camera.discarded = seen, seen - camera.decided

    def _summary(self) -> Summary:
        cameras = tuple(camera.health() for camera in self._cameras)
        return Summary(
            decided=sum(camera.decided for camera in cameras),
            captured=sum(camera.captured for camera in cameras),
            dropped=sum(camera.dropped for camera in cameras),
            skipped=sum(camera.source.skipped for camera in self._cameras),
            seconds=milliseconds_since(self._step.begun_ns) / 1000,
            inference=Latency.of(self._step.inference_ms) if self._step.inference_ms else None,
            age=Latency.of(self._step.age_ms) if self.live and self._step.age_ms else None,
            cameras=cameras,
            sinks=tuple(outbox.health() for outbox in self._outboxes),
        )
