"""Running a session over the samples of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from edgecls.data.dataset import Dataset, balanced
from edgecls.data.parallel import chunked, ordered_map
from edgecls.data.sources import Source
from edgecls.data.splits import Sample
from edgecls.preprocess import Preprocess
from edgecls.runs import Artefact

if TYPE_CHECKING:
    from numpy import float32, int64, uint8
    from numpy.typing import NDArray

    from edgecls.backends import Session

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
    """Scores (N, C) of an artefact for samples, through its own preprocessing and runtime."""
    with artefact.open() as session:
        return scores_of(session, prepared(source, samples, artefact.card.preprocess))


def pipelined(session: Session, images: Iterable[NDArray[uint8]]) -> Iterator[NDArray[float32]]:
    """Scores (1, C) of raw inputs (h, w, 3) in order, as many of them under way at once as the session allows."""
    under_way = 0
    for image in images:
        if under_way == session.depth:
            yield session.collect()
            under_way -= 1
        session.submit(image[None])
        under_way += 1
    for _ in range(under_way):
        yield session.collect()


def labels_of(samples: Sequence[Sample]) -> NDArray[int64]:
    """Class indices (N,) of samples."""
    import numpy as np

    return np.array([sample.label for sample in samples], np.int64)
