"""Timing a run's bundles, and the torch parent, one at a time through the one clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from edgecls.artifact.measurements import Timing, keep_timing
from edgecls.backends import Parallelism
from edgecls.benchmarking.config import TimingConfig
from edgecls.benchmarking.measure import inputs, sample_session
from edgecls.clock import Latency
from edgecls.errors import ArtifactError, OutputError
from edgecls.runtime import machine
from edgecls.runtime.store import Artifact


@dataclass(frozen=True)
class Row:
    """One candidate. `latency` is None where it cannot run here, for `reason`; `round_p50_ms` are the rounds' p50."""

    artifact: Artifact
    size_bytes: int
    latency: Latency | None = None
    round_p50_ms: tuple[float, ...] = ()
    reason: str | None = None

    @property
    def name(self) -> str:
        """Target and precision."""
        return self.artifact.card.name


def time_artifacts(
    artifacts: Sequence[Artifact], config: TimingConfig, on_progress: Callable[[str], None] = lambda _: None
) -> list[Row]:
    """Time each artifact on its own golden input, in interleaved rounds with one session alive at a time.

    What cannot run on this machine gets a row with the reason. `on_progress` hears what is being timed.
    """
    config.check()
    reasons = [artifact.backend.available() for artifact in artifacts]
    samples: list[list[list[float]]] = [[] for _ in artifacts]
    for turn in range(1, config.rounds + 1):
        for artifact, reason, rounds in zip(artifacts, reasons, samples, strict=True):
            if reason is None:
                on_progress(f"round {turn} of {config.rounds}: {artifact.card.name}")
                with artifact.open(Parallelism(config.threads), on_progress) as session:
                    rounds.append(sample_session(session, inputs(artifact, 1)[0], config.seconds))
    return [
        _row(artifact, reason, rounds) for artifact, reason, rounds in zip(artifacts, reasons, samples, strict=True)
    ]


def gain_over(row: Row, other: Row) -> float | None:
    """How many times as fast as `other` a candidate was, each in its best round.

    A busy machine only ever slows down.
    """
    if not row.round_p50_ms or not other.round_p50_ms:
        return None
    return min(other.round_p50_ms) / min(row.round_p50_ms)


def _row(artifact: Artifact, reason: str | None, rounds: list[list[float]]) -> Row:
    if reason is not None:
        return Row(artifact, artifact.size_bytes(), reason=reason)
    latency = Latency.of([duration for samples in rounds for duration in samples])
    return Row(artifact, artifact.size_bytes(), latency, tuple(Latency.of(samples).p50_ms for samples in rounds))


def remember(rows: Sequence[Row]) -> None:
    """Note each bundle's median beside its card, so that the fastest one is known; a read-only bundle is left as it is.

    Lowered precision that was timed in turn with float32 for the same target also gets its gain, and the verdict.
    """
    here = machine.this_machine().name
    float32 = {row.artifact.card.target: row for row in rows if row.artifact.card.precision == "fp32"}
    for row in rows:
        artifact = row.artifact
        if row.latency is None or not artifact.path.is_dir() or artifact.is_run:
            continue
        baseline = float32.get(artifact.card.target)
        gain = gain_over(row, baseline) if baseline is not None and baseline is not row else None
        with suppress(OutputError, ArtifactError):
            keep_timing(artifact.path, here, Timing(row.latency.p50_ms, gain))
