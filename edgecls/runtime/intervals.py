"""How far figures from few images can be trusted: 95 % intervals of fractions, and of differences between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray

Z_95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


def wilson(fraction: float, count: int, z: float = Z_95) -> tuple[float, float]:
    """The interval of a fraction of `count` trials (Wilson 1927); 95 % unless `z` is another quantile."""
    z2 = z**2 / count
    centre = (fraction + z2 / 2) / (1 + z2)
    half = float((fraction * (1 - fraction) * z2 + z2**2 / 4) ** 0.5) / (1 + z2)
    return max(0.0, min(fraction, centre - half)), min(1.0, max(fraction, centre + half))


@dataclass(frozen=True)
class Drop:
    """Points that a model loses against its parent on the same images, and the bounds of the 95 % interval."""

    points: float
    low_points: float
    high_points: float

    @property
    def half_width_points(self) -> float:
        """Half the width of the interval."""
        return (self.high_points - self.low_points) / 2

    def __str__(self) -> str:
        return f"{self.points:.2f} points (95 %: {self.low_points:.2f} to {self.high_points:.2f})"


def drop(scores: NDArray[float32], parent: NDArray[float32], labels: NDArray[int64]) -> Drop:
    """What `scores` lose of top-1 against the parent's; see `paired_interval`."""
    mine, theirs = scores.argmax(axis=1) == labels, parent.argmax(axis=1) == labels
    lost, won = int((theirs & ~mine).sum()), int((mine & ~theirs).sum())
    low, high = paired_interval(int((mine & theirs).sum()), lost, won, len(labels))
    return Drop(100 * (lost - won) / max(len(labels), 1), 100 * low, 100 * high)


def paired_interval(both: int, lost: int, won: int, count: int, z: float = Z_95) -> tuple[float, float]:
    """The interval of the difference (lost - won) / count of two fractions of the same `count` trials; 95 % unless `z`
    is another quantile.

    Only those trials make a difference in which one of the two is right and the other wrong (McNemar 1947). `both`,
    `lost` and `won` are the trials in which both are right, the first alone, and the second alone. The Wilson intervals
    of the two fractions are squared and added, less what their correlation takes away: method 10 of Newcombe,
    Statistics in Medicine 17 (1998), 2635-2650, which holds for few trials and for none that differ.
    """
    if not count:
        return 0.0, 0.0
    neither = count - both - lost - won
    first, second = both + lost, both + won
    spread = float(first * (count - first) * second * (count - second)) ** 0.5
    covariance = float(both * neither - lost * won)
    if covariance > 0:
        covariance = max(covariance - count / 2, 0)  # continuity
    correlation = covariance / spread if spread else 0.0
    (low1, high1), (low2, high2) = wilson(first / count, count, z), wilson(second / count, count, z)
    below1, above1 = first / count - low1, high1 - first / count
    below2, above2 = second / count - low2, high2 - second / count
    difference = (lost - won) / count
    return (
        difference - _combined(below1, above2, correlation),
        difference + _combined(above1, below2, correlation),
    )


def _combined(one: float, other: float, correlation: float) -> float:
    """The length of two deviations of which a part is common."""
    return float(max(one**2 - 2 * correlation * one * other + other**2, 0.0) ** 0.5)
