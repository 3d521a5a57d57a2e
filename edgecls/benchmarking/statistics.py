"""Intervals for figures from a few noisy rounds, and the test that knows a change from noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Student's t for 95 % (two-sided) by degrees of freedom; beyond the table the normal distribution's 1.96 is close.
T_95 = (
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09,
    2.09,
)  # fmt: skip
BOOTSTRAP_ROUNDS = 4000
DRIFT = 0.03
"""Runs of the same thing on the same idle machine differ by so much, however alike the rounds of each are: where memory
lies and how the processor's clock stands change from hour to hour (`benchmarks/regression.py` shows it)."""


@dataclass(frozen=True)
class Interval:
    """A value and where it may lie."""

    value: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """How wide it is, as a share of the value."""
        return (self.high - self.low) / self.value if self.value else math.inf

    def contains(self, value: float) -> bool:
        """Whether a value lies inside."""
        return self.low <= value <= self.high


def prediction_interval(rounds: Sequence[float]) -> Interval:
    """The median of the rounds, and where that of another run of as many rounds lies in 95 of 100 cases.

    A prediction interval on a logarithmic scale, since noise multiplies: t * s * sqrt(2 / n) for the difference of two
    means of n rounds (Student's t with n - 1 degrees of freedom), and `DRIFT` beside it, independent of it.
    """
    import numpy as np

    logs = np.log(np.maximum(rounds, 1e-12))
    value, count = float(np.median(rounds)), len(rounds)
    if count < 2:
        return Interval(value, 0.0, math.inf)
    t = T_95[count - 2] if count - 2 < len(T_95) else 1.96
    reach = math.hypot(t * float(np.std(logs, ddof=1)) * math.sqrt(2 / count), DRIFT)
    return Interval(value, value * math.exp(-reach), value * math.exp(reach))


def slowdown(before: Sequence[float], now: Sequence[float], seed: int = 0) -> Interval:
    """How much longer something takes now than before, as a fraction (0.15: 15 % longer), with its 95 % interval.

    The ratio of the rounds' medians, its interval by the bootstrap over rounds (Efron 1979).
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    old, new = np.asarray(before), np.asarray(now)

    def drawn(values: np.ndarray) -> np.ndarray:
        picked = generator.integers(0, len(values), (BOOTSTRAP_ROUNDS, len(values)))
        medians: np.ndarray = np.median(values[picked], axis=1)
        return medians

    ratios = drawn(new) / drawn(old) - 1
    low, high = np.percentile(ratios, (2.5, 97.5))
    return Interval(float(np.median(new) / np.median(old) - 1), float(low), float(high))
