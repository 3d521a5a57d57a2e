"""`edgecls calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecls.cli.command import Command
from edgecls.cli.common import console, shown, working
from edgecls.errors import OutputError, UsageError

calibrate = typer.Typer(
    name="calibrate",
    no_args_is_help=True,
    add_completion=False,
    help="Choose and check the images that int8 ranges are read from.",
)


@calibrate.command(cls=Command)
def make(
    run: Annotated[Path | None, typer.Argument(help="A run's folder; the latest run unless given.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder to choose from; the run's training images unless given.")
    ] = None,
    samples: Annotated[int, typer.Option(help="How many images, the same number from each class.")] = 300,
    seed: Annotated[int | None, typer.Option(help="Seed of the choice; the run's unless given.")] = None,
    out: Annotated[Path, typer.Option(help="The manifest to write.")] = Path("calibration.json"),
) -> None:
    """Write a manifest of calibration images: path, class and SHA-256 of each, none of them held out."""
    from edgecls.quantization import calibration
    from edgecls.runtime.store import find_run

    if samples < calibration.MIN_IMAGES:
        raise UsageError(f"--samples must be at least {calibration.MIN_IMAGES}, not {samples}")
    if out.exists():
        raise OutputError(f"{out} exists already; choose another --out or remove it")
    with working("choosing images"):
        artifact = find_run(run)
        chosen = calibration.choose(artifact, samples, data, seed)
        findings = calibration.check(chosen, artifact)
        provenance = chosen.write(out)
    console.print(f"{findings.images} images, {calibration.summary(findings.classes)}")
    console.print(f"manifest: {shown(out)}  (digest {provenance['digest'][:12]})", soft_wrap=True)


@calibrate.command(cls=Command)
def check(
    given: Annotated[Path, typer.Argument(help="A manifest or a folder of images.", metavar="MANIFEST_OR_FOLDER")],
    run: Annotated[Path | None, typer.Argument(help="A run's folder; the latest run unless given.")] = None,
) -> None:
    """Check calibration images against a run: enough, of every class, not held out, and like the run's own."""
    from edgecls.quantization import calibration
    from edgecls.runtime.store import find_run

    with working("checking images"):
        artifact = find_run(run)
        chosen = calibration.choose(artifact, 1_000_000, given)
        findings = calibration.check(chosen, artifact)
    console.print(f"{findings.images} images, {calibration.summary(findings.classes)}")
    if findings.shift is not None:
        console.print(f"colour and contrast are {findings.shift:.1f} standard deviations from the run's own images")
    else:
        console.print("not compared with the run's own images: it has none")
    console.print("none of them is held out" if findings.compared_with_held_out else "the run has no held-out images")
