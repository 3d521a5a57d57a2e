"""The only clock in the program. A latency is host image in to host scores out, warm-up excluded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass


def now_ns() -> int:
    """Monotonic time in nanoseconds."""
    return time.perf_counter_ns()


def milliseconds_since(begun_ns: int) -> float:
    """Time since a moment that `now_ns` gave, in milliseconds."""
    return (now_ns() - begun_ns) / 1e6


@dataclass(frozen=True)
class Latency:
    """Percentiles over single calls, in milliseconds.

    `spread` is (p90 - p10) / p50, `jitter_ms` the mean difference between a call and the next.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    mean_ms: float
    jitter_ms: float
    spread: float
    calls: int

    @property
    def per_second(self) -> float:
        """Calls per second, one after the other."""
        return 1000 / self.mean_ms

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Latency:
        """Summarize single measurements (numpy's linear percentiles)."""
        import numpy as np

        p10, p50, p90, p99, p999 = (float(value) for value in np.percentile(samples_ms, (10, 50, 90, 99, 99.9)))
        jitter = float(np.abs(np.diff(samples_ms)).mean()) if len(samples_ms) > 1 else 0.0
        mean, spread = float(np.mean(samples_ms)), (p90 - p10) / p50 if p50 else 0.0
        return cls(p50, p90, p99, p999, mean, jitter, spread, len(samples_ms))

    def to_json(self) -> dict[str, float]:
        """Plain values, throughput included."""
        return {**asdict(self), "per_second": self.per_second}


def sample(call: Callable[[], object], seconds: float = 1.0, warmup_s: float = 0.3, min_calls: int = 30) -> list[float]:
    """Call repeatedly for about `seconds` after a warm-up; return each call's duration in milliseconds."""
    begun, calls = now_ns(), 0
    while calls < 5 or milliseconds_since(begun) < warmup_s * 1000:
        call()
        calls += 1
    samples: list[float] = []
    begun = now_ns()
    while len(samples) < min_calls or milliseconds_since(begun) < seconds * 1000:
        start = now_ns()
        call()
        samples.append(milliseconds_since(start))
    return samples
