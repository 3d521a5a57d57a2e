"""Bundles x threads x batch sizes x streams, each measured alone in fresh processes, in interleaved rounds."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgecls.benchmarking import conditions
from edgecls.benchmarking.config import BenchmarkConfig
from edgecls.benchmarking.measure import Repetition, Task
from edgecls.benchmarking.run import Row
from edgecls.benchmarking.statistics import Interval, prediction_interval
from edgecls.clock import Latency
from edgecls.errors import ArtifactError
from edgecls.files import write_text
from edgecls.runtime import machine
from edgecls.runtime.first_opening import unusable_reason
from edgecls.runtime.store import Artifact

SCHEMA = 3
RESULT_FILE = "benchmark.json"
QUANTILES = 100
VISIT_TIMEOUT_S = 600


@dataclass(frozen=True)
class Candidate:
    """One artifact, and how it is run."""

    artifact: Artifact
    name: str
    threads: int | None
    batch: int
    streams: int | None

    @property
    def key(self) -> str:
        """What it is called, settings included."""
        beside = "" if self.streams == 1 else f", {self.streams or 'best'} streams"
        return (
            self.name + (f", batch {self.batch}" if self.batch > 1 else "") + beside
            + (f", {self.threads} threads" if self.threads else "")
        )  # fmt: skip

    @property
    def is_plain(self) -> bool:
        """Whether it answers one image at a time as the runtime likes best, as a camera wants it."""
        return (self.batch, self.streams, self.threads) == (1, 1, None)


@dataclass(frozen=True)
class BenchmarkResult:
    """A candidate and all its repetitions. `reason` says why there are none."""

    candidate: Candidate
    size_bytes: int
    repetitions: tuple[Repetition, ...] = ()
    cold_start_ms: float | None = None
    reason: str | None = None
    top1: float | None = None

    @property
    def samples_ms(self) -> list[float]:
        """The times of all calls."""
        return [sample for repetition in self.repetitions for sample in repetition.samples_ms]

    @property
    def latency(self) -> Latency | None:
        """Percentiles over all calls."""
        return Latency.of(self.samples_ms) if self.repetitions else None

    @property
    def round_p50_ms(self) -> tuple[float, ...]:
        """The rounds' medians."""
        return tuple(Latency.of(repetition.samples_ms).p50_ms for repetition in self.repetitions)

    @property
    def p50_interval(self) -> Interval | None:
        """The median over the rounds, and where that of another run is expected to lie (95 %)."""
        return prediction_interval(self.round_p50_ms) if self.repetitions else None

    @property
    def throughput_interval(self) -> Interval | None:
        """Images per second likewise."""
        return (
            prediction_interval([repetition.images_per_s for repetition in self.repetitions])
            if self.repetitions
            else None
        )

    @property
    def accuracy(self) -> float | None:
        """Top-1 that was measured beside the latency, or else the one in the card."""
        return self.top1 if self.top1 is not None else self.candidate.artifact.card.quality.top1

    def to_row(self) -> Row:
        """As the record that a card remembers."""
        return Row(self.candidate.artifact, self.size_bytes, self.latency, self.round_p50_ms, self.reason)

    def to_json(self) -> dict[str, Any]:
        """Plain values; single calls as their quantiles."""
        import numpy as np

        card = self.candidate.artifact.card
        record: dict[str, Any] = {
            "key": self.candidate.key, "name": self.candidate.name, "target": card.target, "precision": card.precision,
            "threads": self.candidate.threads, "batch": self.candidate.batch, "streams": self.candidate.streams,
            "top1": self.accuracy, "agreement": card.quality.agreement, "verified": card.verified,
            "size_bytes": self.size_bytes, "reason": self.reason,
        }  # fmt: skip
        if not self.repetitions or self.latency is None:
            return {**record, "latency": None}
        quantiles = np.percentile(self.samples_ms, np.linspace(0, 100, QUANTILES + 1))
        return {
            **record,
            "latency": self.latency.to_json(),
            "p50_interval_ms": vars(self.p50_interval),
            "images_per_s_interval": vars(self.throughput_interval),
            "quantiles_ms": [round(float(value), 6) for value in quantiles],
            "rounds": [
                {"p10_ms": float(np.percentile(each.samples_ms, 10)), "p50_ms": Latency.of(each.samples_ms).p50_ms,
                 **{name: value for name, value in asdict(each).items() if name != "samples_ms"}}
                for each in self.repetitions
            ],
            "cold_start_ms": self.cold_start_ms,
        }  # fmt: skip


