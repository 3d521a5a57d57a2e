"""Multinomial logistic regression, with NumPy alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy import bool_, float64, floating
    from numpy.typing import NDArray

STEPS = 300
MEMORY = 10
"""Steps from which L-BFGS knows the curvature."""
SLOPE = 1e-5
"""Largest slope at which the loss counts as least."""
NEVER = -1e9
"""Added to a score: a probability of 0."""


def fitted_weights(
    points: NDArray[floating[Any]],
    wanted: NDArray[float64],
    shares: NDArray[floating[Any]],
    origin: NDArray[float64],
    held: NDArray[float64],
    compared: NDArray[bool_] | None = None,
    fixed: NDArray[bool_] | None = None,
) -> NDArray[float64]:
    """Weights (C, D + 1), the biases last, with the least loss on points (N, D) whose probabilities are to be `wanted`
    (N, C).

    Cross-entropies count by their `shares` (N,); weights are drawn to `origin` (C, D + 1), where the search begins, as
    strongly as `held` (C, 1) says. `compared` (N, C) says which classes each point is asked about, all unless given,
    and `fixed` (C,) which classes keep the weights of `origin`. The loss is convex: the same points give the same
    weights.
    """
    import numpy as np

    inputs = np.concatenate([points, np.ones((len(points), 1))], axis=1).astype(np.float64)
    left_out = 0.0 if compared is None else np.where(compared, 0.0, NEVER)
    if compared is not None:
        wanted = wanted * compared / (wanted * compared).sum(axis=1, keepdims=True)

    def loss_and_slope(flat: NDArray[float64]) -> tuple[float, NDArray[float64]]:
        weights = flat.reshape(origin.shape)
        scores = inputs @ weights.T + left_out
        scores -= scores.max(axis=1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        moved = weights - origin
        loss = -float(shares @ (wanted * logs).sum(axis=1)) + float((held * moved**2).sum()) / 2
        slope = ((np.exp(logs) - wanted) * shares[:, None]).T @ inputs + held * moved
        if fixed is not None:
            slope[fixed] = 0
        return loss, slope.ravel()

    return minimized(loss_and_slope, origin.ravel()).reshape(origin.shape)


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
