"""Many inferences: batch by batch, or overlapped with the work around them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from edgecls.concurrency import chunked, ordered_map, usable_cpus
from edgecls.errors import BackendError

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

    from edgecls.backends import Pending, Session

T = TypeVar("T")
R = TypeVar("R")

BATCH = 32
ANSWERS_AHEAD = 128
"""Answers a thread that wait for an image before them, which may be a hundred times as large."""


def scores_of(session: Session, images: Iterable[NDArray[uint8]]) -> NDArray[float32]:
    """Scores (N, C) float32 of raw inputs (h, w, 3), computed batch by batch."""
    return outputs_of(session, images)[0]


def outputs_of(
    session: Session, images: Iterable[NDArray[uint8]], on_progress: Callable[[int], None] = lambda _: None
) -> tuple[NDArray[float32], ...]:
    """What `Session.infer_all` gives for raw inputs (h, w, 3), computed batch by batch: scores (N, C) and each of the
    session's tensors, (0, 0) of no images. `on_progress` hears how many images are done.
    """
    import numpy as np

    batches = []
    done = 0
    for batch in chunked(images, BATCH):
        batches.append(session.infer_all(np.stack(batch)))
        on_progress(done := done + len(batch))
    if not batches:
        nothing = np.empty((0, 0), np.float32)
        return np.empty((0, len(session.card.classes)), np.float32), *(nothing for _ in session.tensors)
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))


def overlapped(
    session: Session, items: Iterable[tuple[T, NDArray[uint8]]], depth: int | None = None
) -> Generator[tuple[T, tuple[NDArray[float32], ...]], None, None]:
    """Outputs, scores (N, C) first, of raw inputs (N, h, w, 3) with what came with these, in order.

    As many inferences are under way as the session allows, or `depth`, also while `items` makes the next input and
    while the caller looks at the last scores. Nothing is left under way when the generator is closed.
    """
    pending: deque[tuple[T, Pending]] = deque()
    try:
        for tag, images in items:
            pending.append((tag, session.start(images)))
            if len(pending) >= (depth or session.depth):
                tag, started = pending.popleft()
                yield tag, started.results()
        while pending:
            tag, started = pending.popleft()
            yield tag, started.results()
    finally:
        with suppress(BackendError):  # closed meanwhile
            for _, started in pending:
                started.result()


def each_answered(
    session: Session, items: Iterable[T], answer: Callable[[T], R], cpus: int | None = None
) -> Generator[R, None, None]:
    """`answer(item)` in order, where that decodes an image and has the session infer.

    Threads take an item each from its file to its answer, so that inferences come in the order in which decoding ends
    and a large image holds up nobody but itself. One thread a processor, of `cpus` or else of all, computes; as many
    more as the session has inferences under way wait for these. Pixels are held of so many images, answers of so many
    more.
    """
    threads = (cpus or usable_cpus()) + session.depth
    return ordered_map(answer, items, threads, ANSWERS_AHEAD * threads)


def pipelined(session: Session, images: Iterable[NDArray[uint8]]) -> Iterator[NDArray[float32]]:
    """Scores (1, C) of raw inputs (h, w, 3) in order; see `overlapped`."""
    return (scores for _, (scores, *_) in overlapped(session, ((None, image[None]) for image in images)))
