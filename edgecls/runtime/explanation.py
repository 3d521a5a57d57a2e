"""What a network looked at: how much each place of an image speaks for a class.

Class activation maps (Zhou et al. 2016, https://arxiv.org/abs/1512.04150), generalized: the last layers say what they
would of each place of the last feature map. Where a bundle lacks them, parts of the image are covered one by one
(occlusion, Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901), which takes some fifty inferences.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edgecls.artifact.card import HEAD_FILE
from edgecls.backends import LOW_LATENCY, Parallelism
from edgecls.errors import UsageError
from edgecls.runtime.classifier import Classifier, Prediction
from edgecls.runtime.scores import as_logits, softmax
from edgecls.runtime.store import Artifact

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray
    from typing_extensions import Self

Outputs: TypeAlias = "tuple[NDArray[float32], ...]"
"""What `Session.infer_all` gives for one image."""
GRID = 7
"""Parts of an image to each side that are covered one by one."""
COVER_WIDTH = 0.9
"""Of a cover, as a standard deviation, in parts."""
BLUR = 1 / 11
"""Of what covers a part, as a standard deviation, in sides of the image."""
CHUNK = 16
"""Covered images at a time."""
HEAT_OPACITY = 0.45
LEAST_PROBABILITY = 1e-9


@dataclass(frozen=True)
class Explanation:
    """How much each place of an image (H, W) speaks for a class: `heat` (H, W) float32 from 0 to 1, NaN where the
    network does not look.
    """

    prediction: Prediction
    label: str
    heat: NDArray[float32]

    def over(self, image: NDArray[uint8]) -> NDArray[uint8]:
        """The image, BGR uint8 (H, W, 3), below its heat in colours from blue to red; what was not seen is darkened."""
        import numpy as np

        from edgecls.imaging.opencv import cv2

        seen = ~np.isnan(self.heat)
        colours = cv2.applyColorMap((255 * np.nan_to_num(self.heat)).astype(np.uint8), cv2.COLORMAP_JET)
        mixed = cv2.addWeighted(colours, HEAT_OPACITY, image, 1 - HEAT_OPACITY, 0)
        return np.where(seen[:, :, None], mixed, image // 3)


class Explainer(ABC):
    """A model that was opened to explain its answers. A context manager."""

    name: str

    def __init__(self, classifier: Classifier):
        self.classifier = classifier

    def explain(self, image: NDArray[uint8], label: str | None = None) -> Explanation:
        """Classify a decoded image, BGR uint8 (H, W, 3), and say what speaks for a class; for the best one if none is
        named. Raises `UsageError` for a class that the model does not have.
        """
        card = self.classifier.card
        pixels = card.preprocess(image)
        outputs = self.classifier.session.infer_all(pixels[None])
        prediction = self.classifier.decide(outputs[0][0])
        if label is not None and label not in card.classes:
            raise UsageError(f"the model has no class {label!r}; it has {', '.join(card.classes)[:200]}")
        index = prediction.index if label is None else card.classes.index(label)
        heat = card.preprocess.laid_over(self._heat(pixels, outputs, index), *image.shape[:2])
        return Explanation(prediction, card.classes[index], heat)

    def places(self, pixels: NDArray[uint8], index: int) -> NDArray[float32]:
        """What speaks for a class, on any scale, at each place of a coarse grid over a network's input (h, w, 3)."""
        return self._places(pixels, self.classifier.session.infer_all(pixels[None]), index)

    def _heat(self, pixels: NDArray[uint8], outputs: Outputs, index: int) -> NDArray[float32]:
        """What speaks for a class, (h, w) float32 from 0 to 1, at each pixel of the network's input."""
        from edgecls.imaging.opencv import cv2

        places = self._places(pixels, outputs, index)
        height, width = pixels.shape[:2]
        return _from_0_to_1(cv2.resize(places, (width, height), interpolation=cv2.INTER_CUBIC))

    @abstractmethod
    def _places(self, pixels: NDArray[uint8], outputs: Outputs, index: int) -> NDArray[float32]:
        """See `places`; `outputs` are what the session gave for the input."""

    def close(self) -> None:
        """Free the runtime."""
        self.classifier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class ActivationExplainer(Explainer):
    """What the last layers say of each place of the last feature map: one inference."""

    name = "class activation map"

    def __init__(self, classifier: Classifier, head: Path, threads: int | None = None):
        import onnxruntime

        super().__init__(classifier)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        self._head = onnxruntime.InferenceSession(str(head), options, providers=["CPUExecutionProvider"])
        self._taken = self._head.get_inputs()[0].name

    def _places(self, pixels: NDArray[uint8], outputs: Outputs, index: int) -> NDArray[float32]:  # noqa: ARG002
        _, [feature_map] = outputs
        channels, height, width = feature_map.shape
        each_place = feature_map.reshape(channels, -1).T[:, :, None, None]
        [scores] = self._head.run(None, {self._taken: each_place})
        return as_logits(scores, self.classifier.card.output)[:, index].reshape(height, width)


class OcclusionExplainer(Explainer):
    """How much less the network is sure of a class where a part of the image is blurred; one inference for each."""

    name = "occlusion"

    def _places(self, pixels: NDArray[uint8], outputs: Outputs, index: int) -> NDArray[float32]:  # noqa: ARG002
        import numpy as np

        from edgecls.imaging.opencv import cv2

        height, width = pixels.shape[:2]
        blurred = cv2.GaussianBlur(pixels, (0, 0), max(height, width) * BLUR)
        covers = _covers(height, width)
        lost = []
        for first in range(0, len(covers), CHUNK):
            weights = covers[first : first + CHUNK, :, :, None]
            covered = (pixels * (1 - weights) + blurred * weights).astype(np.uint8)
            scores = as_logits(self.classifier.session.infer(covered), self.classifier.card.output)
            probabilities = np.maximum(softmax(scores)[:, index], LEAST_PROBABILITY)
            lost.append(-np.log(probabilities))
        return np.concatenate(lost).reshape(GRID, GRID).astype(np.float32)


def _covers(height: int, width: int) -> NDArray[float32]:
    """How much each part's cover hides of each pixel, (GRID * GRID, height, width), row by row."""
    import numpy as np

    def along(length: int) -> NDArray[float32]:
        part = length / GRID
        centres = (np.arange(GRID) + 0.5) * part
        distances = (np.arange(length)[None] + 0.5 - centres[:, None]) / (COVER_WIDTH * part)
        return np.exp(-0.5 * distances**2).astype(np.float32)

    rows, columns = along(height), along(width)
    covers = rows[:, None, :, None] * columns[None, :, None, :]
    return covers.reshape(GRID * GRID, height, width)


def open_explainer(artifact: Artifact, parallelism: Parallelism = LOW_LATENCY) -> Explainer:
    """Open a bundle, a bare model file or a run to explain its answers, by class activation maps where it was exported
    with what they need, otherwise by occlusion. Raises as `Artifact.open` does.
    """
    if HEAD_FILE in artifact.card.lineage.files and artifact.backend.gives_inner_tensors:
        session = artifact.open(parallelism, tensors=("feature_map",))
        return ActivationExplainer(
            Classifier(artifact.card, session, artifact.path), artifact.path / HEAD_FILE, parallelism.threads
        )
    return OcclusionExplainer(Classifier(artifact.card, artifact.open(parallelism, cached=True), artifact.path))


def _from_0_to_1(values: NDArray[float32]) -> NDArray[float32]:
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else values * 0
