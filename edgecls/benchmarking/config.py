"""What a benchmark is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecls.errors import UsageError
from edgecls.settings import LONGEST_S, Config, setting

ALLOWED_SLOWDOWN = 0.1
"""Of a candidate against the baseline, unless told otherwise: what a busy machine does not hide."""


@dataclass(frozen=True, kw_only=True)
class Constraints(Config):
    """What a bundle must keep to; None where anything goes."""

    max_latency_ms: float | None = setting(None, "Recommend only what is as fast.", low=1e-6)
    min_accuracy: float | None = setting(
        None, "Recommend only what is as accurate: top-1, a fraction such as 0.97.", low=1e-6, high=1.0
    )
    max_size_mb: float | None = setting(None, "Recommend only what is as small, in MB (10^6).", low=1e-6)

    def __str__(self) -> str:
        parts = (
            (self.max_latency_ms, "at most {:g} ms"),
            (self.min_accuracy, "at least {:.2%} top-1"),
            (self.max_size_mb, "at most {:g} MB"),
        )
        return ", ".join(text.format(limit) for limit, text in parts if limit is not None)


@dataclass(frozen=True, kw_only=True)
class TimingConfig(Config):
    """How to time: `rounds` repetitions of each candidate for `seconds`, interleaved, with so many threads."""

    rounds: int = setting(3, "Repetitions of each candidate, interleaved.", low=1)
    seconds: float = setting(1.0, "Seconds of timing per repetition.", low=1e-3, high=LONGEST_S)
    threads: int | None = setting(None, "Processor threads; the runtime's choice unless given.", low=1)


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Config):
    """What to measure and how often: so many `rounds`, each of which times every candidate for `seconds`.

    `threads` and `streams` hold None for what the runtime chooses; several `streams` measure throughput. `rounds` need
    a spread: at least 2. `fail_if_slower` is a fraction.
    """

    models: tuple[Path, ...] = setting((), "Runs, bundles or model files; a run means all its bundles.")
    threads: tuple[int | None, ...] = setting(
        (None,), "Numbers, separated by commas; auto is the runtime's choice.", low=1
    )
    batches: tuple[int, ...] = setting((1,), "Numbers of images at a time, separated by commas.", low=1)
    streams: tuple[int | None, ...] = setting(
        (1,), "Numbers of inferences beside each other, separated by commas; auto is the best.", low=1
    )
    data: Path | None = setting(
        None, "Measure accuracy too, and the way from file to label: a folder of class folders or a manifest."
    )
    rounds: int = setting(5, "Repetitions of each candidate, interleaved.", low=2)
    seconds: float = setting(0.5, "Seconds of timing per repetition.", low=1e-3, high=LONGEST_S)
    constraints: Constraints = Constraints()
    baseline: Path | None = setting(None, "An older benchmark.json to compare with.")
    fail_if_slower: float | None = setting(
        None, "Fail where a candidate is slower than that by more than a share, such as 10%.", low=1e-9, high=10.0
    )

    @property
    def allowed_slowdown(self) -> float:
        """By how much a candidate may be slower than the baseline, a fraction."""
        return ALLOWED_SLOWDOWN if self.fail_if_slower is None else self.fail_if_slower

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        super().check()
        for name in ("threads", "batches", "streams"):
            if not getattr(self, name):
                raise UsageError(f"`{name}` takes at least one number")
        if self.fail_if_slower is not None and self.baseline is None:
            raise UsageError("`fail_if_slower` compares with `baseline` FILE; give both")
