"""The study behind the recipes: runs x targets x candidates on real images, written as JSON and as a table.

    python calibration/study.py RUN [RUN ...] --out calibration/results/NAME.json
    python calibration/study.py --table calibration/results/*.json

A run brings its weights and its held-out images; make one with `edgecls train` or `edgecls import --data`. With
`--every-candidate` every candidate but fine-tuning is tried, otherwise it ends where an export ends.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from edgecls import backends
from edgecls.clock import milliseconds_since, now_ns
from edgecls.errors import EdgeclsError
from edgecls.exporting.bundle import export
from edgecls.exporting.config import ExportConfig
from edgecls.runtime import machine, store


def study(run: store.Artifact, target: str, images: int, every_candidate: bool, keep: bool) -> dict[str, Any]:
    """Export one run for one target; the search's figures, or the reason why there are none."""
    begun = now_ns()
    record: dict[str, Any] = {
        "run": run.path.name, "arch": run.card.arch, "data": run.card.lineage.data, "target": target,
        "size_px": run.card.preprocess.height_px,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="edgecls-study-") as scratch:
        config = ExportConfig(
            target=target,
            run=run.path,
            precision="int8",
            out=None if keep else Path(scratch) / "bundle",
            verify_images=images,
            max_drop_points=100 if every_candidate else 1.0,
            strategy="most-accurate" if every_candidate else "fastest",
        )
        try:
            card = export(config).card
        except EdgeclsError as error:
            return {**record, "error": str(error)}
    quality = card.quality
    return {
        **record,
        "parent_top1": (quality.top1 or 0) + (quality.drop_points or 0) / 100,
        "images": quality.images,
        "drop_interval_points": quality.drop_interval_points,
        "kept": (card.lineage.recipe or {})["candidate"],
        "recommended": quality.recommended,
        "candidates": list(card.lineage.candidates or ()),
        "seconds": round(milliseconds_since(begun) / 1000, 1),
        "peak_memory_mb": round(machine.peak_memory_mb() or 0),
    }


def table(records: list[dict[str, Any]]) -> str:
    """The records as a Markdown table, one line a candidate; the kept one is bold."""
    lines = [
        "| network | images | target | candidate | drop (points) | agreement (%) | vs float32 | MB |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    for record in records:
        name = f"{record['run'].split('-', 1)[-1]}, {record['size_px']} px"
        for candidate in record.get("candidates", ()):
            bold = "**" if candidate["candidate"] == record["kept"] else ""
            drop, agreed, gain, size = (
                candidate["drop_points"],
                candidate["agreement"],
                candidate["gain"],
                candidate["size_bytes"],
            )
            cells = [
                name, str(record["images"]), record["target"], f"{bold}{candidate['candidate']}{bold}",
                "–" if drop is None else f"{drop:.2f}", "–" if agreed is None else f"{100 * agreed:.1f}",
                "–" if gain is None else f"{gain:.2f}x", "–" if size is None else f"{size / 1e6:.1f}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
        if "error" in record:
            lines.append(f"| {name} | | {record['target']} | {record['error']} | | | | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse, study, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", type=Path, help="runs, or with --table result files")
    parser.add_argument("--out", type=Path, default=Path("study.json"))
    parser.add_argument("--targets", default=",".join(backends.exportable()))
    parser.add_argument("--images", type=int, default=1000, help="held-out images to compare on, at most")
    parser.add_argument("--every-candidate", action="store_true")
    parser.add_argument("--keep", action="store_true", help="leave the bundles in the runs, for edgecls benchmark")
    parser.add_argument("--table", action="store_true", help="print result files as a table")
    options = parser.parse_args()
    result: dict[str, Any]
    if options.table:
        for path in options.places:
            result = json.loads(path.read_text())
            print(f"`{path.name}`: {result['machine']['cpu']}, {result['machine']['cores']} cores\n")
            print(table(result["records"]))
        return
    result = {"machine": machine.this_machine().to_json(), "versions": machine.versions(), "records": []}
    for path in options.places:
        for target in options.targets.split(","):
            result["records"].append(
                study(store.find_run(path), target, options.images, options.every_candidate, options.keep)
            )
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(result, indent=1) + "\n")
            print(table(result["records"][-1:]), flush=True)


if __name__ == "__main__":
    main()