def candidates(artifacts: Sequence[Artifact], config: BenchmarkConfig) -> list[Candidate]:
    """Every artifact in every setting, each under a name of its own."""
    config.check()
    names = [artifact.card.name for artifact in artifacts]
    chosen = []
    for artifact, name in zip(artifacts, names, strict=True):
        unique = name if names.count(name) == 1 else f"{artifact.path.parent.parent.name}/{artifact.path.name}"
        settings = itertools.product(config.threads, config.batches, config.streams)
        chosen += [Candidate(artifact, unique, *setting) for setting in settings]
    return chosen


def run(
    chosen: Sequence[Candidate], config: BenchmarkConfig, on_progress: Callable[[str], None] = lambda _: None
) -> list[BenchmarkResult]:
    """Measure each candidate once a round, in turn. What cannot run on this machine, or gives wrong answers here, gets
    a reason instead.
    """
    artifacts = {each.artifact.path: each.artifact for each in chosen}
    reasons = {path: unusable_reason(artifact) for path, artifact in artifacts.items()}
    results = [BenchmarkResult(each, each.artifact.size_bytes(), reason=reasons[each.artifact.path]) for each in chosen]
    for turn in range(1, config.rounds + 1):
        for index, result in enumerate(results):
            if result.reason is None:
                on_progress(f"round {turn} of {config.rounds}: {result.candidate.key}")
                results[index] = repeated(result, config.seconds)
    return results


def repeated(result: BenchmarkResult, seconds: float) -> BenchmarkResult:
    """A candidate with one more repetition, in a process of its own. Raises `ArtifactError` where that fails."""
    each = result.candidate
    task = Task(str(each.artifact.path), each.threads, each.streams, each.batch, seconds)
    begun_s = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "edgecls.benchmarking.measure", json.dumps(asdict(task))],
        capture_output=True, text=True, timeout=VISIT_TIMEOUT_S, check=False,
    )  # fmt: skip
    try:
        outcome = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise ArtifactError(
            f"{each.key} cannot be measured: its process ended with {done.returncode}: {last}"
        ) from None
    if "error" in outcome:
        return replace(result, reason=outcome["error"])
    repetition = Repetition(**outcome)
    cold_ms = 1000 * (repetition.answered_unix_s - begun_s)
    first = result.cold_start_ms
    return replace(
        result,
        repetitions=(*result.repetitions, repetition),
        cold_start_ms=cold_ms if first is None else min(first, cold_ms),
    )


def remarks(results: Sequence[BenchmarkResult], state: conditions.Conditions) -> list[str]:
    """What makes these figures doubtful: a busy machine, stolen time, throttling, drift over the rounds."""
    lines = state.remarks()
    repetitions = [repetition for result in results for repetition in result.repetitions]
    stolen = max((repetition.stolen for repetition in repetitions), default=0.0)
    if stolen >= conditions.STOLEN:
        lines.append(f"other guests of this machine took up to {stolen:.0%} of the processors' time")
    if any(repetition.throttled for repetition in repetitions):
        lines.append("the processor was throttled for its heat while it was measured")
    scattered = [result.candidate.key for result in results if _outliers(result.samples_ms) > 0.05]
    if scattered:
        lines.append(f"many calls are outliers (more than 5 % lie above Q3 + 3 IQR): {'; '.join(scattered)}")
    uneven = [result.candidate.key for result in results if result.p50_interval and result.p50_interval.width > 0.3]
    if uneven:
        lines.append(f"rounds differ by much, more rounds would tell more: {'; '.join(uneven)}")
    return lines


def _outliers(samples_ms: Sequence[float]) -> float:
    """Share of the calls beyond Tukey's outer fence."""
    if not samples_ms:
        return 0.0
    import numpy as np

    q1, q3 = np.percentile(samples_ms, (25, 75))
    return float(np.mean(np.asarray(samples_ms) > q3 + 3 * (q3 - q1)))


def record(results: Sequence[BenchmarkResult], config: BenchmarkConfig, state: conditions.Conditions) -> dict[str, Any]:
    """The whole measurement as plain values, with the machine and the state that it was made in."""
    return {
        "schema": SCHEMA,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.this_machine().to_json(),
        "versions": machine.versions(),
        "conditions": state.to_json(),
        "remarks": remarks(results, state),
        "config": {name: getattr(config, name) for name in ("rounds", "seconds", "threads", "batches", "streams")},
        "rows": [result.to_json() for result in results],
    }


def as_text(values: dict[str, Any]) -> str:
    """A measurement as JSON; what is not a number becomes null."""
    return json.dumps(_finite(values), indent=1, allow_nan=False)


def write(values: dict[str, Any], path: Path) -> None:
    """Write a measurement as JSON. Raises `OutputError`."""
    write_text(path, as_text(values) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
