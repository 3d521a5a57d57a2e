"""What int8 costs and brings, network by network: no family of networks is left to chance.

    python benchmarks/int8.py DATA [--archs NAME ...] [--targets onnx,openvino] [--epochs N] [--size PX] [--device KIND]

Trains each network on DATA with `edgecls train`, or takes the run that an earlier call left in EDGECLS_RUNS, exports it
to int8 for every target with `edgecls export`, and prints what the cards say: top-1 in float, the drop with its 95 %
interval, agreement, latency, speed against float32 in the same runtime, the recipe that was kept and how many were
tried, and the seconds of the whole export. A refusal is printed as what it is. `--device x86` builds for processors
without VNNI, wherever this runs. The last line is JSON, for results/.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgecls.runtime.machine import this_machine

ARCHS = (
    "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0", "shufflenet_v2_x1_0",
    "squeezenet1_1", "regnet_y_400mf", "resnet18", "timm/vit_tiny_patch16_224", "timm/convnext_atto",
)  # fmt: skip
COLUMNS = "{:28s} {:9s} {:>7s} {:>22s} {:>9s} {:>7s} {:>6s} {:>6s}  {}"


def main() -> None:
    """Train, export and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--archs", nargs="+", default=ARCHS)
    parser.add_argument("--targets", default="onnx,openvino")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--device")
    given = parser.parse_args()
    runs = Path(os.environ.setdefault("EDGECLS_RUNS", "runs-int8"))
    print(this_machine().name, ", ".join(this_machine().instruction_sets))
    print(COLUMNS.format("network", "target", "top-1", "drop (points, 95 %)", "agreement", "ms", "gain", "s", "recipe"))
    rows: list[dict[str, Any]] = []
    for arch in given.archs:
        run = runs / f"{arch.replace('/', '-')}-{given.size}px"
        if not (run / "card.json").is_file():
            size = ["--size", str(given.size)]
            done = command(
                "train", "--data", given.data, "--arch", arch, *size, "--epochs", str(given.epochs), "--out", str(run)
            )
            if done.returncode:
                print(f"{arch}: {said(done)}")
                continue
        for target in given.targets.split(","):
            rows.append(exported(run, arch, target, given.device))
            show(rows[-1])
    print(json.dumps({"machine": this_machine().to_json(), "data": given.data, "size_px": given.size, "rows": rows}))


def exported(run: Path, arch: str, target: str, device: str | None) -> dict[str, Any]:
    """The figures of one export."""
    for_device = ["--device", device] if device and target == "onnx" else []
    begun = time.perf_counter()
    done = command("export", str(run), "--target", target, "--int8", *for_device)
    seconds = time.perf_counter() - begun
    row: dict[str, Any] = {"arch": arch, "target": target, "device": device, "seconds": round(seconds, 1)}
    parent = json.loads((run / "card.json").read_text())
    row["top1"] = parent["quality"]["top1"]
    if done.returncode:
        return {**row, "refused": said(done)}
    card = json.loads((run / "bundles" / f"{target}-int8" / "card.json").read_text())
    quality, lineage = card["quality"], card["lineage"]
    names = ("drop_points", "drop_low_points", "drop_high_points", "agreement", "images", "latency_ms", "gain", "note")
    row.update({name: quality.get(name) for name in names})
    return {**row, "recipe": lineage["recipe"]["candidate"], "tried": len(lineage["candidates"])}


def show(row: dict[str, Any]) -> None:
    """Print one row."""
    top1 = f"{100 * row['top1']:.2f}"
    if "refused" in row:
        print(f"{row['arch']:28s} {row['target']:9s} {top1:>7s} refused after {row['seconds']:.0f} s: {row['refused']}")
        return
    drop = f"{row['drop_points']:.2f} ({row['drop_low_points']:.2f} to {row['drop_high_points']:.2f})"
    latency, gain = (f"{row[name]:.2f}" if row[name] else "–" for name in ("latency_ms", "gain"))
    recipe = f"{row['recipe']}, {row['tried']} tried{', undecided' if row['note'] else ''}"
    agreement, seconds = f"{100 * row['agreement']:.2f}", f"{row['seconds']:.0f}"
    print(COLUMNS.format(row["arch"], row["target"], top1, drop, agreement, latency, gain, seconds, recipe), flush=True)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run edgecls."""
    return subprocess.run([sys.executable, "-m", "edgecls", *arguments], capture_output=True, text=True, check=False)


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The error in one line."""
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1]


if __name__ == "__main__":
    main()
