"""Running a session over the samples of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from edgecls.concurrency import ordered_map
from edgecls.data.dataset import Dataset, balanced
from edgecls.data.sources import Source
from edgecls.data.splits import Sample
from edgecls.imaging.preprocess import Preprocess
from edgecls.runtime.pipeline import scores_of
from edgecls.runtime.scores import as_logits
from edgecls.runtime.store import Artifact

if TYPE_CHECKING:
    from numpy import float32, int64, uint8
    from numpy.typing import NDArray


T = TypeVar("T")

GOLDEN_IMAGES = 16


def prepared(source: Source, samples: Iterable[Sample], preprocess: Preprocess) -> Iterator[NDArray[uint8]]:
    """Each sample as the raw network input (h, w, 3) uint8 RGB, read ahead in threads."""
    return ordered_map(lambda sample: preprocess(source.read_for(sample.key, preprocess)), samples)


def golden_images(dataset: Dataset, preprocess: Preprocess) -> NDArray[uint8]:
    """The raw inputs (K, h, w, 3) of held-out images, of every class as far as they go, that an artifact carries."""
    import numpy as np

    drawn = balanced(dataset.splits["test"], GOLDEN_IMAGES, dataset.seed)
    return np.stack(list(prepared(dataset.source, drawn, preprocess)))


def scores_on(artifact: Artifact, source: Source, samples: Iterable[Sample]) -> NDArray[float32]:
    """Logits (N, C) of an artifact for samples, through its own preprocessing and runtime."""
    with artifact.open() as session:
        scores = scores_of(session, prepared(source, samples, artifact.card.preprocess))
    return as_logits(scores, artifact.card.output)


def labels_of(samples: Sequence[Sample]) -> NDArray[int64]:
    """Class indices (N,) of samples."""
    import numpy as np

    return np.array([sample.label for sample in samples], np.int64)
