"""A measurement as one HTML page: the selection first, then figures, then everything that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.backends import exportable
from edgecls.report import benchmark_figures as figures
from edgecls.report import page
from edgecls.runtime.layers import LayerProfile

if TYPE_CHECKING:
    from markupsafe import Markup

LAYERS_SHOWN = 15


@dataclass(frozen=True)
class Cost:
    """What a candidate takes beside its latency: the best or the middle of its rounds."""

    key: str
    cold_start_ms: float
    load_ms: float
    first_ms: float
    peak_memory_mb: float
    cpu_ms: float
    energy_mj: float | None


def write_page(record: Mapping[str, Any], path: Path, inside: tuple[str, LayerProfile] | None = None) -> None:
    """Write the page of a measurement, what follows from it included; `inside` are the recommended bundle's layers."""
    selection = record["selection"]
    timed = [row for row in record["rows"] if row["latency"]]
    slowest = sorted(inside[1].layers, key=lambda layer: -(layer.time_ms or 0.0)) if inside else []
    page.write(
        path,
        "benchmark",
        record=record,
        selection=selection,
        best=next((row for row in record["rows"] if row["key"] == selection["recommended"]), None),
        parent=next((row for row in timed if row["target"] not in exportable()), None),
        charts=_charts(record["rows"], selection),
        costs=[_cost(row) for row in timed],
        sensor=next(
            (repetition["energy_of"] for row in timed for repetition in row["rounds"] if repetition["energy_of"]), None
        ),
        inside=inside,
        slowest=slowest[:LAYERS_SHOWN],
    )


def _charts(rows: Sequence[Mapping[str, Any]], selection: Mapping[str, Any]) -> list[tuple[str, str, Markup]]:
    """Titles, messages and pictures."""
    alone = figures.one_at_a_time(rows)
    charts = [
        ("Latency against accuracy", "The dashed line is the Pareto front: what no other model beats in both.",
         figures.pareto(alone, selection["front"])),
        ("How long calls take", "Over all calls of all rounds; a steep line is a steady model.",
         figures.distribution(alone)),
    ]  # fmt: skip
    if sweep := figures.batch_sweep(rows):
        charts.append(("Throughput over the batch size", "Several streams are dashed.", sweep))
    if selection["breakdown"]:
        message = "One image at a time, from the bytes of its file to its label; streams overlap these steps."
        charts.append(("From file to label", message, figures.breakdown(selection["breakdown"])))
    return [(title, message, figures.svg(figure)) for title, message, figure in charts]


def _cost(row: Mapping[str, Any]) -> Cost:
    repetitions = row["rounds"]
    energy = [repetition["energy_mj"] for repetition in repetitions if repetition["energy_mj"] is not None]
    return Cost(
        row["key"],
        row["cold_start_ms"],
        min(repetition["load_ms"] for repetition in repetitions),
        min(repetition["first_ms"] for repetition in repetitions),
        max(repetition["peak_memory_mb"] or 0 for repetition in repetitions),
        sorted(repetition["cpu_ms"] for repetition in repetitions)[len(repetitions) // 2],
        sorted(energy)[len(energy) // 2] if energy else None,
    )
