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
KEPT_BYTES = 256 * 2**20
"""Of decoded images in memory: 1,700 at 224 pixels."""


def prepared(source: Source, samples: Iterable[Sample], preprocess: Preprocess) -> Iterator[NDArray[uint8]]:
    """Each sample as the raw network input (h, w, 3) uint8 RGB, read ahead in threads."""
    return ordered_map(lambda sample: preprocess(source.read_for(sample.key, preprocess)), samples)


def golden_images(dataset: Dataset, preprocess: Preprocess) -> NDArray[uint8]:
    """The raw inputs (K, h, w, 3) of held-out images, of every class as far as they go, that an artifact carries."""
    import numpy as np

    drawn = balanced(dataset.splits["test"], GOLDEN_IMAGES, dataset.seed)
    return np.stack(list(prepared(dataset.source, drawn, preprocess)))


class PreparedImages:
    """Images of a source as raw network inputs (h, w, 3) uint8 RGB, each decoded once.

    What fits into `kept_bytes` stays in memory; the others are decoded again at each pass.
    """

    def __init__(self, source: Source, keys: Sequence[str], preprocess: Preprocess, kept_bytes: int = KEPT_BYTES):
        self.source, self.keys = source, keys
        self._preprocess, self._room_bytes = preprocess, kept_bytes
        self._kept: dict[int, NDArray[uint8]] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def at(self, positions: Iterable[int]) -> Iterator[NDArray[uint8]]:
        """The images at these positions, in this order, read ahead in threads. Raises `ImageError`."""
        return ordered_map(self._image, positions)

    def part(self, start: int, stop: int) -> Iterator[NDArray[uint8]]:
        """The images from `start` on, without `stop`."""
        return self.at(range(start, min(stop, len(self))))

    def _image(self, position: int) -> NDArray[uint8]:
        if (kept := self._kept.get(position)) is not None:
            return kept
        image = self._preprocess(self.source.read_for(self.keys[position], self._preprocess))
        if image.nbytes <= self._room_bytes:  # another thread may see the same room: a few images more are no matter
            self._room_bytes -= image.nbytes
            self._kept[position] = image
        return image

    def digests(self, count: int) -> list[str]:
        """SHA-256 of the first images as they are stored. Raises `ImageError` for one that cannot be read."""
        return list(ordered_map(self._digest, self.keys[:count]))

    def _digest(self, key: str) -> str:
        try:
            return self.source.fingerprint(key)
        except OSError:
            self.source.read_for(key, self._preprocess)  # says what is wrong with it
            raise


def scores_on(artifact: Artifact, source: Source, samples: Iterable[Sample]) -> NDArray[float32]:
    """Logits (N, C) of an artifact for samples, through its own preprocessing and runtime. A run's are kept."""
    if artifact.is_run:
        images = PreparedImages(source, [sample.key for sample in samples], artifact.card.preprocess, kept_bytes=0)
        scores = run_scores(artifact, images, len(images))
    else:
        with artifact.open() as session:
            scores = scores_of(session, prepared(source, samples, artifact.card.preprocess))
    return as_logits(scores, artifact.card.output)


def run_scores(run: Artifact, images: PreparedImages, count: int) -> NDArray[float32]:
    """Scores (N, C) of a run for the first `count` images, as its network gives them; see `kept_scores`."""
    return kept_scores(run, images.digests(count), images.at)


def labels_of(samples: Sequence[Sample]) -> NDArray[int64]:
    """Class indices (N,) of samples."""
    import numpy as np

    return np.array([sample.label for sample in samples], np.int64)
