"""A last layer, and how it is fitted to labelled embeddings: multinomial logistic regression near what it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import bool_, float32, float64, int64
    from numpy.typing import NDArray

SMOOTHING = 0.1
"""Share of each label spread over all classes, as in training: what keeps confidences what they were."""
PULL = 0.3
"""How strongly a layer is held where it was, against the sum of all images' losses: fewer images move it less."""
NEW_SHARE = 0.25
"""Of what is learned from, at least of the new images: they are few, and they are what it is for."""
STEPS = 300
NEVER = -1e9
"""Added to a score: a probability of 0."""
MEMORY = 10
"""Steps from which L-BFGS knows the curvature."""
SLOPE = 1e-5
"""Largest slope at which the loss counts as least."""


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

    count, (classes, width) = len(labels), start.weight.shape
    scale = float(np.sqrt(np.square(embeddings).sum(axis=1).mean())) or 1.0
    inputs = np.concatenate([embeddings / scale, np.ones((count, 1))], axis=1).astype(np.float64)
    origin = np.concatenate([start.weight * scale, start.bias[:, None]], axis=1).astype(np.float64)
    shares = np.full(count, 1 / count) if importance is None else importance / importance.sum()
    wanted = np.full((count, classes), SMOOTHING / classes)
    wanted[np.arange(count), labels] += 1 - SMOOTHING
    held = np.full((classes, 1), pull / count)
    if free is not None:
        held[free] /= 100
    learning = np.isin(np.arange(classes), labels)
    compared = np.tile(learning, (count, 1)) if free is None else learning | free[labels][:, None]
    wanted *= compared
    wanted /= wanted.sum(axis=1, keepdims=True)
    left_out = np.where(compared, 0.0, NEVER)

    def loss_and_slope(flat: NDArray[float64]) -> tuple[float, NDArray[float64]]:
        weights = flat.reshape(classes, width + 1)
        scores = inputs @ weights.T + left_out
        scores -= scores.max(axis=1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        moved = weights - origin
        loss = -float(shares @ (wanted * logs).sum(axis=1)) + float((held * moved**2).sum()) / 2
        slope = ((np.exp(logs) - wanted) * shares[:, None]).T @ inputs + held * moved
        return loss, (slope * learning[:, None]).ravel()

    fitted = minimized(loss_and_slope, origin.ravel()).reshape(classes, width + 1)
    return Head((fitted[:, :-1] / scale).astype(np.float32), fitted[:, -1].astype(np.float32))


def minimized(
    loss_and_slope: Callable[[NDArray[float64]], tuple[float, NDArray[float64]]], start: NDArray[float64]
) -> NDArray[float64]:
    """Where a smooth convex function is least, from its values and slopes (L-BFGS, Liu and Nocedal 1989)."""
    import numpy as np

    point = start.copy()
    loss, slope = loss_and_slope(point)
    past: list[tuple[NDArray[float64], NDArray[float64]]] = []
    for _ in range(STEPS):
        if np.abs(slope).max() < SLOPE:
            break
        direction = -_curved(slope, past)
        length, fall = 1.0 if past else min(1.0, 1 / float(np.abs(slope).sum())), float(slope @ direction)
        while True:
            there, (lower, steeper) = point + length * direction, loss_and_slope(point + length * direction)
            if lower <= loss + 1e-4 * length * fall:
                break
            length /= 2
            if length < 1e-12:  # as low as numbers of 64 bits tell
                return point
        step, change = there - point, steeper - slope
        if step @ change > 1e-12:
            past = [*past[1 - MEMORY :], (step, change)]
        point, loss, slope = there, lower, steeper
    return point


def _curved(slope: NDArray[float64], past: list[tuple[NDArray[float64], NDArray[float64]]]) -> NDArray[float64]:
    """The slope times the inverse of the curvature that past steps and changes of slope show."""
    result, shares = slope.copy(), []
    for step, change in reversed(past):
        shares.append(float(step @ result) / float(step @ change))
        result -= shares[-1] * change
    if past:
        step, change = past[-1]
        result *= float(step @ change) / float(change @ change)
    for (step, change), share in zip(past, reversed(shares), strict=True):
        result += (share - float(change @ result) / float(step @ change)) * step
    return result


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
