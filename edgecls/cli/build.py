"""`edgecls build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecls.cli.common import console, megabytes, shown, working


def build(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle.")],
    compute_capability: Annotated[
        str | None,
        typer.Option(help="Build for these GPUs, such as 8.6,8.9, and not for this machine's (TensorRT-RTX only)."),
    ] = None,
) -> None:
    """Build ahead of time what a bundle's runtime would build when it is first opened on this device."""
    from edgecls.artifact.card import check_files
    from edgecls.clock import milliseconds_since, now_ns
    from edgecls.runtime.store import find

    artifact = find(bundle)
    check_files(artifact.card, artifact.path)
    begun_ns = now_ns()
    with working(f"building for {artifact.card.target}") as spinner:
        built = artifact.backend.prepare(artifact.path, artifact.card, compute_capability, spinner.update)
    if not built:
        console.print(f"nothing to build: {artifact.card.target} opens {shown(artifact.path)} as it is", soft_wrap=True)
    for path in built:
        console.print(f"engine: {shown(path)}  ({megabytes(path.stat().st_size)})", soft_wrap=True)
        console.print(f"took {milliseconds_since(begun_ns) / 1000:.1f} s")
