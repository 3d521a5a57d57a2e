"""Random variation of training images, in front of the preprocessing that every stage shares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecls.data.dataset import Dataset
from edgecls.data.parallel import chunked, ordered_map
from edgecls.data.splits import Sample
from edgecls.preprocess import Preprocess

if TYPE_CHECKING:
    from numpy import int64, uint8
    from numpy.random import Generator
    from numpy.typing import NDArray

CACHE_BYTES = 2 << 30
"""Decoded training images are kept up to this size; what does not fit is decoded again each epoch."""
SPARE = 1.15
"""Images are kept this much larger than the network's input, so that a zoomed crop stays sharp."""


@dataclass(frozen=True)
class Augmentation:
    """One random affine map (crop, zoom, aspect, rotation, mirror) and a random change of brightness and contrast.

    `area` is the range of the kept part of the image, `aspect` the largest stretch, as in the Inception recipe (Szegedy
    et al. 2015, "Going deeper with convolutions"), with milder values for small data sets.
    """

    area: tuple[float, float] = (0.45, 1.0)
    aspect: float = 1.25
    rotate_deg: float = 8.0
    mirror: bool = True
    contrast: float = 0.2
    brightness: float = 25.0

    def __call__(self, image: NDArray[uint8], preprocess: Preprocess, generator: Generator) -> NDArray[uint8]:
        """A random view of a BGR image (H, W, 3), at the size of the network's input, still BGR uint8."""
        import numpy as np

        from edgecls.opencv import cv2

        height, width = image.shape[:2]
        out_h, out_w = preprocess.height_px, preprocess.width_px
        side = math.sqrt(generator.uniform(*self.area))
        stretch = math.exp(generator.uniform(-1, 1) * math.log(self.aspect) / 2)
        fit = min(width / out_w, height / out_h)
        step_x, step_y = fit * side * stretch, fit * side / stretch
        if self.mirror and generator.random() < 0.5:
            step_x = -step_x
        centre_x = width / 2 + generator.uniform(-1, 1) * max(0.0, width - abs(step_x) * out_w) / 2
        centre_y = height / 2 + generator.uniform(-1, 1) * max(0.0, height - step_y * out_h) / 2
        angle = math.radians(generator.uniform(-self.rotate_deg, self.rotate_deg))
        cos, sin = math.cos(angle), math.sin(angle)
        matrix = np.array([[step_x * cos, -step_y * sin, 0.0], [step_x * sin, step_y * cos, 0.0]])
        matrix[:, 2] = np.array([centre_x, centre_y]) - matrix[:, :2] @ ((out_w - 1) / 2, (out_h - 1) / 2)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        view = cv2.warpAffine(image, matrix, (out_w, out_h), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        gain = 1 + generator.uniform(-self.contrast, self.contrast)
        return cv2.convertScaleAbs(view, alpha=gain, beta=generator.uniform(-1, 1) * self.brightness)


class TrainingBatches:
    """Augmented batches of a data set's training images, the same for the same seed however many threads there are."""

    def __init__(
        self, dataset: Dataset, preprocess: Preprocess, augmentation: Augmentation, batch_size: int, seed: int
    ):
        self._dataset = dataset
        self._preprocess = preprocess
        self._augmentation = augmentation
        self._batch_size = batch_size
        self._seed = seed
        self._samples: Sequence[Sample] = dataset.splits["train"]
        self._cache: dict[str, NDArray[uint8]] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return max(1, len(self._samples) // self._batch_size)

    def epoch(self, number: int) -> Iterator[tuple[NDArray[uint8], NDArray[int64]]]:
        """Yield (images (N, h, w, 3) uint8 RGB, labels (N,)) in a new random order.

        An incomplete last batch is left out; a data set smaller than one batch gives one smaller batch.
        """
        import numpy as np

        order = np.random.default_rng((self._seed, number)).permutation(len(self._samples))
        picked = [(int(index), self._samples[index]) for index in order[: len(self) * self._batch_size]]

        def view(item: tuple[int, Sample]) -> tuple[NDArray[uint8], int]:
            index, sample = item
            generator = np.random.default_rng((self._seed, number, index))
            image = self._augmentation(self._image(sample), self._preprocess, generator)
            return self._preprocess(image), sample.label

        for batch in chunked(ordered_map(view, picked), self._batch_size):
            yield np.stack([image for image, _ in batch]), np.array([label for _, label in batch], np.int64)

    def _image(self, sample: Sample) -> NDArray[uint8]:
        image = self._cache.get(sample.key)
        if image is None:
            image = self._shrink(self._dataset.read(sample))
            if self._cached_bytes + image.nbytes <= CACHE_BYTES:
                self._cached_bytes += image.nbytes
                self._cache[sample.key] = image
        return image

    def _shrink(self, image: NDArray[uint8]) -> NDArray[uint8]:
        from edgecls.opencv import cv2

        height, width = image.shape[:2]
        scale = SPARE * max(self._preprocess.height_px / height, self._preprocess.width_px / width)
        if scale >= 1:
            return image
        return cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
