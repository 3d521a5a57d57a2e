"""The loop over live sources: the newest frame of each camera, with nothing waiting in between."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from edgecls.clock import milliseconds_since, now_ns
from edgecls.errors import SourceError
from edgecls.runtime.pipeline import overlapped
from edgecls.streaming.camera import Camera
from edgecls.streaming.frames import Frame
from edgecls.streaming.sources import LiveSource
from edgecls.streaming.step import TICK_S, Step

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

BATCH_PAYS = 0.9
"""A batch is used where it takes less than this share of single inferences."""


def run_live(step: Step, stop: threading.Event) -> None:
    """One turn after the other: the newest frame of each camera that has one, together where that is faster."""
    changed = threading.Condition()
    sources = [camera.source for camera in step.cameras if isinstance(camera.source, LiveSource)]
    together = _together(step, len(sources))
    for source in sources:
        source.start(changed)
    while not (stop.is_set() or step.is_over() or all(source.ended for source in sources)):
        step.beat()
        _watch(step)
        with changed:
            if not changed.wait_for(lambda: any(_is_due(camera) for camera in step.cameras), TICK_S):
                continue
        turn = []
        for camera in step.cameras:
            frame = camera.take() if _is_due(camera) else None
            if frame is not None:
                turn.append((camera, frame))
        if together and len(turn) > 1:
            _infer_together(step, turn)
        else:
            _infer_one_by_one(step, turn)
    _watch(step)


def _is_due(camera: Camera) -> bool:
    source = camera.source
    return isinstance(source, LiveSource) and source.ready and now_ns() >= camera.due_ns


def _infer_one_by_one(step: Step, turn: Iterable[tuple[Camera, Frame]]) -> None:
    begun = ((camera, frame, now_ns()) for camera, frame in turn)
    inputs = ((entry, step.classifier.card.preprocess(entry[1].picture)[None]) for entry in begun)
    for (camera, frame, begun_ns), outputs in overlapped(step.classifier.session, inputs):
        step.decide(camera, frame, begun_ns, outputs)


def _infer_together(step: Step, turn: Sequence[tuple[Camera, Frame]]) -> None:
    import numpy as np

    begun_ns = now_ns()
    pixels = np.stack([step.classifier.card.preprocess(frame.picture) for _, frame in turn])
    outputs = step.classifier.session.infer_all(pixels)
    for index, (camera, frame) in enumerate(turn):
        step.decide(camera, frame, begun_ns, outputs, index)


def _together(step: Step, cameras: int) -> bool:
    """Whether a batch of all cameras' frames is faster here than one inference after the other: tried out."""
    if cameras < 2:
        return False
    import numpy as np

    session = step.classifier.session
    images = np.zeros((cameras, *step.classifier.card.input_shape), np.uint8)

    def fastest(images: NDArray[uint8], tries: int) -> float:
        session.infer(images)
        spent = []
        for _ in range(tries):
            begun_ns = now_ns()
            session.infer(images)
            spent.append(milliseconds_since(begun_ns))
        return min(spent)

    return fastest(images, 5) < BATCH_PAYS * cameras * fastest(images[:1], 10)


def _watch(step: Step) -> None:
    """Look after the cameras; the error of one counts only when none of the others can go on."""
    errors = []
    for camera in step.cameras:
        source = camera.source
        if not isinstance(source, LiveSource):
            continue
        try:
            source.watch()
        except SourceError as error:
            errors.append(error)
        step.to_state(camera, source.state, source.reason)
    if errors and len(errors) == len(step.cameras):
        raise errors[0]
