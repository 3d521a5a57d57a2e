"""A measurement as one HTML page: the answer first, then figures, then everything that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from edgecls.backends import exportable
from edgecls.report import benchmark_figures as figures
from edgecls.report import page
from edgecls.runtime.layers import LayerProfile

LAYERS_SHOWN = 15


def write_page(
    record: Mapping[str, Any], answer: Mapping[str, Any], path: Path, inside: tuple[str, LayerProfile] | None = None
) -> None:
    """Write the page of a measurement (`suite.record`). `answer` holds the keys of the `recommended` row (or None) and
    of the `front`, the limits in `words`, `breakdown` and `changes`; `inside` are the recommended bundle's layers.
    """
    rows = record["rows"]
    best = next((row for row in rows if row["key"] == answer["recommended"]), None)
    alone = figures.one_at_a_time(rows)
    machine = record["machine"]
    parts = [
        "<h1>Benchmark</h1>",
        f'<p class="soft">{escape(_machine(machine))} · {escape(record["created"])}</p>',
        page.facts(_facts(best, answer, rows)),
        *(f'<p class="bad">{escape(remark)}</p>' for remark in record["remarks"]),
        _section("Latency against accuracy", figures.pareto(alone, answer["front"]),
                 "The dashed line is the Pareto front: what no other model beats in both."),
        _section("How long calls take", figures.distribution(alone),
                 "Over all calls of all rounds; a steep line is a steady model."),
    ]  # fmt: skip
    if sweep := figures.batch_sweep(rows):
        parts.append(_section("Throughput over the batch size", sweep, "Several streams are dashed."))
    if answer["breakdown"]:
        message = "One image at a time, from the bytes of its file to its label; streams overlap these steps."
        parts.append(_section("From file to label", figures.breakdown(answer["breakdown"]), message))
    if answer["changes"]:
        parts.append(_changes(answer["changes"]))
    parts += [_table(rows, answer), _costs(rows)]
    if inside:
        parts.append(_layers(*inside))
    parts.append(_conditions(record))
    page.write(path, "Benchmark", parts)


def _machine(machine: Mapping[str, Any]) -> str:
    sets = ", ".join(machine["instruction_sets"])
    gpu = f" · {machine['gpu']}" if machine["gpu"] else ""
    return f"{machine['cpu']}, {machine['cores']} cores{f' ({sets})' if sets else ''}{gpu}"


def _facts(
    best: Mapping[str, Any] | None, answer: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str]]:
    if best is None:
        return [("ship", "none", answer["words"] or "no verified bundle ran here")]
    interval = best["p50_interval_ms"]
    parent = next((row for row in rows if row["target"] not in exportable() and row["latency"]), None)
    facts = [
        ("ship", best["key"], answer["words"] or "the fastest verified bundle"),
        (
            "median latency",
            f"{interval['value']:.2f} ms",
            f"another run: {interval['low']:.2f} to {interval['high']:.2f}",
        ),
        ("top-1", page.percent(best["top1"]), f"agreement with its parent {page.percent(best['agreement'])}"),
        ("size", f"{best['size_bytes'] / 1e6:.1f} MB", "model files"),
    ]
    if parent and parent["key"] != best["key"]:
        ratio = parent["latency"]["p50_ms"] / best["latency"]["p50_ms"]
        facts.append(("against PyTorch", f"{ratio:.1f}x", f"{parent['latency']['p50_ms']:.2f} ms in {parent['key']}"))
    return facts


def _section(title: str, figure: Any, message: str) -> str:
    return (
        f"<h2>{escape(title)}</h2><p class='soft'>{escape(message)}</p><div class='figure'>{figures.svg(figure)}</div>"
    )


def _grid(title: str, message: str, heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return (
        f"<h2>{escape(title)}</h2><p class='soft'>{escape(message)}</p>"
        f"<div class='wide'><table><tr>{head}</tr>{body}</table></div>"
    )


def _table(rows: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> str:
    lines = []
    for row in rows:
        latency = row["latency"]
        accuracy = [page.percent(row["top1"]), page.percent(row["agreement"])]
        if latency is None:
            lines.append([row["key"], *accuracy, f"not timed: {row['reason']}", *[""] * 7])
            continue
        interval, rate = row["p50_interval_ms"], row["images_per_s_interval"]
        mark = " ★" if row["key"] == answer["recommended"] else ""
        lines.append([
            row["key"] + mark, *accuracy, f"{latency['p50_ms']:.3f}",
            f"{interval['low']:.3f} to {interval['high']:.3f}",
            *(f"{latency[name]:.3f}" for name in ("p90_ms", "p99_ms", "p999_ms", "jitter_ms")),
            f"{rate['value']:.0f}", f"{row['size_bytes'] / 1e6:.1f}",
        ])  # fmt: skip
    heads = ("model", "top-1", "agree", "p50 ms", "another run", "p90", "p99", "p99.9", "jitter", "images/s", "MB")
    return _grid("All candidates", "Host image in, scores out. ★ is what to ship.", heads, lines)


def _costs(rows: Sequence[Mapping[str, Any]]) -> str:
    lines, named = [], ""
    for row in (row for row in rows if row["latency"]):
        visits = row["rounds"]
        energy = [visit["energy_mj"] for visit in visits if visit["energy_mj"] is not None]
        named = next((visit["energy_of"] for visit in visits if visit["energy_of"]), named)
        lines.append([
            row["key"], f"{row['cold_start_ms']:.0f}", f"{min(v['load_ms'] for v in visits):.0f}",
            f"{min(v['first_ms'] for v in visits):.1f}", f"{max(v['peak_memory_mb'] or 0 for v in visits):.0f}",
            f"{sorted(v['cpu_ms'] for v in visits)[len(visits) // 2]:.2f}",
            f"{sorted(energy)[len(energy) // 2]:.1f}" if energy else "–",
        ])  # fmt: skip
    heads = ("model", "cold start ms", "load ms", "first ms", "peak MB", "CPU ms/image", "mJ/image")
    message = (
        "Cold start runs from starting the process to the first answer, load from importing the runtime to an open "
        f"session. Energy: {named or 'no sensor can be read here'}."
    )
    return _grid("What it costs", message, heads, lines)


def _changes(changes: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        [c["key"], f"{c['before_ms']:.3f}", f"{c['now_ms']:.3f}", f"{c['slowdown']['value']:+.1%}",
         f"{c['slowdown']['low']:+.1%} to {c['slowdown']['high']:+.1%}", "slower" if c["slower"] else "no slower"]
        for c in changes
    ]  # fmt: skip
    heads = ("model", "baseline p50 ms", "now", "change", "95 %", "verdict")
    return _grid("Against the baseline", "Changes are those of fast calls, paired with fixed arithmetic.", heads, lines)


def _layers(name: str, inside: LayerProfile) -> str:
    slowest = sorted(inside.layers, key=lambda layer: -(layer.time_ms or 0.0))[:LAYERS_SHOWN]
    lines = [
        [layer.name, layer.kind, layer.precision, "–" if layer.time_ms is None else f"{layer.time_ms:.3f}"]
        for layer in slowest
    ]
    return _grid(f"Slowest layers of {name}", inside.summary, ("layer", "kind", "precision", "ms"), lines)


def _conditions(record: Mapping[str, Any]) -> str:
    state, config = record["conditions"], record["config"]
    lines = [
        ("rounds", f"{config['rounds']} of {config['seconds']:g} s, interleaved, each in a fresh process"),
        ("system", f"{record['machine']['system']}, Python {record['machine']['python']}"),
        ("governor", state["governor"] or "not told by this machine"),
        ("turbo", {True: "on", False: "off", None: "not told by this machine"}[state["turbo"]]),
        ("load before", "–" if state["load"] is None else f"{state['load']:.2f} per processor"),
        *record["versions"].items(),
    ]
    return _grid("Conditions", "What this was measured on and with.", ("what", ""), lines)
