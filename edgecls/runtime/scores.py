"""From what a network gives to logits, probabilities and agreement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecls.errors import BackendError

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    from edgecls.artifact.terms import Output

MIN_PROBABILITY = 1e-12


def softmax(scores: NDArray[float32]) -> NDArray[float32]:
    """Probabilities (..., C) of logits (..., C)."""
    import numpy as np

    shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: NDArray[float32] = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def as_logits(scores: NDArray[float32], output: Output) -> NDArray[float32]:
    """What a network gave, as logits (..., C): the logarithm of probabilities, whose softmax gives these back.

    Rounded to int8 their sum may be off 1; the softmax mends that. Raises `BackendError` for what is not finite.
    """
    import numpy as np

    if not np.isfinite(scores).all():
        raise BackendError("the network's scores are not finite numbers; its weights or its runtime are broken")
    if output == "logits":
        return scores
    result: NDArray[float32] = np.log(np.maximum(scores, MIN_PROBABILITY)).astype(np.float32)
    return result


def scaled(scores: NDArray[float32], temperature: float) -> NDArray[float32]:
    """Logits divided by a temperature."""
    import numpy as np

    if temperature == 1.0:
        return scores
    result: NDArray[float32] = (scores / temperature).astype(np.float32)
    return result


def agreement(scores: NDArray[float32], parent: NDArray[float32]) -> float:
    """Fraction of images for which both give the same class."""
    return float((scores.argmax(axis=1) == parent.argmax(axis=1)).mean())
