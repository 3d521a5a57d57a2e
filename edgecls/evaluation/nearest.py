"""The images of a data set that a network finds most like another image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecls.data.sources import Source
from edgecls.data.splits import Sample
from edgecls.errors import DataError
from edgecls.evaluation.embeddings import embeddings_of
from edgecls.runtime.store import Artifact
from edgecls.vectors import directions

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Neighbour:
    """An image of the data set: its key, its class, and the cosine of the angle between its embedding and the other's,
    1 for the same.
    """

    key: str
    label: int
    similarity: float


class NearestImages:
    """Finds images by embeddings, which are computed once for a model and images and kept on this machine.

    `artifact` must give embeddings; raises as `Artifact.open` does.
    """

    def __init__(self, artifact: Artifact, source: Source, samples: Sequence[Sample]):
        self._samples = [sample for sample in samples if source.has(sample.key)]
        if not self._samples:
            raise DataError(f"the images in {source.location} are gone; say where they are with `data`")
        self._session = artifact.open(tensors=("embedding",))
        self._embeddings = directions(embeddings_of(artifact, source, self._samples, session=self._session))

    def find(self, pixels: NDArray[uint8], count: int) -> list[Neighbour]:
        """The `count` images most like a raw network input (h, w, 3), the nearest first."""
        _, embedding = self._session.infer_all(pixels[None])
        similarities = self._embeddings @ directions(embedding)[0]
        best = (-similarities).argsort(kind="stable")[:count]
        return [
            Neighbour(self._samples[index].key, self._samples[index].label, float(similarities[index]))
            for index in best
        ]

    def close(self) -> None:
        """Free the runtime."""
        self._session.close()
