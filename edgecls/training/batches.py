"""Batches of training images: in random order, augmented, read ahead in threads, and mixed where that is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.concurrency import chunked, ordered_map
from edgecls.data.dataset import Dataset
from edgecls.data.splits import Sample
from edgecls.files import write_bytes
from edgecls.imaging.preprocess import Preprocess
from edgecls.training.augment import Augmentation
from edgecls.training.kept import Keeping, KeptImages

if TYPE_CHECKING:
    import torch
    from numpy import int64, uint8
    from numpy.typing import NDArray

    Batch = tuple[torch.Tensor, torch.Tensor]
    Draw = Callable[[Sequence[int]], NDArray[int64]]

PREVIEW_FILE = "augmented.jpg"
PREVIEW_COLUMNS = 8
SPARE = 1.15
"""Images are kept this much larger than the network's input, so that a zoomed crop stays sharp."""


class Order:
    """Which training images come when: a new random order each epoch, the same for the same seed.

    Of `processes` that train together each takes its share of every batch, by its `rank`. An incomplete last batch is
    left out; a data set smaller than one batch gives one smaller batch. `draw` makes another order of an epoch's visits
    from a seed.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1, draw: Draw | None = None
    ):
        self._count, self._batch_size, self._seed = count, min(batch_size, count), seed
        self._rank, self._processes, self._draw = rank, processes, draw

    def __len__(self) -> int:
        """Batches of an epoch."""
        return max(1, self._count // self._batch_size)

    def batches(self, epoch: int, skip: int = 0) -> Iterator[NDArray[int64]]:
        """Visits in each batch but the first `skip`: a position, plus the count for each time that it came before."""
        import numpy as np

        if self._draw:
            order = self._draw((self._seed, epoch))
        else:
            order = np.random.default_rng((self._seed, epoch)).permutation(self._count)
        for start in range(skip * self._batch_size, len(self) * self._batch_size, self._batch_size):
            yield order[start : start + self._batch_size][self._rank :: self._processes]


class TrainingBatches:
    """Augmented batches of a data set's training images, the same for the same seed however many threads there are.

    Images are decoded once as far as `keeping` allows; see `KeptImages`.
    """

    def __init__(
        self,
        dataset: Dataset,
        preprocess: Preprocess,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        keeping: Keeping = "auto",
        draw: Draw | None = None,
    ):
        self._dataset = dataset
        self._preprocess = preprocess
        self._augmentation = augmentation
        self._seed = seed
        self._samples: Sequence[Sample] = dataset.splits["train"]
        self._order = Order(len(self._samples), batch_size, seed, rank, processes, draw)
        self._mix = _mixer(augmentation, len(dataset.classes))
        self._least = Preprocess(
            math.ceil(SPARE * preprocess.height_px), math.ceil(SPARE * preprocess.width_px), resize="stretch"
        )
        self._kept = KeptImages(keeping, processes)

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """Yield images (N, h, w, 3) RGB with labels (N,), all but the first `skip` batches of an epoch.

        Images are uint8; where they are mixed they are float32 of the same range, and the labels are shares (N, C).
        """
        import numpy as np
        import torch

        def picked() -> Iterator[int]:
            for visits in self._order.batches(number, skip):
                yield from visits.tolist()

        def view(visit: int) -> tuple[NDArray[uint8], int]:
            sample = self._samples[visit % len(self._samples)]
            generator = np.random.default_rng((self._seed, number, visit))
            image = self._augmentation(self._image(sample), self._preprocess, generator)
            return self._preprocess(image), sample.label

        size = len(next(self._order.batches(number)))
        for batch in chunked(ordered_map(view, picked()), size):
            images = torch.from_numpy(np.stack([image for image, _ in batch]))
            labels = torch.tensor([label for _, label in batch])
            yield self._mix(images, labels) if self._mix else (images, labels)

    def val_inputs(self, samples: Iterable[Sample]) -> Iterator[NDArray[uint8]]:
        """Validation images as the network takes them, (h, w, 3) uint8 RGB, prepared once."""
        source, preprocess = self._dataset.source, self._preprocess

        def prepared(sample: Sample) -> NDArray[uint8]:
            key = f"val/{sample.key}"
            return self._kept.get(key, lambda: preprocess(source.read_for(sample.key, preprocess)))

        return ordered_map(prepared, samples)

    def _image(self, sample: Sample) -> NDArray[uint8]:
        """What is augmented."""
        return self._kept.get(
            f"train/{sample.key}", lambda: self._shrink(self._dataset.source.read_for(sample.key, self._least))
        )

    def _shrink(self, image: NDArray[uint8]) -> NDArray[uint8]:
        from edgecls.imaging.opencv import cv2

        height, width = image.shape[:2]
        scale = SPARE * max(self._preprocess.height_px / height, self._preprocess.width_px / width)
        if scale >= 1:
            return image
        return cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)


def _mixer(augmentation: Augmentation, classes: int) -> Callable[[torch.Tensor, torch.Tensor], Batch] | None:
    """Torchvision's MixUp, CutMix, or one of them at random, for batches with channels last."""
    if not (augmentation.mixup or augmentation.cutmix):
        return None
    from edgecls.models.vision import import_torchvision

    import_torchvision()
    from torchvision.transforms import v2

    kinds = [(v2.MixUp, augmentation.mixup), (v2.CutMix, augmentation.cutmix)]
    mix = v2.RandomChoice([kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha])

    def mixed(images: torch.Tensor, labels: torch.Tensor) -> Batch:
        blended, shares = mix(images.permute(0, 3, 1, 2).float(), labels)
        return blended.permute(0, 2, 3, 1), shares

    return mixed


def write_preview(images: torch.Tensor, folder: Path) -> None:
    """Write what the network sees, images (N, h, w, 3) RGB as they are augmented, side by side to `augmented.jpg`."""
    import numpy as np

    from edgecls.imaging.opencv import cv2

    tiles = images[: PREVIEW_COLUMNS * 4].round().clamp(0, 255).byte().numpy()
    missing = -len(tiles) % PREVIEW_COLUMNS
    tiles = np.concatenate([tiles, np.full((missing, *tiles.shape[1:]), 255, np.uint8)])
    rows = [np.concatenate(list(tiles[i : i + PREVIEW_COLUMNS]), axis=1) for i in range(0, len(tiles), PREVIEW_COLUMNS)]
    _, content = cv2.imencode(".jpg", np.concatenate(rows)[:, :, ::-1])
    write_bytes(folder / PREVIEW_FILE, content.tobytes())
