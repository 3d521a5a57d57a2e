"""What is found out about a finished artifact later: `measurements.json` beside its card, which is never written again.

Latencies stand under the machine that they were measured on, so that machines which share a folder keep their own.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgecls.artifact.card import Card, Confidence, read_confidence
from edgecls.errors import ArtifactError
from edgecls.fields import Fields, parse_json
from edgecls.files import read_text, write_text

MEASUREMENTS_FILE = "measurements.json"
SCHEMA = 1


@dataclass(frozen=True)
class Timing:
    """The median latency of one image on one machine.

    `gain` is how many times as fast as float32 in the same runtime that was, `measured` when, in ISO 8601 and UTC.
    """

    latency_ms: float
    gain: float | None = None
    measured: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))


@dataclass(frozen=True)
class Measurements:
    """Timings by the name of the machine, and the confidence that was fitted after the artifact was made."""

    timings: Mapping[str, Timing] = field(default_factory=dict)
    confidence: Confidence | None = None

    def applied_to(self, card: Card, machine: str) -> Card:
        """The card as it holds on this machine, in memory only. Raises `ArtifactError` for another's confidence."""
        if self.confidence is not None:
            self.confidence.require_known(card.classes, MEASUREMENTS_FILE)
            card = replace(card, confidence=self.confidence)
        if (timing := self.timings.get(machine)) is None:
            return card
        gain = card.quality.gain if timing.gain is None else timing.gain
        quality = replace(card.quality, latency_ms=timing.latency_ms, latency_machine=machine, gain=gain)
        return replace(card, quality=quality.with_verdict())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "schema": SCHEMA,
            "machines": {machine: asdict(timing) for machine, timing in self.timings.items()},
            "confidence": asdict(self.confidence) if self.confidence else None,
        }

    @classmethod
    def from_json(cls, record: Any, origin: str) -> Measurements:
        """Read what `to_json` wrote. Raises `ArtifactError` that names the field."""
        fields = Fields(record, origin)
        fields.schema(SCHEMA)
        machines = fields.within("machines")
        return cls(
            {name: _timing(machines.within(name)) for name, _ in fields.items("machines")},
            read_confidence(fields.within("confidence")) if fields.has("confidence") else None,
        )


def _timing(fields: Fields) -> Timing:
    return Timing(fields.number("latency_ms", 0, 1e9), fields.optional_number("gain", 0, 1e6), fields.text("measured"))


def read_measurements(folder: Path) -> Measurements:
    """Those of the artifact in a folder; none where there is no such file. Raises `ArtifactError` for a damaged one."""
    path = folder / MEASUREMENTS_FILE
    try:
        record = parse_json(read_text(path))
    except FileNotFoundError:
        return Measurements()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(f"{path} cannot be read ({reason}); delete it and measure again") from error
    return Measurements.from_json(record, str(path))


def keep_timing(folder: Path, machine: str, timing: Timing) -> None:
    """Note what was measured on a machine beside the artifact; those of other machines stay.

    So does a gain that was measured here before, where this time there was none to measure. Raises `OutputError`, and
    `ArtifactError` where the file is damaged.
    """
    with _locked(folder):
        known = read_measurements(folder)
        before = known.timings.get(machine)
        if timing.gain is None and before is not None:
            timing = replace(timing, gain=before.gain)
        _write(replace(known, timings={**known.timings, machine: timing}), folder)


def keep_confidence(folder: Path, confidence: Confidence) -> None:
    """Note a confidence that was fitted beside the artifact. Raises as `keep_timing` does."""
    with _locked(folder):
        _write(replace(read_measurements(folder), confidence=confidence), folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes that do the same out, so that none writes over what another has just written."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # file systems without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(measurements: Measurements, folder: Path) -> None:
    write_text(folder / MEASUREMENTS_FILE, json.dumps(measurements.to_json(), indent=2) + "\n")
