from __future__ import annotations

import time

import pytest

from edgecls.clock import Latency, sample


def test_percentiles_are_those_of_the_samples():
    latency = Latency.of([float(value) for value in range(1, 102)])
    assert (latency.p50_ms, latency.p90_ms, latency.p99_ms) == (51.0, 91.0, 100.0)
    assert latency.p999_ms == pytest.approx(100.9)
    assert latency.mean_ms == 51.0
    assert latency.jitter_ms == 1.0
    assert latency.spread == pytest.approx((91 - 11) / 51)
    assert latency.per_second == pytest.approx(1000 / 51)
    assert latency.calls == 101


def test_the_clock_measures_what_a_call_takes():
    latency = Latency.of(sample(lambda: time.sleep(0.005), seconds=0.1, warmup_s=0.01))
    assert latency.p50_ms >= 5.0
    assert latency.calls >= 30


def test_the_warm_up_is_not_counted():
    calls: list[int] = []
    samples = sample(lambda: calls.append(1), seconds=0.0, warmup_s=0.0, min_calls=10)
    assert len(samples) == 10
    assert len(calls) == 15
