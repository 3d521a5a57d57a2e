"""Ultralytics' predict on the same weights, exported to the inputs that it feeds: float32 NCHW, 0 to 1."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import common


def _model(plan: dict[str, Any]) -> Any:
    from ultralytics import YOLO

    return YOLO(plan["model"], task="classify")


def files(plan: dict[str, Any]) -> dict[str, float]:
    """JPEG files to labels, streamed."""
    model = _model(plan)
    settings = {"imgsz": plan["size_px"], "verbose": False, "stream": True, "device": "cpu"}

    def work(paths: list[str]) -> int:
        return len([result.names[result.probs.top1] for path in paths for result in model.predict(path, **settings)])

    return common.rated(lambda: work(plan["photos"]), lambda: work(plan["photos"][:20]))


def video(plan: dict[str, Any]) -> dict[str, float]:
    """A video file to labels, streamed."""
    model = _model(plan)
    settings = {"imgsz": plan["size_px"], "verbose": False, "stream": True, "device": "cpu"}
    list(model.predict(plan["photos"][0], **settings))
    return common.rated(
        lambda: len([r.names[r.probs.top1] for r in model.predict(plan["video"], **settings)]), lambda: None
    )


def start(_plan: dict[str, Any]) -> dict[str, float]:
    """How long `yolo help` takes."""
    import subprocess

    command = [str(Path(sys.executable).parent / "yolo"), "help"]
    return common.timed(lambda: subprocess.run(command, capture_output=True, check=False), 6.0)


common.main({"files": files, "video": video, "start": start})
