"""How fast bundles are on this machine, and whether lowered precision pays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from edgecls.benchmarking.config import TimingConfig
from edgecls.benchmarking.run import Row, gain_over, time_artifacts
from edgecls.runtime import machine
from edgecls.runtime.store import Artifact

QUICK_TIMING = TimingConfig(rounds=2, seconds=0.2)
"""Enough to see whether a candidate is worth stopping at; what is kept is timed again."""
TIMING = TimingConfig(rounds=4, seconds=0.2)
BORDERLINE_TIMING = TimingConfig(rounds=6, seconds=0.2)
BORDERLINE_GAIN = (0.8, 1.25)
"""Gains that were within these at a glance, or are not known, are timed for longer: they decide a verdict."""


def timed(
    bundles: Sequence[Artifact], float32: Artifact | None, on_progress: Callable[[str], None], quick: bool = False
) -> list[Artifact]:
    """The bundles, timed in turn, with their latency and, where `float32` is given, the gain over it."""
    on_progress("timing")
    compared = [*bundles, float32] if float32 else bundles
    close = float32 is not None and any(
        BORDERLINE_GAIN[0] < (bundle.card.quality.gain or 1.0) < BORDERLINE_GAIN[1] for bundle in bundles
    )
    rows = time_artifacts(compared, QUICK_TIMING if quick else BORDERLINE_TIMING if close else TIMING)
    return [
        _with_latency(bundle, row, rows[-1] if float32 else None) for bundle, row in zip(bundles, rows, strict=False)
    ]


def _with_latency(bundle: Artifact, row: Row, float32: Row | None) -> Artifact:
    quality = replace(
        bundle.card.quality,
        latency_ms=row.latency.p50_ms if row.latency else None,
        latency_machine=machine.this_machine().name,
        gain=gain_over(row, float32) if float32 else None,
    )
    return Artifact(bundle.path, replace(bundle.card, quality=quality.with_verdict()))
