"""Which bundle to ship: the Pareto front of latency against accuracy, and the best under limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecls.benchmarking.suite import BenchmarkResult
from edgecls.bounds import check_bounds


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a bundle must keep to; None where anything goes. `min_accuracy` is a fraction."""

    max_latency_ms: float | None = None
    min_accuracy: float | None = None
    max_size_mb: float | None = None

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        check_bounds("--max-latency-ms", self.max_latency_ms, 1e-6, 1e9)
        check_bounds("--min-accuracy, a fraction such as 0.97,", self.min_accuracy, 1e-6, 1.0)
        check_bounds("--max-size-mb", self.max_size_mb, 1e-6, 1e9)

    def violations(self, result: BenchmarkResult) -> list[str]:
        """What a result does not keep to, in words."""
        said = []
        latency = result.latency
        if self.max_latency_ms is not None and latency and latency.p50_ms > self.max_latency_ms:
            said.append(f"{latency.p50_ms:.2f} ms")
        if self.min_accuracy is not None:
            if result.accuracy is None:
                said.append("accuracy not measured")
            elif result.accuracy < self.min_accuracy:
                said.append(f"top-1 {result.accuracy:.2%}")
        if self.max_size_mb is not None and result.size_bytes > self.max_size_mb * 1e6:
            said.append(f"{result.size_bytes / 1e6:.1f} MB")
        return said


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


def recommended(results: Sequence[BenchmarkResult], limits: Limits) -> BenchmarkResult | None:
    """The fastest bundle that keeps to all limits; None where none does."""
    fitting = [result for result in shippable(results) if not limits.violations(result)]
    return min(fitting, key=_p50, default=None)


def _p50(result: BenchmarkResult) -> float:
    return result.latency.p50_ms if result.latency else float("inf")
