"""`edgecls data`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from edgecls.cli.command import Command
from edgecls.cli.common import console, messages, require_two_files, shown, working
from edgecls.cli.options import Option, configured
from edgecls.data.exchange import Exchanged, LabelExportConfig, LabelImportConfig
from edgecls.errors import DataError, OutputError, UsageError
from edgecls.evaluation.config import SuspectsConfig
from edgecls.files import printable

data = typer.Typer(
    name="data",
    no_args_is_help=True,
    add_completion=False,
    help="Check a data set before training, divide it into splits, and take labels from other tools and to them.",
)

DATA_HELP = "A folder of class folders, a CSV or JSONL manifest, or the name of a torchvision data set."


@data.command(cls=Command)
def check(
    path: Annotated[str, typer.Argument(help=DATA_HELP, metavar="DATA")],
    html: Annotated[Path, typer.Option(help="The report to write.")] = Path("data.html"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all findings as JSON too.")] = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Write quarantine.csv beside the images; training leaves them out.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 3 where something severe is found.")] = False,
    record: Annotated[
        Path | None,
        typer.Option(
            help="A file that keeps what was seen of each image: an interrupted check goes on from it, and a later one "
            "decodes only what changed."
        ),
    ] = None,
) -> None:
    """Find unreadable images, duplicates, leaks between splits, contradictions, misspelt classes and odd files."""
    from edgecls.data.check import check as look
    from edgecls.data.layout import index_dataset, write_quarantine
    from edgecls.data.sources import FolderSource
    from edgecls.files import write_text
    from edgecls.report.data_page import write_page

    layout = index_dataset(path)
    require_two_files(html, json_file)
    with working("looking at images") as spinner:
        report = look(layout, spinner.update, record)
        spinner.update("writing the report")
        write_page(report, layout.source, html)
    if json_file:
        write_text(json_file, json.dumps(report.to_json(), indent=1) + "\n")
    splits = ", ".join(f"{len(samples)} {split}" for split, samples in layout.splits.items())
    console.print(f"{report.images} images in {len(report.classes)} classes: {splits}", soft_wrap=True)
    for finding in report.findings:
        mark = "!" if finding.severe else " "
        console.print(f"{mark} {finding.kind}: {finding.count}, {finding.text}", soft_wrap=True)
        for group in finding.groups[:3]:
            console.print("    " + ", ".join(key for key, _, _ in group[:4]), soft_wrap=True)
    if not report.findings:
        console.print("nothing found")
    if quarantine:
        if not isinstance(layout.source, FolderSource):
            raise UsageError("--quarantine stands beside images in a folder; this data set has none")
        listed = {**layout.quarantine, **report.quarantine}
        console.print(f"quarantine: {shown(write_quarantine(layout.source.root, listed))}, {len(listed)} images")
    elif report.quarantine:
        console.print(
            f"{len(report.quarantine)} images are better left out; --quarantine writes a list that training honours"
        )
    console.print(f"written: {shown(html)}" + (f", {shown(json_file)}" if json_file else ""), soft_wrap=True)
    if strict and report.severe:
        raise DataError("the check found what spoils a training or its figures; see the lines marked with !")


@data.command(cls=Command)
def split(
    path: Annotated[str, typer.Argument(help=DATA_HELP, metavar="DATA")],
    out: Annotated[Path, typer.Option(help="The manifest to write; train and evaluate take it.")] = Path("split.csv"),
    val: Annotated[float, typer.Option(help="Share of the images for validation.")] = 0.15,
    test: Annotated[float, typer.Option(help="Share of the images for the test.")] = 0.15,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="A regular expression on the path; images for which it finds the same (its first group, or all of it) "
            "stay in one split, such as the frames of one video; the manifest's column group unless given."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
) -> None:
    """Divide images into train, val and test: each class in its proportion, seeded, groups kept together."""
    from edgecls.data.layout import groups_in, index_dataset, write_manifest
    from edgecls.data.sources import FolderSource
    from edgecls.data.splits import divide, grouped_by

    if not (0 < val < 1 and 0 < test < 1 and val + test < 1):
        raise UsageError(f"--val and --test are shares above 0 that leave some to train on, not {val:g} and {test:g}")
    if out.exists():
        raise OutputError(f"{out} exists already; choose another --out or remove it")
    layout = index_dataset(path)
    if not isinstance(layout.source, FolderSource):
        raise UsageError("only images in a folder can be divided; this data set brings its own splits")
    members = [s for samples in layout.splits.values() for s in samples if s.key not in layout.quarantine]
    group_of = grouped_by(group_by) if group_by else groups_in(layout.columns)
    splits = divide(members, group_of, {"val": val, "test": test}, seed)
    write_manifest(layout, splits, out)
    counts = ", ".join(f"{len(samples)} {name}" for name, samples in splits.items())
    count = len({group_of(sample) for sample in members})
    groups = f", {count} groups" if group_by or count < len(members) else ""
    console.print(f"{len(members)} images: {counts}{groups}", soft_wrap=True)
    console.print(f"manifest: {shown(out)}", soft_wrap=True)


@data.command("import", cls=Command)
@configured(labels=Option(argument="LABELS"))
def import_(config: LabelImportConfig) -> None:
    """Read labels from another tool, and write a manifest that training and evaluation take."""
    from edgecls.data.exchange import import_labels

    with working("reading labels"):
        _tell(import_labels(config), "manifest")


@data.command(cls=Command)
@configured(data=Option(argument="DATA"))
def export(config: LabelExportConfig) -> None:
    """Write labelled images in the format of another tool."""
    from edgecls.data.exchange import export_labels

    with working("writing labels"):
        _tell(export_labels(config), "written")


@data.command(cls=Command)
@configured(data=Option(argument="DATA"))
def suspects(
    config: SuspectsConfig,
    out: Annotated[Path, typer.Option(help="The list to write as CSV.")] = Path("suspects.csv"),
) -> None:
    """List images whose label is likely wrong, pictures that stand in two classes, and the hardest of the others."""
    from edgecls.evaluation.suspects import find_suspects

    with working("looking at images") as spinner:
        found = find_suspects(config, spinner.update)
    for reason, text in _REASONS.items():
        listed = [suspect for suspect in found.ranked if suspect.reason == reason]
        console.print(f"{reason}: {len(listed)}, {text}", soft_wrap=True)
        for each in listed[:_SHOWN]:
            same = f", as {printable(each.other)}" if each.other else ""
            line = f"{each.score:.3f}  {printable(each.key)}: {each.label}, rather {each.suggested}{same}"
            console.print(f"    {line}", soft_wrap=True)
    if found.skipped:
        messages.print(
            f"left out: {len(found.skipped)} that cannot be read, such as {next(iter(found.skipped.values()))}"
        )
    found.write(out)
    console.print(f"{len(found.ranked)} of {found.images} images; list: {shown(out)}", soft_wrap=True)


_REASONS = {
    "duplicate": "the same picture in another class",
    "label": "another class is more probable than this one usually is",
    "loss": "hard for a classifier that has not seen them",
}
_SHOWN = 10


def _tell(done: Exchanged, what: str) -> None:
    for remark in done.remarks:
        messages.print(remark, soft_wrap=True)
    counts = Counter(image.split for image in done.images)
    splits = "".join(f", {count} {split}" for split, count in counts.items() if split)
    classes = len({image.label for image in done.images})
    console.print(f"{done.format.title}: {len(done.images)} images in {classes} classes{splits}", soft_wrap=True)
    console.print(f"{what}: {shown(done.out)}", soft_wrap=True)
