"""A last layer, and how it is fitted to labelled embeddings: near what it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecls.adapting.logistic import fitted_weights

if TYPE_CHECKING:
    from numpy import bool_, float32, int64
    from numpy.typing import NDArray

SMOOTHING = 0.1
"""Share of each label spread over all classes, as in training: what keeps confidences what they were."""
PULL = 0.3
"""How strongly a layer is held where it was, against the sum of all images' losses: fewer images move it less."""
NEW_SHARE = 0.25
"""Of what is learned from, at least of the new images: they are few, and they are what it is for."""


@dataclass(frozen=True)
class Head:
    """A last layer: `weight` (C, D) and `bias` (C,) float32, scores (N, C) of embeddings (N, D)."""

    weight: NDArray[float32]
    bias: NDArray[float32]

    def scores(self, embeddings: NDArray[float32]) -> NDArray[float32]:
        """Scores (N, C) float32 of embeddings (N, D)."""
        result: NDArray[float32] = (embeddings @ self.weight.T + self.bias).astype("float32", copy=False)
        return result

    def for_classes(self, sources: list[int | None]) -> Head:
        """The layer for other classes: each takes the weights of the class at its index here, or, where that is None,
        the mean of all, from which a new class begins.
        """
        import numpy as np

        rows = [self.weight.mean(axis=0) if i is None else self.weight[i] for i in sources]
        biases = [self.bias.mean() if i is None else self.bias[i] for i in sources]
        return Head(np.array(rows, np.float32), np.array(biases, np.float32))


def fit_head(
    start: Head,
    embeddings: NDArray[float32],
    labels: NDArray[int64],
    importance: NDArray[float32] | None = None,
    free: NDArray[bool_] | None = None,
    pull: float = PULL,
) -> Head:
    """The layer with the least loss on embeddings (N, D) with labels (N,), held near `start`.

    `importance` (N,) weighs the images, `free` (C,) says which classes are new and held only so much that they stay
    finite. Classes without an image keep their weights, and images of known classes are not compared with them: what is
    learned to answer more often than they do, would be answered to their images too. The loss is convex: the same
    images give the same layer.
    """
    import numpy as np

    count, classes = len(labels), len(start.weight)
    scale = float(np.sqrt(np.square(embeddings).sum(axis=1).mean())) or 1.0
    origin = np.concatenate([start.weight * scale, start.bias[:, None]], axis=1).astype(np.float64)
    shares = np.full(count, 1 / count) if importance is None else importance / importance.sum()
    wanted = np.full((count, classes), SMOOTHING / classes)
    wanted[np.arange(count), labels] += 1 - SMOOTHING
    held = np.full((classes, 1), pull / count)
    if free is not None:
        held[free] /= 100
    learning = np.isin(np.arange(classes), labels)
    compared = np.tile(learning, (count, 1)) if free is None else learning | free[labels][:, None]
    fitted = fitted_weights(embeddings / scale, wanted, shares, origin, held, compared, ~learning)
    return Head((fitted[:, :-1] / scale).astype(np.float32), fitted[:, -1].astype(np.float32))


def importance_of(labels: NDArray[int64], new: NDArray[bool_], balanced: bool = False) -> NDArray[float32]:
    """How much each image (N,) counts: the new ones together at least a quarter, and, if so asked, classes equally."""
    import numpy as np

    importance = np.ones(len(labels))
    if balanced:
        importance /= np.bincount(labels)[labels]
    old, fresh = importance[~new].sum(), importance[new].sum()
    if fresh and old:
        importance[new] *= max(1.0, NEW_SHARE / (1 - NEW_SHARE) * old / fresh)
    result: NDArray[float32] = importance.astype(np.float32)
    return result
