"""`edgecls doctor`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from edgecls.cli.common import console


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what this machine is and which backends work here, and what would change that."""
    from rich import box
    from rich.table import Table

    from edgecls.backends import all_backends
    from edgecls.runtime.machine import has_display, this_machine
    from edgecls.runtime.machine import versions as installed
    from edgecls.streaming.sources.video import hardware_decoders

    machine, versions, backends = this_machine(), installed(), all_backends()
    if as_json:
        states = {
            name: {
                "version": b.version(),
                "runs": b.available() or True,
                "builds": b.exportable and (b.buildable() or True),
            }
            for name, b in backends.items()
        }
        found = {"machine": machine.to_json(), "versions": versions, "video_hardware": hardware_decoders()}
        print(json.dumps({**found, "backends": states}, indent=2))
        return
    facts = Table.grid(padding=(0, 2))
    facts.add_row("processor", f"{machine.cpu} ({machine.architecture}), {machine.cores} usable cores")
    facts.add_row("instructions", ", ".join(machine.instruction_sets) or "none that matter for int8")
    facts.add_row("memory", f"{machine.memory_gib} GiB" if machine.memory_gib else "unknown")
    facts.add_row("GPU", machine.gpu or "no NVIDIA GPU found")
    facts.add_row("display", "yes" if has_display() else "none; streams show in the terminal")
    facts.add_row("video files", _video_decoding(versions, hardware_decoders()))
    facts.add_row("system", f"{machine.system}, Python {machine.python}")
    facts.add_row("packages", ", ".join(f"{name} {version}" for name, version in versions.items()))
    console.print(facts)
    table = Table("backend", "version", "runs here", "builds here", box=box.SIMPLE_HEAD, show_edge=False)
    reasons: dict[str, None] = {}
    for name, backend in backends.items():
        obstacles = (backend.available(), backend.buildable() if backend.exportable else None)
        runs, builds = ("no" if obstacle else "yes" for obstacle in obstacles)
        table.add_row(name, backend.version() or "–", runs, builds if backend.exportable else "–")
        reasons.update((f"{name}: {obstacle}", None) for obstacle in obstacles if obstacle)
    console.print(table)
    for reason in reasons:
        console.print(reason, soft_wrap=True)


def _video_decoding(versions: dict[str, str], hardware: list[str]) -> str:
    if "av" not in versions:
        return "decoded by OpenCV; faster with PyAV: pip install 'edgecls[video]'"
    return f"decoded by PyAV, {'also in hardware: ' + ', '.join(hardware) if hardware else 'in software'}"
