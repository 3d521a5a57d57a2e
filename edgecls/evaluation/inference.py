"""Running a session over the samples of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from edgecls.concurrency import ordered_map
from edgecls.data.dataset import Dataset, balanced
from edgecls.data.sources import Source
from edgecls.data.splits import Sample
from edgecls.evaluation.kept_scores import kept_scores
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
    """Logits (N, C) of an artifact for samples, through its own preprocessing and runtime. A run's are kept."""
    samples = list(samples)
    if artifact.is_run:
        scores = run_scores(artifact, source, [sample.key for sample in samples])
    else:
        with artifact.open() as session:
            scores = scores_of(session, prepared(source, samples, artifact.card.preprocess))
    return as_logits(scores, artifact.card.output)


def run_scores(run: Artifact, source: Source, keys: Sequence[str]) -> NDArray[float32]:
    """Scores (N, C) of a run for the images under these keys, as its network gives them; see `kept_scores`."""
    preprocess = run.card.preprocess

    def digest(key: str) -> str:
        try:
            return source.fingerprint(key)
        except OSError:
            source.read_for(key, preprocess)  # says what is wrong with it
            raise

    def read(positions: Sequence[int]) -> Iterator[NDArray[uint8]]:
        return ordered_map(lambda position: preprocess(source.read_for(keys[position], preprocess)), positions)

    return kept_scores(run, list(ordered_map(digest, keys)), read)


def labels_of(samples: Sequence[Sample]) -> NDArray[int64]:
    """Class indices (N,) of samples."""
    import numpy as np

    return np.array([sample.label for sample in samples], np.int64)
