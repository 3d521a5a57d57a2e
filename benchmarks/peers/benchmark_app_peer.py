"""OpenVINO's own benchmark_app on edgecls' model files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import common


def infer(plan: dict[str, Any]) -> dict[str, float]:
    """Its median latency and throughput."""
    command = [
        str(Path(sys.executable).parent / "benchmark_app"), "-m", f"{plan['model']}/model.xml", "-d", "CPU",
        "-hint", plan["hint"], "-t", str(max(3, int(2 * plan["seconds"]))), "-infer_precision", "f32",
        "-shape", f"[1,{plan['size_px']},{plan['size_px']},3]",
    ]  # fmt: skip
    message = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    median = float(re.search(r"Median:\s+([\d.]+) ms", message)[1])  # type: ignore[index]
    rate = float(re.search(r"Throughput:\s+([\d.]+) FPS", message)[1])  # type: ignore[index]
    found = {"images_per_s": rate}
    return {"p50_ms": median, **found} if plan["hint"] == "latency" else found


common.main({"infer": infer})
