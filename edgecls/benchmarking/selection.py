"""Which bundle to ship: the Pareto front of latency against accuracy, and the best under constraints."""

from __future__ import annotations

from collections.abc import Sequence

from edgecls.benchmarking.config import Constraints
from edgecls.benchmarking.suite import BenchmarkResult


def violations(result: BenchmarkResult, constraints: Constraints) -> list[str]:
    """What a result does not keep to, in words."""
    broken = []
    latency = result.latency
    if constraints.max_latency_ms is not None and latency and latency.p50_ms > constraints.max_latency_ms:
        broken.append(f"{latency.p50_ms:.2f} ms")
    if constraints.min_accuracy is not None:
        if result.accuracy is None:
            broken.append("accuracy not measured")
        elif result.accuracy < constraints.min_accuracy:
            broken.append(f"top-1 {result.accuracy:.2%}")
    if constraints.max_size_mb is not None and result.size_bytes > constraints.max_size_mb * 1e6:
        broken.append(f"{result.size_bytes / 1e6:.1f} MB")
    return broken


def shippable(results: Sequence[BenchmarkResult]) -> list[BenchmarkResult]:
    """What could be shipped from this measurement: verified bundles that ran here one image at a time."""
    return [
        result
        for result in results
        if result.latency and result.candidate.is_plain and not result.candidate.artifact.is_run
        and result.candidate.artifact.card.verified
    ]  # fmt: skip


def pareto(results: Sequence[BenchmarkResult]) -> list[BenchmarkResult]:
    """Those for which none is both faster and at least as accurate, the fastest first; one image at a time."""
    known = [
        result for result in results
        if result.latency and result.accuracy is not None and result.candidate.batch == result.candidate.streams == 1
    ]  # fmt: skip
    front: list[BenchmarkResult] = []
    for result in sorted(known, key=lambda each: (_p50(each), -(each.accuracy or 0.0))):
        if not front or (result.accuracy or 0.0) > (front[-1].accuracy or 0.0):
            front.append(result)
    return front


def recommended(results: Sequence[BenchmarkResult], constraints: Constraints) -> BenchmarkResult | None:
    """The fastest bundle that meets all constraints; None where none does."""
    fitting = [result for result in shippable(results) if not violations(result, constraints)]
    return min(fitting, key=_p50, default=None)


def _p50(result: BenchmarkResult) -> float:
    return result.latency.p50_ms if result.latency else float("inf")
