"""`edgecls info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecls.cli.common import console, megabytes, percent, shown

if TYPE_CHECKING:
    from edgecls.card import Card


def info(
    path: Annotated[Path, typer.Argument(help="A run, a bundle or a model file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the card itself.")] = False,
) -> None:
    """Print what a card says."""
    from rich.table import Table

    from edgecls.runs import find

    artefact = find(path)
    if as_json:
        print(json.dumps(artefact.card.to_json(), indent=2, ensure_ascii=False))
        return
    table = Table.grid(padding=(0, 2))
    table.add_row("place", f"{shown(artefact.place)} ({megabytes(artefact.size_bytes())})")
    for name, value in _lines(artefact.card):
        table.add_row(name, str(value))
    console.print(table)


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
        float_layers = lineage.recipe.get("float_layers") or ()
        kept = f", {len(float_layers)} layers in float" if float_layers else ""
        lines.append(("recipe", f"{lineage.recipe.get('rung', 'as written')}{kept}"))
    if lineage.calibration:
        lines.append(("calibration", f"{lineage.calibration['images']} images, {lineage.calibration['digest']}"))
    if quality.top1 is not None:
        lines.append(("top-1", f"{percent(quality.top1)} on {quality.images} {quality.split} images"))
    if quality.agreement is not None:
        lines.append(("agreement", f"{percent(quality.agreement)} with the parent, by {quality.verified_with}"))
    elif not card.is_parent:
        lines.append(("verified", "no"))
    if quality.drop_points is not None:
        interval = f" ± {quality.drop_interval_points:.2f}" if quality.drop_interval_points is not None else ""
        lines.append(("drop", f"{quality.drop_points:.2f}{interval} points of top-1 (95 %)"))
    if quality.gain is not None:
        verdict = "recommended" if quality.recommended else "float32 is recommended"
        lines.append(("gain", f"{quality.gain:.2f}x the speed of float32 in the same runtime: {verdict} there"))
    if quality.latency_ms is not None:
        lines.append(("latency", f"{quality.latency_ms:.2f} ms (p50, batch 1) on {quality.latency_machine}"))
    return lines
