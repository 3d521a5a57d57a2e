"""Explanations of images: where a network looked, and the training images that it finds most like them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.artifact.card import HEAD_FILE
from edgecls.data.dataset import Dataset, open_for_classes, open_recorded
from edgecls.data.sources import Source
from edgecls.errors import ArtifactError, DataError, UsageError
from edgecls.evaluation.images import run_of
from edgecls.evaluation.nearest import NearestImages, Neighbour
from edgecls.imaging.decode import read_image
from edgecls.models.torch_backend import BACKEND as REFERENCE
from edgecls.runtime.explanation import Explainer, Explanation, open_explainer
from edgecls.runtime.store import Artifact
from edgecls.settings import Config, setting

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(Config):
    """Which model explains which class of images, and by which others."""

    model: Path | None = setting(
        None, "A run, a bundle or a model file; the fastest verified bundle of the latest run unless given."
    )
    label: str | None = setting(None, "The class to explain; each image's best one unless given.")
    nearest: int = setting(4, "How many of the most similar training images to show; 0 for none.", low=0, high=20)
    data: Path | None = setting(
        None, "Where to look for them: a folder of class folders or a manifest; the run's training images unless given."
    )


@dataclass(frozen=True)
class ExplainedImage:
    """An image, BGR uint8 (H, W, 3), why it is what the model says, and the training images most like it."""

    path: Path
    image: NDArray[uint8]
    explanation: Explanation
    neighbours: Sequence[Neighbour] = ()


class ImageExplainer:
    """Explains images one by one. A context manager.

    `source` and `classes` are those of the neighbours; `without_neighbours` says why there are none.
    """

    def __init__(self, artifact: Artifact, config: ExplainConfig):
        config.check()
        self._label = config.label
        self._stack = ExitStack()
        self._nearest: NearestImages | None = None
        self._count = config.nearest
        self.source: Source | None = None
        self.classes = artifact.card.classes
        self.without_neighbours: str | None = None
        self._explainer = self._stack.enter_context(_explainer(artifact))
        if config.nearest:
            try:
                self._look_for_neighbours(artifact, config.data)
            except (ArtifactError, DataError, UsageError) as error:
                if config.data is not None:
                    self._stack.close()
                    raise
                self.without_neighbours = str(error)

    @property
    def method(self) -> str:
        """How is explained, in the field's words."""
        return self._explainer.name

    def explain(self, paths: Sequence[Path]) -> Iterator[ExplainedImage]:
        """Explain image files in order. Raises `ImageError` for one that cannot be read, `UsageError` for a class that
        the model does not have.
        """
        preprocess = self._explainer.classifier.card.preprocess
        for path in paths:
            image = read_image(path)
            explanation = self._explainer.explain(image, self._label)
            neighbours = self._nearest.find(preprocess(image), self._count) if self._nearest else []
            yield ExplainedImage(path, image, explanation, neighbours)

    def _look_for_neighbours(self, artifact: Artifact, data: Path | None) -> None:
        dataset = _dataset(artifact, data)
        samples = list(dataset.splits["train"]) or [each for split in dataset.splits.values() for each in split]
        self._nearest = NearestImages(artifact, dataset.source, samples)
        self._stack.callback(self._nearest.close)
        self.source = dataset.source

    def __enter__(self) -> ImageExplainer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()


def most_explainable(artifacts: Sequence[Artifact]) -> Artifact:
    """The first of some artifacts that was exported to be explained, or else the first of all."""
    return next((each for each in artifacts if HEAD_FILE in each.card.lineage.files), artifacts[0])


def _dataset(artifact: Artifact, data: Path | None) -> Dataset:
    if data is None:
        return open_recorded(run_of(artifact).path)
    return open_for_classes(str(data), artifact.card.classes, seed=0)


def _explainer(artifact: Artifact) -> Explainer:
    """By gradients where the artifact is a network of torch, otherwise as a device does it."""
    if artifact.backend is not REFERENCE:
        return open_explainer(artifact)
    from edgecls.models.gradients import GradientExplainer

    return GradientExplainer(artifact)
