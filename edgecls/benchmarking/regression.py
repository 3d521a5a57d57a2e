"""Is it slower than it was? A measurement against an older one, for somebody's CI."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecls.benchmarking.statistics import Interval, slowdown
from edgecls.benchmarking.suite import SCHEMA, BenchmarkResult, repeated
from edgecls.errors import ArtifactError, UsageError, first_line
from edgecls.fields import Fields, parse_json
from edgecls.files import read_text, shortened
from edgecls.runtime import machine

SCHEMAS = (2, SCHEMA)
"""Of measurements whose rows can be compared."""
MOST_ROUNDS = 25
"""Where it is not clear yet, candidates are measured again, up to so many times."""
LONGEST_MS = 1e9


@dataclass(frozen=True)
class Change:
    """One candidate, then and now. `slowdown` is a fraction; `slower` says that it is more than allowed."""

    key: str
    before_ms: float
    now_ms: float
    slowdown: Interval
    slower: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "slowdown": vars(self.slowdown)}


def read_baseline(path: Path) -> dict[str, Any]:
    """An older measurement. Raises `ArtifactError` for what is none, or lacks what is compared."""
    try:
        record = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        message = first_line(error)
        raise ArtifactError(
            f"`baseline`: cannot read the measurement {shortened(path)}: {message}; give a benchmark.json"
        ) from error
    if not isinstance(record, dict) or "rows" not in record or record.get("schema") not in SCHEMAS:
        raise ArtifactError(f"{path} is no measurement of this version of edgecls; measure the baseline again")
    fields = Fields(record, shortened(path))
    if not fields.has("machine"):
        fields.fail("machine", "a JSON object")
    fields.mapping("machine")
    if (rows := fields.mappings("rows")) is None:
        fields.fail("rows", "a list of JSON objects")
    for number, row in enumerate(rows):
        _check_row(row, shortened(path), f"rows[{number}].")
    return record


def _check_row(row: Mapping[str, Any], origin: str, prefix: str) -> None:
    fields = Fields(row, origin, prefix)
    fields.text("key")
    if not fields.has("latency"):
        return
    fields.within("latency").number("p50_ms", 0, LONGEST_MS)
    if not (rounds := fields.mappings("rounds")):
        fields.fail("rounds", "a list of at least one JSON object")
    for number, each in enumerate(rounds):
        figures = Fields(each, origin, f"{prefix}rounds[{number}].")
        for name in ("p10_ms", "anchor_ms"):
            figures.number(name, 0, LONGEST_MS, above=True)


def compare(
    baseline: dict[str, Any],
    results: list[BenchmarkResult],
    limit: float,
    seconds: float,
    on_progress: Callable[[str], None] = lambda _: None,
) -> list[Change]:
    """Compare each candidate that the baseline has too. As long as a change could lie on either side of the limit, and
    patience lasts, the candidate is measured again; `results` then hold these repetitions.

    Raises `UsageError` where the two have no candidate in common.
    """
    rows = {row["key"]: row for row in baseline["rows"] if row.get("latency")}
    common = [index for index, result in enumerate(results) if result.repetitions and result.candidate.key in rows]
    if not common:
        raise UsageError(f"the baseline has none of these candidates; it has {', '.join(rows) or 'none at all'}")
    changes = []
    for index in common:
        row = rows[results[index].candidate.key]
        before = [paired(each["p10_ms"], each["anchor_ms"]) for each in row["rounds"]]
        change = slowdown(before, _now(results[index]))
        while change.contains(limit) and len(results[index].repetitions) < MOST_ROUNDS:
            on_progress(f"looking again: {results[index].candidate.key}")
            results[index] = repeated(results[index], seconds)
            change = slowdown(before, _now(results[index]))
        now_ms = results[index].p50_interval
        assert now_ms is not None
        changes.append(Change(row["key"], row["latency"]["p50_ms"], now_ms.value, change, change.value > limit))
    return changes


def paired(fast_ms: float, anchor_ms: float) -> float:
    """How long a round's fast calls took, in units of the arithmetic that was timed in the same process at the same
    time: what slows the whole machine slows both.
    """
    return fast_ms / anchor_ms


def _now(result: BenchmarkResult) -> Sequence[float]:
    import numpy as np

    return [
        paired(float(np.percentile(repetition.samples_ms, 10)), repetition.anchor_ms)
        for repetition in result.repetitions
    ]


def same_machine(baseline: dict[str, Any]) -> bool:
    """Whether the baseline was measured on such a machine."""
    here = machine.this_machine().to_json()
    return all(baseline["machine"].get(name) == here[name] for name in ("cpu", "cores", "gpu"))
