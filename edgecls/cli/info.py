"""`edgecls info`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecls.cli.common import console, megabytes, percent, shown

if TYPE_CHECKING:
    from edgecls.artifact.card import Card
    from edgecls.runtime.store import Artifact

NAME_WIDTH = 34
"""Columns for a layer's name: with its kind, precision, time and share it fits a terminal of 80."""


def info(
    path: Annotated[Path, typer.Argument(metavar="MODEL", help="A run, a bundle, a model file or an engine.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the card, measurements included, or the layers.")
    ] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="Print what the runtime computes, with each layer's precision and time.")
    ] = False,
) -> None:
    """Print what a card says, or what its runtime makes of the model."""
    from rich.table import Table

    from edgecls.runtime.store import find

    artifact = find(path)
    if layers:
        _print_layers(artifact, as_json)
        return
    if as_json:
        print(json.dumps(artifact.card.to_json(), indent=2, ensure_ascii=False))
        return
    table = Table.grid(padding=(0, 2))
    table.add_row("path", f"{shown(artifact.path)} ({megabytes(artifact.size_bytes())})")
    for name, value in _lines(artifact.card):
        table.add_row(name, str(value))
    console.print(table)


def _print_layers(artifact: Artifact, as_json: bool) -> None:
    from dataclasses import asdict

    from rich import box
    from rich.table import Table

    from edgecls.runtime.layers import profile_layers

    inside = profile_layers(artifact)
    if as_json:
        record = {
            "layers": [asdict(layer) for layer in inside.layers],
            "shares": inside.shares,
            "unquantized": inside.unquantized,
        }
        print(json.dumps(record, indent=2, ensure_ascii=False))
        return
    table = Table("layer", "kind", "precision", box=box.SIMPLE_HEAD, show_edge=False)
    if inside.total_ms is not None:
        table.add_column("ms", justify="right")
        table.add_column("share", justify="right")
    for layer in inside.layers:
        figures = []
        if inside.total_ms is not None:
            spent_ms = layer.time_ms or 0.0
            figures = [f"{spent_ms:.3f}", f"{100 * spent_ms / inside.total_ms:.1f}%" if inside.total_ms else "–"]
        table.add_row(_end(layer.name), layer.kind, layer.precision, *figures)
    console.print(table)
    console.print(inside.summary, soft_wrap=True)
    for warning in inside.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)


def _end(name: str) -> str:
    """The end of a layer's name, which is what tells it from its neighbours."""
    return name if len(name) <= NAME_WIDTH else f"…{name[1 - NAME_WIDTH :]}"


def _relearned(made: Mapping[str, Any]) -> str:
    """From what, how, and the verdict."""
    counts = " and ".join(f"{made.get(f'{kind}_images', 'unknown')} {kind}" for kind in ("new", "old"))
    how = f"{made.get('how', 'unknown')}, from {made.get('run', 'unknown')} with {counts} images"
    return f"{how}: {made.get('verdict', 'unknown')}"


def _shrunk(made: Mapping[str, Any]) -> str:
    """What a run was made smaller by, for people: whatever the card holds."""
    figures = (
        ("speedup", "{:.2f}x as fast"),
        ("drop_points", "{:.2f} points of top-1 dropped"),
        ("agreement", "agreement {:.2%}"),
    )
    known = [text.format(made[name]) for name, text in figures if isinstance(made.get(name), float)]
    return f"{made.get('how', 'somehow')}, from {made.get('run', 'another run')}: {', '.join(known)}"


def _lines(card: Card) -> list[tuple[str, Any]]:
    shape, quality, lineage = card.preprocess, card.quality, card.lineage
    names = ", ".join(card.classes[:10]) + (", ..." if len(card.classes) > 10 else "")
    lines = [
        ("network", card.arch),
        ("target", f"{card.target} {card.precision}"),
        ("classes", f"{len(card.classes)}: {names}"),
        ("input", f"uint8 RGB (N, {shape.height_px}, {shape.width_px}, 3), {shape.resize}, {shape.interpolation}"),
        ("output", f"float32 scores (N, {len(card.classes)})"),
        ("made", f"{lineage.created} on {lineage.machine} by edgecls {lineage.edgecls}"),
        ("trained on", lineage.data),
    ]
    if card.runtime:
        device = f" for {card.runtime.device}" if card.runtime.device else ""
        lines.append(("built with", f"{card.runtime.name} {card.runtime.version}{device}"))
        lines += [("note", card.runtime.note)] if card.runtime.note else []
    if lineage.parent:
        lines.append(("parent", lineage.parent))
    lines += [(name, digest) for name, digest in lineage.files.items()]
    if lineage.recipe:
        float_layers = lineage.recipe.get("float_layers")
        kept = f", {len(float_layers)} layers in float" if isinstance(float_layers, list) and float_layers else ""
        lines.append(("recipe", f"{lineage.recipe.get('candidate', 'as written')}{kept}"))
    if lineage.calibration:
        images, digest = (lineage.calibration.get(name, "unknown") for name in ("images", "digest"))
        lines.append(("calibration", f"{images} images, {digest}"))
    if lineage.shrunk:
        lines.append(("made smaller", _shrunk(lineage.shrunk)))
    if lineage.relearned:
        lines.append(("learned again", _relearned(lineage.relearned)))
    if quality.top1 is not None:
        lines.append(("top-1", f"{percent(quality.top1)} on {quality.images} {quality.split} images"))
    if quality.agreement is not None:
        lines.append(("agreement", f"{percent(quality.agreement)} with the parent, by {quality.verified_with}"))
    elif not card.is_parent:
        lines.append(("verified", "no"))
    if card.confidence.threshold:
        lines.append(("unsure", f"below a confidence of {card.confidence.threshold:.1%}"))
    if own := card.confidence.thresholds:
        lines.append(("unsure of", ", ".join(f"{name} below {threshold:.1%}" for name, threshold in own.items())))
    if quality.drop_points is not None:
        interval = f" ± {quality.drop_interval_points:.2f}" if quality.drop_interval_points is not None else ""
        if quality.drop_low_points is not None and quality.drop_high_points is not None:
            interval = f", {quality.drop_low_points:.2f} to {quality.drop_high_points:.2f},"
        lines.append(("drop", f"{quality.drop_points:.2f}{interval} points of top-1 (95 %)"))
    if quality.note:
        lines.append(("note", quality.note))
    if quality.gain is not None:
        verdict = "recommended" if quality.recommended else "float32 is recommended"
        lines.append(("gain", f"{quality.gain:.2f}x the speed of float32 in the same runtime: {verdict} there"))
    if quality.latency_ms is not None:
        lines.append(("latency", f"{quality.latency_ms:.2f} ms (p50, batch 1) on {quality.latency_machine}"))
    return lines
