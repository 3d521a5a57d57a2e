"""What is counted of each model, and how Prometheus reads it: by Triton's names where Triton has one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgecls.serving.errors import Reason

if TYPE_CHECKING:
    from edgecls.serving.model import Model

_TRITON_REASONS: dict[Reason, str] = {"busy": "REJECTED", "expired": "CANCELED", "failed": "BACKEND"}


@dataclass
class Times:
    """What one request took, in nanoseconds: in the queue, preparing inputs, inferring and making outputs of scores.

    Where it was computed in parts, the wait is the longest and the others are sums.
    """

    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    batch: int = 0
    """Images that the largest of its inferences had."""

    def add(self, other: Times) -> None:
        """Add those of a part."""
        self.queue_ns, self.batch = max(self.queue_ns, other.queue_ns), max(self.batch, other.batch)
        self.input_ns += other.input_ns
        self.infer_ns += other.infer_ns
        self.output_ns += other.output_ns


@dataclass
class Statistics:
    """What is known of a model's requests since it was first opened. Kept by the event loop alone."""

    success: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    images: int = 0
    success_ns: int = 0
    failure_ns: int = 0
    times: Times = field(default_factory=Times)
    batches: Counter[int] = field(default_factory=Counter)
    batch_infer_ns: Counter[int] = field(default_factory=Counter)
    last_ms: int = 0
    """When the last request was answered, in milliseconds since 1970."""

    def succeeded(self, images: int, duration_ns: int, times: Times, now_ms: int) -> None:
        """Count a request that was answered."""
        self.success += 1
        self.images += images
        self.success_ns += duration_ns
        self.times.queue_ns += times.queue_ns
        self.times.input_ns += times.input_ns
        self.times.infer_ns += times.infer_ns
        self.times.output_ns += times.output_ns
        self.last_ms = now_ms

    def failed(self, reason: Reason | None, duration_ns: int) -> None:
        """Count a request that was refused, or whose client left (None)."""
        self.failures["CANCELED" if reason is None else _TRITON_REASONS.get(reason, "OTHER")] += 1
        self.failure_ns += duration_ns

    def executed(self, images: int, infer_ns: int) -> None:
        """Count an inference."""
        self.batches[images] += 1
        self.batch_infer_ns[images] += infer_ns


_Row = tuple[dict[str, str], float]
_PER_MODEL: tuple[tuple[str, str, Callable[[Statistics], float]], ...] = (
    ("nv_inference_request_success", "Requests that were answered.", lambda it: it.success),
    ("nv_inference_count", "Images that were inferred.", lambda it: it.images),
    ("nv_inference_exec_count", "Inferences, each of a batch of images.", lambda it: it.batches.total()),
    ("nv_inference_request_duration_us", "Answering, in all.", lambda it: it.success_ns // 1000),
    ("nv_inference_queue_duration_us", "Waiting for a thread.", lambda it: it.times.queue_ns // 1000),
    ("nv_inference_compute_input_duration_us", "Decoding and preprocessing.", lambda it: it.times.input_ns // 1000),
    ("nv_inference_compute_infer_duration_us", "Inferring.", lambda it: it.times.infer_ns // 1000),
    ("nv_inference_compute_output_duration_us", "From scores to outputs.", lambda it: it.times.output_ns // 1000),
)


def exposition(models: Iterable[Model], ready: bool, unanswered: int) -> bytes:
    """The metrics in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest

    # Triton's counters do not end in _total, as those of the client's own types would.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([*_families([*models], ready, unanswered)]))
    return generate_latest(registry)


def statistics_of(model: Model) -> dict[str, Any]:
    """A model's counters as the protocol's statistics extension has them."""
    known = model.statistics
    failures, times = known.failures.total(), known.times

    def duration(count: int, nanoseconds: int) -> dict[str, int]:
        return {"count": count, "ns": nanoseconds}

    return {
        "name": model.name,
        "version": model.version,
        "last_inference": known.last_ms,
        "inference_count": known.images,
        "execution_count": known.batches.total(),
        "inference_stats": {
            "success": duration(known.success, known.success_ns),
            "fail": duration(failures, known.failure_ns),
            "queue": duration(known.success, times.queue_ns),
            "compute_input": duration(known.success, times.input_ns),
            "compute_infer": duration(known.success, times.infer_ns),
            "compute_output": duration(known.success, times.output_ns),
        },
        "batch_stats": [
            {"batch_size": size, "compute_infer": duration(count, known.batch_infer_ns[size])}
            for size, count in sorted(known.batches.items())
        ],
    }


class _Collected:
    """A collector of what was collected already."""

    def __init__(self, families: list[Any]):
        self._families = families

    def collect(self) -> list[Any]:
        """The families."""
        return self._families


def _families(models: list[Model], ready: bool, unanswered: int) -> Iterator[Any]:
    from prometheus_client.core import Metric

    def family(name: str, text: str, rows: Iterable[_Row], kind: str = "unknown") -> Any:
        metric = Metric(name, text, kind)
        for labels, value in rows:
            metric.add_sample(name, labels, value)
        return metric

    def each(model: Model, **more: str) -> dict[str, str]:
        return {"model": model.name, "version": model.version, **more}

    for name, text, value in _PER_MODEL:
        yield family(name, text, [(each(model), value(model.statistics)) for model in models])
    yield family(
        "nv_inference_request_failure",
        "Requests that were not answered.",
        [(each(m, reason=reason), count) for m in models for reason, count in sorted(m.statistics.failures.items())],
    )
    yield family(
        "nv_inference_pending_request_count",
        "Requests that wait or are being computed.",
        [(each(model), model.pending) for model in models],
        "gauge",
    )
    yield family(
        "edgecls_batch_executions",
        "Inferences by their number of images.",
        [(each(m, images=str(size)), count) for m in models for size, count in sorted(m.statistics.batches.items())],
    )
    yield family("edgecls_ready", "Whether requests are welcome.", [({}, ready)], "gauge")
    yield family(
        "edgecls_unanswered_requests", "Requests that are being read or answered.", [({}, unanswered)], "gauge"
    )
