"""The loop: newest frame in, decision out, with nothing waiting in between."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from edgecls.benchmark.clock import Latency, milliseconds_since, now_ns
from edgecls.classifier import Classifier
from edgecls.errors import UsageError
from edgecls.stream.decision import Decision
from edgecls.stream.sinks import Sink
from edgecls.stream.sources import Frame, Source

RECENT = 30
"""Decisions over which the shown rate and latency are averaged."""
KEPT = 100_000
"""Latest latencies that the summary is made of; memory stays bounded on a stream that never ends."""


@dataclass(frozen=True)
class StreamConfig:
    """When to end by itself; None means never."""

    duration_s: float | None = None
    frames: int | None = None

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        if self.duration_s is not None and self.duration_s <= 0:
            raise UsageError("--duration must be above 0 seconds")
        if self.frames is not None and self.frames < 1:
            raise UsageError("--frames must be at least 1")


@dataclass(frozen=True)
class Summary:
    """A stream in figures. `captured` = `decided` + `dropped` + frames in flight at the end."""

    decided: int
    captured: int
    dropped: int
    skipped: int
    seconds: float
    inference: Latency | None
    age: Latency | None


@dataclass
class _Progress:
    begun_ns: int = field(default_factory=now_ns)
    decided: int = 0
    moments_ns: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    inference_ms: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    age_ms: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def fps(self) -> float:
        if len(self.moments_ns) < 2:
            return 0.0
        return (len(self.moments_ns) - 1) * 1e9 / max(1, self.moments_ns[-1] - self.moments_ns[0])


def run_stream(
    source: Source, classifier: Classifier, sinks: Sequence[Sink], config: StreamConfig, stop: threading.Event
) -> Summary:
    """Classify a source's frames until it ends, the configuration says so, or `stop` is set.

    Finite sources overlap inference with decoding; live ones decide about the newest frame at once. Sinks are closed in
    every case. Raises `SourceError` where the source fails.
    """
    config.check()
    progress = _Progress()
    depth = 1 if source.live else classifier.session.depth
    waiting: deque[tuple[Frame, int]] = deque()
    with ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink)
        stack.callback(_drain, classifier, waiting)
        for frame in source:
            waiting.append((frame, now_ns()))
            classifier.session.submit(classifier.card.preprocess(frame.image)[None])
            if len(waiting) >= depth:
                _decide(source, classifier, sinks, waiting, progress)
            if stop.is_set() or _is_over(config, progress):
                break
        while waiting and not _is_over(config, progress):
            _decide(source, classifier, sinks, waiting, progress)
    return Summary(
        decided=progress.decided,
        captured=source.captured,
        dropped=source.dropped,
        skipped=source.skipped,
        seconds=milliseconds_since(progress.begun_ns) / 1000,
        inference=Latency.of(progress.inference_ms) if progress.inference_ms else None,
        age=Latency.of(progress.age_ms) if source.live and progress.age_ms else None,
    )


def _decide(
    source: Source,
    classifier: Classifier,
    sinks: Sequence[Sink],
    waiting: deque[tuple[Frame, int]],
    progress: _Progress,
) -> None:
    frame, begun_ns = waiting.popleft()
    prediction = classifier.decide(classifier.session.collect()[0])
    progress.decided += 1
    progress.moments_ns.append(now_ns())
    decision = Decision(
        prediction=prediction,
        inference_ms=milliseconds_since(begun_ns),
        age_ms=milliseconds_since(frame.captured_ns),
        fps=progress.fps(),
        captured=source.captured,
        dropped=source.dropped,
    )
    progress.inference_ms.append(decision.inference_ms)
    progress.age_ms.append(decision.age_ms)
    for sink in sinks:
        sink.write(frame, decision)


def _drain(classifier: Classifier, waiting: deque[tuple[Frame, int]]) -> None:
    """Take back what is still being computed, so that the classifier can be used again."""
    while waiting:
        waiting.popleft()
        classifier.session.collect()


def _is_over(config: StreamConfig, progress: _Progress) -> bool:
    if config.frames is not None and progress.decided >= config.frames:
        return True
    return config.duration_s is not None and milliseconds_since(progress.begun_ns) >= config.duration_s * 1000
