"""Timing a run's bundles, and the torch parent, one at a time through the one clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgecls.artifact.card import write_card
from edgecls.backends import Parallelism
from edgecls.benchmark.measure import inputs, sample_session
from edgecls.bounds import LONGEST_S, MOST, check_bounds
from edgecls.clock import Latency
from edgecls.errors import OutputError
from edgecls.runtime import machine
from edgecls.runtime.store import Artefact

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class BenchmarkConfig:
    """How to measure: `rounds` visits of each candidate for `seconds`, interleaved, with so many processor threads."""

    rounds: int = 3
    seconds: float = 1.0
    threads: int | None = None

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        check_bounds("--rounds", self.rounds, 1, MOST)
        check_bounds("--seconds", self.seconds, 1e-3, LONGEST_S)
        check_bounds("--threads", self.threads, 1, MOST)


@dataclass(frozen=True)
class Row:
    """One candidate. `latency` is None where it cannot run here, for `reason`; `round_p50_ms` are the rounds' p50."""

    artefact: Artefact
    size_bytes: int
    latency: Latency | None = None
    round_p50_ms: tuple[float, ...] = ()
    reason: str | None = None

    @property
    def name(self) -> str:
        """Target and precision."""
        return self.artefact.card.name


def benchmark(
    artefacts: Sequence[Artefact], config: BenchmarkConfig, tell: Callable[[str], None] = lambda _: None
) -> list[Row]:
    """Time each artefact on its own golden input, in interleaved rounds with one session alive at a time.

    What cannot run on this machine gets a row with the reason. `tell` hears what is being timed.
    """
    config.check()
    reasons = [artefact.backend.available() for artefact in artefacts]
    samples: list[list[list[float]]] = [[] for _ in artefacts]
    for turn in range(1, config.rounds + 1):
        for artefact, reason, rounds in zip(artefacts, reasons, samples, strict=True):
            if reason is None:
                tell(f"round {turn} of {config.rounds}: {artefact.card.name}")
                with artefact.open(Parallelism(config.threads), tell) as session:
                    rounds.append(sample_session(session, inputs(artefact, 1)[0], config.seconds))
    return [
        _row(artefact, reason, rounds) for artefact, reason, rounds in zip(artefacts, reasons, samples, strict=True)
    ]


def gain_over(row: Row, other: Row) -> float | None:
    """How many times as fast as `other` a candidate was, each in its best round.

    A busy machine only ever slows down.
    """
    if not row.round_p50_ms or not other.round_p50_ms:
        return None
    return min(other.round_p50_ms) / min(row.round_p50_ms)


def _row(artefact: Artefact, reason: str | None, rounds: list[list[float]]) -> Row:
    if reason is not None:
        return Row(artefact, artefact.size_bytes(), reason=reason)
    latency = Latency.of([duration for samples in rounds for duration in samples])
    return Row(artefact, artefact.size_bytes(), latency, tuple(Latency.of(samples).p50_ms for samples in rounds))


def remember(rows: Sequence[Row]) -> None:
    """Note each bundle's median in its card, so that the fastest one is known; a read-only bundle is left as it is.

    Lowered precision that was timed in turn with float32 for the same target also gets its gain, and the verdict.
    """
    here = machine.this_machine().name
    float32 = {row.artefact.card.target: row for row in rows if row.artefact.card.precision == "fp32"}
    for row in rows:
        artefact = row.artefact
        if row.latency is None or not artefact.place.is_dir() or artefact.is_run:
            continue
        quality = replace(artefact.card.quality, latency_ms=row.latency.p50_ms, latency_machine=here)
        rival = float32.get(artefact.card.target)
        if rival is not None and rival is not row:
            quality = replace(quality, gain=gain_over(row, rival)).with_verdict()
        try:
            write_card(replace(artefact.card, quality=quality), artefact.place)
        except OutputError:
            continue
