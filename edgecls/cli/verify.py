"""`edgecls verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecls.cli.common import console, percent, shown


def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle or a run.")],
) -> None:
    """Replay a bundle's golden inputs on this machine and say pass or fail."""
    from edgecls.runtime.store import find
    from edgecls.runtime.verification import verify as replay

    artifact = find(bundle)
    quality = replay(artifact)
    console.print(
        f"pass: {shown(artifact.path)} with {quality.verified_with}, {quality.images} golden inputs, "
        f"agreement {percent(quality.agreement)}, scores differ by up to {quality.max_score_difference:.3g}",
        soft_wrap=True,
    )
