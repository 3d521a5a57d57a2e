"""`edgecls verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecls.cli.common import console, percent, shown


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, or a run, which means its bundles too.")],
) -> None:
    """Replay a bundle's golden inputs on this machine and say pass or fail."""
    from edgecls.errors import VerificationError
    from edgecls.runtime.store import bundles_of, find
    from edgecls.runtime.verification import verify as replay

    artifact = find(bundle)
    failures: list[VerificationError] = []
    for each in [artifact, *bundles_of(artifact.path)] if artifact.is_run else [artifact]:
        reason = each.backend.available()
        if each is not artifact and reason and not each.backend.fallback:
            console.print(f"not verified: {shown(each.path)}, {reason}", soft_wrap=True)
            continue
        try:
            quality = replay(each)
        except VerificationError as error:
            failures.append(error)
            continue
        console.print(
            f"pass: {shown(each.path)} with {quality.verified_with}, {quality.images} golden inputs, "
            f"agreement {percent(quality.agreement)}, scores differ by up to {quality.max_score_difference:.3g}",
            soft_wrap=True,
        )
    if failures:
        more = f" ({len(failures)} fail)" if len(failures) > 1 else ""
        raise VerificationError(f"{failures[0]}{more}")
