"""Running a session over the samples of a data set."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from edgecls.data.dataset import Dataset, balanced
from edgecls.data.parallel import chunked, ordered_map
from edgecls.data.sources import Source
from edgecls.data.splits import Sample
from edgecls.errors import BackendError
from edgecls.evaluate.metrics import as_logits
from edgecls.preprocess import Preprocess
from edgecls.runs import Artefact

if TYPE_CHECKING:
    from numpy import float32, int64, uint8
    from numpy.typing import NDArray

    from edgecls.backends import Pending, Session

T = TypeVar("T")

BATCH = 32
GOLDEN_IMAGES = 16


def prepared(source: Source, samples: Iterable[Sample], preprocess: Preprocess) -> Iterator[NDArray[uint8]]:
    """Each sample as the raw network input (h, w, 3) uint8 RGB, read ahead in threads."""
    return ordered_map(lambda sample: preprocess(source.read(sample.key)), samples)


def golden_images(dataset: Dataset, preprocess: Preprocess) -> NDArray[uint8]:
    """The raw inputs (K, h, w, 3) of held-out images, of every class as far as they go, that an artefact carries."""
    import numpy as np

    drawn = balanced(dataset.splits["test"], GOLDEN_IMAGES, dataset.seed)
    return np.stack(list(prepared(dataset.source, drawn, preprocess)))


def scores_of(session: Session, images: Iterable[NDArray[uint8]]) -> NDArray[float32]:
    """Scores (N, C) float32 of raw inputs (h, w, 3), computed batch by batch."""
    import numpy as np

    batches = [session.infer(np.stack(batch)) for batch in chunked(images, BATCH)]
    return np.concatenate(batches) if batches else np.empty((0, len(session.card.classes)), np.float32)


def answers(artefact: Artefact, source: Source, samples: Iterable[Sample]) -> NDArray[float32]:
    """Logits (N, C) of an artefact for samples, through its own preprocessing and runtime."""
    with artefact.open() as session:
        scores = scores_of(session, prepared(source, samples, artefact.card.preprocess))
    return as_logits(scores, artefact.card.output)


def overlapped(
    session: Session, items: Iterable[tuple[T, NDArray[uint8]]]
) -> Generator[tuple[T, NDArray[float32]], None, None]:
    """Scores (N, C) of raw inputs (N, h, w, 3) with what came with these, in order.

    As many inferences are under way as the session allows, also while `items` makes the next input and while the caller
    looks at the last scores. Nothing is left under way when the generator is closed.
    """
    pending: deque[tuple[T, Pending]] = deque()
    try:
        for tag, images in items:
            pending.append((tag, session.start(images)))
            if len(pending) >= session.depth:
                tag, started = pending.popleft()
                yield tag, started.result()
        while pending:
            tag, started = pending.popleft()
            yield tag, started.result()
    finally:
        with suppress(BackendError):  # closed meanwhile
            for _, started in pending:
                started.result()


def pipelined(session: Session, images: Iterable[NDArray[uint8]]) -> Iterator[NDArray[float32]]:
    """Scores (1, C) of raw inputs (h, w, 3) in order; see `overlapped`."""
    return (scores for _, scores in overlapped(session, ((None, image[None]) for image in images)))


def labels_of(samples: Sequence[Sample]) -> NDArray[int64]:
    """Class indices (N,) of samples."""
    import numpy as np

    return np.array([sample.label for sample in samples], np.int64)
