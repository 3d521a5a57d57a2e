"""Which pictures are most useful to label next, and what the others show, learned from those that are labelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgecls.adapting.logistic import fitted_weights
from edgecls.runtime.scores import softmax
from edgecls.vectors import directions

if TYPE_CHECKING:
    from numpy import float32, floating, int64
    from numpy.typing import NDArray

WIDTH = 128
"""Numbers that are left of an embedding: what a pool varies in most."""
WHITENED = 0.25
"""Each of them is divided by its variance to this power, so that the first do not say it all."""
SAMPLE = 2000
ANCHORS = 4000
"""Points of which the neighbours are drawn; of a larger pool a sample of so many."""
NEIGHBOURS = 10
ROUNDS = 2
BLOCK = 4096
SCALE = 8.0
"""Of points of length 1: with this a pull of 1 is the right one. With less a classifier is less sure."""
OWN_DOUBT = 4
"""The power by which the doubt about a point itself counts for what its label is worth."""
LEARNED_FROM = 3000
"""Labelled pictures, the latest, that a fit takes in: it has to keep up with a human."""


def compressed(embeddings: NDArray[floating[Any]], seed: int = 0) -> NDArray[float32]:
    """Embeddings (N, D) as points (N, W) of length 1: the principal components of a sample of their square roots."""
    import numpy as np

    count, width = embeddings.shape
    sample = _rooted(embeddings[np.random.default_rng(seed).permutation(count)[:SAMPLE]])
    centre = sample.mean(axis=0)
    values, vectors = np.linalg.eigh((sample - centre).T @ (sample - centre) / len(sample))
    order = np.argsort(values)[::-1][: min(WIDTH, width)]
    axes = (vectors[:, order] / np.maximum(values[order], 1e-9) ** (WHITENED / 2)).astype(np.float32)
    points = np.empty((count, axes.shape[1]), np.float32)
    for start in range(0, count, BLOCK):  # embeddings of 16 bits may be all that fits the memory
        points[start : start + BLOCK] = (_rooted(embeddings[start : start + BLOCK]) - centre) @ axes
    return directions(points)


def _rooted(embeddings: NDArray[floating[Any]]) -> NDArray[float32]:
    """Rows of length 1, and of each number the root of its size: a few large numbers would count for all others."""
    import numpy as np

    rows = directions(embeddings.astype(np.float32))
    result: NDArray[float32] = np.sign(rows) * np.sqrt(np.abs(rows))
    return result


def smoothed(points: NDArray[float32], seed: int = 0) -> NDArray[float32]:
    """Points (N, W) drawn to their nearest neighbours, twice, again of length 1: a classifier of these has learned
    from the unlabelled ones, too (Wu et al. 2019, Simplifying Graph Convolutional Networks).
    """
    import numpy as np

    count = len(points)
    at = np.sort(np.random.default_rng(seed).permutation(count)[:ANCHORS])
    if len(at) <= NEIGHBOURS:
        return points
    nearest, weights = _neighbours(points, at)
    for _ in range(ROUNDS):
        anchors, drawn = points[at], np.empty_like(points)
        for start in range(0, count, BLOCK):
            block = slice(start, start + BLOCK)
            mean = np.einsum("nk,nkw->nw", weights[block], anchors[nearest[block]])
            drawn[block] = directions((points[block] + mean) / 2)
        points = drawn
    return points


def _neighbours(points: NDArray[float32], at: NDArray[int64]) -> tuple[NDArray[int64], NDArray[float32]]:
    """Of each point (N, W) the nearest anchors besides itself and their weights, both (N, K)."""
    import numpy as np

    count = len(points)
    nearest, weights = np.empty((count, NEIGHBOURS), np.int64), np.empty((count, NEIGHBOURS), np.float32)
    for start in range(0, count, BLOCK // 4):
        block = slice(start, start + BLOCK // 4)
        similar = points[block] @ points[at].T
        mine = np.flatnonzero((at >= start) & (at < start + BLOCK // 4))
        similar[at[mine] - start, mine] = -np.inf
        nearest[block] = np.argpartition(similar, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
        apart = 1 - np.take_along_axis(similar, nearest[block], axis=1)
        weights[block] = np.exp(-apart / np.maximum(np.median(apart, axis=1, keepdims=True), 1e-3))
    near_to = np.bincount(nearest.ravel(), weights.ravel(), minlength=len(at)).astype(np.float32)
    weights /= np.sqrt(near_to)[nearest]  # an anchor that is near to many says less
    weights /= weights.sum(axis=1, keepdims=True)
    return nearest, weights


def gains(points: NDArray[float32], nearest: NDArray[float32], unsure: NDArray[float32]) -> NDArray[float32]:
    """What each point (N, W) is worth as the next to be labelled: how much nearer all of them come to a labelled one,
    whose similarities are `nearest` (N,) now, those the most that a classifier is `unsure` of (N,); and how unsure the
    classifier is of the point itself.
    """
    import numpy as np

    similar = points @ points.T
    similar -= nearest
    np.maximum(similar, 0, out=similar)
    result: NDArray[float32] = (similar @ unsure / len(points) * unsure**OWN_DOUBT).astype(np.float32)
    return result


def learned(
    points: NDArray[float32], positions: list[int], labels: list[str], scale: float = SCALE
) -> tuple[list[str], NDArray[float32]]:
    """The classes of labelled points, sorted, and their probabilities (N, C) for all points (N, W)."""
    import numpy as np

    classes = sorted(set(labels))
    wanted = np.eye(len(classes))[[classes.index(label) for label in labels]]
    origin, share = np.zeros((len(classes), points.shape[1] + 1)), 1 / len(labels)
    shares, held = np.full(len(labels), share), np.full((len(classes), 1), share)
    weights = fitted_weights(scale * points[positions], wanted, shares, origin, held).astype(np.float32)
    return classes, softmax(points @ (scale * weights[:, :-1]).T + weights[:, -1])


def uncertainty(probabilities: NDArray[float32]) -> NDArray[float32]:
    """How far the best class (N, C) is from being sure against the second: from 0 to 1, (N,)."""
    import numpy as np

    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities), np.float32)
    best = np.partition(probabilities, -2, axis=1)[:, -2:]
    result: NDArray[float32] = 1 - (best[:, 1] - best[:, 0])
    return result
