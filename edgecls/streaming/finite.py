"""The loop over files: every frame in order, the next ones decoded meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from edgecls.clock import now_ns
from edgecls.concurrency import read_ahead
from edgecls.runtime.pipeline import overlapped
from edgecls.streaming.camera import Camera
from edgecls.streaming.decision import State
from edgecls.streaming.frames import Frame
from edgecls.streaming.step import TICK_S, Step

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray


def run_finite(step: Step, stop: threading.Event) -> None:
    """Decoding and preprocessing run ahead in a thread; as many inferences are under way as the session allows."""
    for camera in step.cameras:
        step.to_state(camera, State.LIVE, "")
    with (
        closing(read_ahead(_prepared(step), 4)) as prepared,
        # Who waits between two frames wants each answer at once.
        closing(
            overlapped(step.classifier.session, _in_turn(step, prepared, stop), 1 if step.config.max_fps else None)
        ) as answered,
    ):
        for (camera, frame, begun_ns), outputs in answered:
            step.decide(camera, frame, begun_ns, outputs)
            if step.is_over():
                break


def _in_turn(
    step: Step, prepared: Iterable[tuple[Camera, Frame, NDArray[uint8]]], stop: threading.Event
) -> Iterator[tuple[tuple[Camera, Frame, int], NDArray[uint8]]]:
    """What to infer next and with whom, not faster than `max_fps`, until the stream is to end."""
    for camera, frame, pixels in prepared:
        if step.config.max_fps:
            _await_turn(step, camera, stop)
            camera.schedule_next(step.config.max_fps)
        step.beat()
        if stop.is_set() or step.is_over():
            return
        camera.taken += 1
        yield (camera, frame, now_ns()), pixels[None]


def _await_turn(step: Step, camera: Camera, stop: threading.Event) -> None:
    """Wait, alive, until a camera's next decision is due or the stream is to end."""
    while not (stop.is_set() or step.is_over()) and (left_ns := camera.due_ns - now_ns()) > 0:
        step.beat()
        stop.wait(min(left_ns / 1e9, TICK_S))


def _prepared(step: Step) -> Iterator[tuple[Camera, Frame, NDArray[uint8]]]:
    """The frames of all finite sources in turn, with their network inputs."""
    frames = [(camera, iter(camera.source)) for camera in step.cameras]
    while frames:
        for entry in list(frames):
            camera, iterator = entry
            frame = next(iterator, None)
            if frame is None:
                frames.remove(entry)
            else:
                yield camera, frame, step.classifier.card.preprocess(frame.picture)
