"""`edgecls cameras`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from edgecls.cli.common import console, messages
from edgecls.errors import SourceError


def cameras(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the cameras of this machine with their modes."""
    from dataclasses import asdict

    from edgecls.streaming.sources.v4l2 import Mode, found_cameras

    modes_of: dict[str, list[Mode]] = {}
    entries = []
    for camera in found_cameras():
        try:
            modes_of[str(camera)] = camera.modes()
        except SourceError as error:
            messages.print(str(error), soft_wrap=True)
            modes_of[str(camera)] = []
        entries.append({**asdict(camera), "modes": [asdict(mode) for mode in modes_of[str(camera)]]})
    if as_json:
        print(json.dumps(entries, indent=2, ensure_ascii=False))
        return
    for name, modes in modes_of.items():
        console.print(name, soft_wrap=True)
        for mode in modes:
            console.print(f"  {mode}", soft_wrap=True)
    if not modes_of:
        console.print(
            "no video device was found on this machine; URLs, files and --camera demo work without one", soft_wrap=True
        )
