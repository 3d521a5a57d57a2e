"""Which pictures are most useful to label next, and what the others show, learned from those that are labelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgecls.adapting.logistic import fitted_weights
from edgecls.runtime.scores import softmax

if TYPE_CHECKING:
    from numpy import float32, floating
    from numpy.typing import NDArray

WIDTH = 64
"""Numbers that are left of an embedding: what a pool varies in most."""
SAMPLE = 2000
BLOCK = 4096
SCALE = 8.0
"""Of points of length 1: with this a pull of 1 is the right one."""
LEARNED_FROM = 3000
"""Labelled pictures, the latest, that a fit takes in: it has to keep up with a human."""


def compressed(embeddings: NDArray[floating[Any]], seed: int = 0) -> NDArray[float32]:
    """Embeddings (N, D) as points (N, W) of length 1: the principal components of a sample, centred."""
    import numpy as np

    count, width = embeddings.shape
    sample = embeddings[np.random.default_rng(seed).permutation(count)[:SAMPLE]].astype(np.float32)
    centre = sample.mean(axis=0)
    values, vectors = np.linalg.eigh((sample - centre).T @ (sample - centre))
    axes = vectors[:, np.argsort(values)[::-1][: min(WIDTH, width)]].astype(np.float32)
    points = np.empty((count, axes.shape[1]), np.float32)
    for start in range(0, count, BLOCK):  # embeddings of 16 bits may be all that fits the memory
        points[start : start + BLOCK] = (embeddings[start : start + BLOCK].astype(np.float32) - centre) @ axes
    lengths = np.sqrt(np.square(points).sum(axis=1, keepdims=True))
    points /= np.maximum(lengths, np.float32(1e-12))
    return points


def gains(points: NDArray[float32], nearest: NDArray[float32], unsure: NDArray[float32]) -> NDArray[float32]:
    """What each point (N, W) is worth as the next to be labelled: how much nearer all of them come to a labelled one,
    whose similarities are `nearest` (N,) now, those the most that a classifier is `unsure` of (N,).
    """
    import numpy as np

    similar = points @ points.T
    similar -= nearest
    np.maximum(similar, 0, out=similar)
    result: NDArray[float32] = (similar @ unsure / len(points)).astype(np.float32)
    return result


def learned(points: NDArray[float32], positions: list[int], labels: list[str]) -> tuple[list[str], NDArray[float32]]:
    """The classes of labelled points, sorted, and their probabilities (N, C) for all points (N, W)."""
    import numpy as np

    classes = sorted(set(labels))
    wanted = np.eye(len(classes))[[classes.index(label) for label in labels]]
    origin, share = np.zeros((len(classes), points.shape[1] + 1)), 1 / len(labels)
    shares, held = np.full(len(labels), share), np.full((len(classes), 1), share)
    weights = fitted_weights(SCALE * points[positions], wanted, shares, origin, held).astype(np.float32)
    return classes, softmax(points @ (SCALE * weights[:, :-1]).T + weights[:, -1])


def uncertainty(probabilities: NDArray[float32]) -> NDArray[float32]:
    """How far the best class (N, C) is from being sure against the second: from 0 to 1, (N,)."""
    import numpy as np

    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities), np.float32)
    best = np.partition(probabilities, -2, axis=1)[:, -2:]
    result: NDArray[float32] = 1 - (best[:, 1] - best[:, 0])
    return result
