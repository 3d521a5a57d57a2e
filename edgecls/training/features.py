"""A frozen backbone's features, computed once: what the last layer takes in, kept for all epochs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from edgecls.concurrency import chunked
from edgecls.data.dataset import Dataset
from edgecls.evaluation.inference import labels_of, prepared
from edgecls.imaging.preprocess import Preprocess
from edgecls.runtime.pipeline import BATCH
from edgecls.training.batches import Order

if TYPE_CHECKING:
    import torch
    from numpy import float32, uint8
    from numpy.typing import NDArray

    from edgecls.training.batches import Batch


class Backbone:
    """All of a network but its last layer, in evaluation mode. `module` takes raw images, `head` is a layer's name."""

    def __init__(self, module: torch.nn.Module, network: torch.nn.Module, head: str):
        self._module, self._head = module, head
        self._layer = network.get_submodule(head)

    def features(self, images: Iterable[NDArray[uint8]]) -> torch.Tensor:
        """What the last layer takes in, (N, ...) float32, for raw inputs (h, w, 3)."""
        import numpy as np
        import torch

        seen: list[torch.Tensor] = []
        hook = self._layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
        device = next(self._module.parameters()).device
        self._module.eval()
        try:
            with torch.no_grad():
                for batch in chunked(images, BATCH):
                    self._module(torch.from_numpy(np.stack(batch)).to(device))
        finally:
            hook.remove()
        return torch.cat(seen)

    def ends_with_head(self, images: NDArray[uint8]) -> bool:
        """Whether the last layer's output is the network's: some networks go on behind it."""
        import torch

        device = next(self._module.parameters()).device
        with torch.no_grad():
            self._module.eval()
            scores = self._module(torch.from_numpy(images).to(device))
            inside = self._layer(self.features(images))
        return inside.shape == scores.shape and bool(torch.allclose(inside, scores, atol=1e-4))


class FrozenFeatures:
    """Training and validation on features: the images as they are and, where that is the same class, mirrored."""

    def __init__(
        self, backbone: Backbone, dataset: Dataset, preprocess: Preprocess, mirror: bool, order: Order, seed: int
    ):
        import torch

        train, val = dataset.splits["train"], dataset.splits["val"]
        views = [backbone.features(prepared(dataset.source, train, preprocess))]
        if mirror:
            views.append(backbone.features(image[:, ::-1] for image in prepared(dataset.source, train, preprocess)))
        self._views = torch.stack(views)
        self._labels = torch.from_numpy(labels_of(train))
        self._val = backbone.features(prepared(dataset.source, val, preprocess))
        self._order, self._seed = order, seed

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """Yield features (N, ...) with labels (N,), all but the first `skip` batches of an epoch."""
        import numpy as np

        drawn = np.random.default_rng((self._seed, number, 0)).integers(len(self._views), size=len(self._labels))
        for visits in self._order.batches(number, skip):
            turns, positions = np.divmod(visits, len(self._labels))
            views = (drawn[positions] + turns) % len(self._views)  # who comes again comes from the other side
            yield self._views[views, positions], self._labels[positions]

    def val_scores(self, head: Any) -> NDArray[float32]:
        """Scores (N, C) of a last layer for the validation images."""
        import torch

        with torch.no_grad():
            scores: torch.Tensor = head(self._val).float()
        return scores.cpu().numpy()
