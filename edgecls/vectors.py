"""Vectors in rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

SHORTEST = 1e-12
"""Shorter vectors have no direction that means anything, and stay as short."""


def directions(vectors: NDArray[float32]) -> NDArray[float32]:
    """Vectors (N, D) at length 1."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    pointing: NDArray[float32] = vectors / np.maximum(lengths, np.float32(SHORTEST))
    return pointing
