"""Transfer learning against the same network from scratch: same images, same settings, accuracy on the test split.

    python benchmarks/training/transfer.py PHOTOS --arch mobilenet_v2 --weights FILE --size 160 --epochs 6 [--out FILE]

Further options go to `edgecls train`, for both. Prints top-1 with its bootstrap interval, and the seconds taken.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from edgecls.runtime import machine


def trained(photos: Path, weights: str, options: list[str], folder: Path) -> dict[str, Any]:
    """Train and evaluate in processes of their own; top-1 on the test split, its interval, and the seconds taken."""
    run, report = folder / "run", folder / "evaluation.json"
    edgecls = [sys.executable, "-m", "edgecls"]
    begun = time.perf_counter()
    train = [*edgecls, "train", str(photos), "--weights", weights, "--out", str(run), *options]
    subprocess.run(train, check=True, capture_output=True)
    seconds = time.perf_counter() - begun
    evaluate = [*edgecls, "evaluate", str(run), "--json", str(report), "--html", str(folder / "evaluation.html")]
    subprocess.run(evaluate, check=True, capture_output=True)
    found = json.loads(report.read_text())
    interval = found["top1_interval"]
    return {"weights": Path(weights).name, "top1": found["top1"], "interval": interval, "images": found["images"],
            "seconds": seconds}  # fmt: skip


def main() -> None:
    """Parse, train twice, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--out", type=Path)
    options, rest = parser.parse_known_args()
    found = {}
    for name, weights in (("transfer", options.weights), ("scratch", "none")):
        with tempfile.TemporaryDirectory(prefix="edgecls-") as folder:
            found[name] = each = trained(options.photos, weights, rest, Path(folder))
        low, high = each["interval"]
        print(
            f"{name:8}  top-1 {each['top1']:.2%} (95 %: {low:.1%} to {high:.1%}) on {each['images']} images, "
            f"{each['seconds']:.0f} s", flush=True,
        )  # fmt: skip
    if options.out:
        result = {"machine": machine.this_machine().to_json(), "versions": machine.versions(),
                  "data": options.photos.name,
                  "options": rest, **found}  # fmt: skip
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
