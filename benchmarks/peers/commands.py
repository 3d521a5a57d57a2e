"""Whole commands beside each other, from the command to the last label, each tool in its own virtual environment.

    python benchmarks/peers/commands.py --run RUN --photos FOLDER --video FILE [--rounds N] [--out FILE]

One JPEG of 400 px, 300 of them, 40 of 12 megapixels, and 500 frames of the video: photographs and video are brought to
these sizes first. The run's network is what all of them compute, with ONNX Runtime or OpenVINO: Ultralytics, which
exports only its own networks, predicts from the same ONNX file by its `yolo` command; Model API, torchvision and the
bare runtimes stand in a script of a few lines. In alternation, after a turn that fills caches; prints the median of
each, its range, and the median of the ratios to edgecls within a turn, with their range. It needs an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.peers.peers import PEERS, Plan
from benchmarks.peers.run import TIMEOUT_S, prepare
from edgecls.files import write_text
from edgecls.imaging.opencv import cv2
from edgecls.runtime import machine

SMALL_PX, LARGE_PX = 400, (4000, 3000)
FILES = {"one JPEG": ("small", 1), "300 JPEGs, 400 px": ("small", 300), "40 JPEGs, 12 MP": ("large", 40)}
FRAMES, FRAME_PX, VIDEO = 500, (1920, 1080), "500 frames, 1080p"
OURS = {"edgecls onnx": "onnx-fp32", "edgecls openvino": "openvino-fp32"}
SCRIPTED = {
    "onnxruntime": ("Ultralytics onnx", "onnx-fp32"),
    "openvino": ("Ultralytics onnx", "openvino-fp32"),
    "Model API": ("Model API fp32", "openvino-fp32"),
    "torchvision": ("Ultralytics onnx", "nchw-torchscript"),
}
"""What runs in `command_peer.py`: whose environment it takes, and its model's key in `Plan.files`."""


def make_files(photos: list[str], video: str | None, folder: Path) -> dict[str, Path]:
    """The place of the input of each row."""
    for name, (kind, count) in FILES.items():
        place = folder / name.replace(", ", "_").replace(" ", "_")
        place.mkdir()
        for index in range(count):
            image = cv2.imread(photos[index % len(photos)])
            scale = SMALL_PX / min(image.shape[:2])
            size = LARGE_PX if kind == "large" else (round(image.shape[1] * scale), round(image.shape[0] * scale))
            cv2.imwrite(str(place / f"{index:03d}.jpg"), cv2.resize(image, size, interpolation=cv2.INTER_AREA))
    places = {name: folder / name.replace(", ", "_").replace(" ", "_") for name in FILES}
    if video:
        places[VIDEO] = folder / "video.mp4"
        make_video(video, places[VIDEO])
    return places


def make_video(video: str, path: Path) -> None:
    """The video over and over, as so many frames of that size in H.264."""
    import av

    width, height = FRAME_PX
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        number = 0
        while number < FRAMES:
            with av.open(video) as source:
                for frame in islice(source.decode(video=0), FRAMES - number):
                    scaled = frame.reformat(width, height, "yuv420p", interpolation="BICUBIC")
                    scaled.pts, scaled.time_base, scaled.pict_type = number, Fraction(1, 30), 0
                    out.mux(stream.encode(scaled))
                    number += 1
        out.mux(stream.encode())


def commands(plan: Plan, place: Path, venvs: Path, missing: dict[str, str]) -> dict[str, list[str]]:
    """Every tool's command for one input."""
    found: dict[str, list[str]] = {}
    for name, model in OURS.items():
        verb = ["predict", str(place)]
        if place.is_file():
            verb = ["stream", "--camera", str(place)]
        found[name] = [sys.executable, "-m", "edgecls", *verb, "--model", plan.files[model]]
    for name, model in (("yolo onnx", "nchw-onnx"), ("yolo openvino", "nchw-openvino")):
        settings = [f"model={plan.files[model]}", f"source={place}", f"imgsz={plan.size_px}", "task=classify"]
        yolo = venvs / PEERS["Ultralytics onnx"].environment / "bin" / "yolo"
        found[name] = [str(yolo), "predict", *settings, "device=cpu", "save=False"]
    script = str(Path(__file__).parent / "command_peer.py")
    for name, (peer, model) in SCRIPTED.items():
        python = str(venvs / PEERS[peer].environment / "bin" / "python")
        found[name] = [python, script, name, plan.files[model], str(place), str(plan.size_px)]
    gone = {name for name in found if ("yolo" in name and "Ultralytics onnx" in missing)}
    gone |= {name for name, (peer, _) in SCRIPTED.items() if peer in missing}
    return {name: command for name, command in found.items() if name not in gone}


def seconds_of(command: list[str]) -> float:
    """How long a whole command takes. Raises `RuntimeError` where it fails."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as folder:  # some tools write results where they stand
        begun = time.perf_counter()
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment, cwd=folder
        )
        spent = time.perf_counter() - begun
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300])
    return spent


def measured(candidates: dict[str, list[str]], rounds: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of each command in turn, and what failed."""
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    failed: dict[str, str] = {}
    for turn in range(rounds + 1):
        for name, command in candidates.items():
            if name in failed:
                continue
            try:
                seconds = seconds_of(command)
            except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
                failed[name] = str(error)
                continue
            if turn:  # the first fills caches
                spent[name].append(seconds)
    return {name: values for name, values in spent.items() if name not in failed}, failed


def told(row: str, spent: dict[str, list[float]]) -> None:
    """Print one row's figures."""
    print(f"\n{row}")
    for name, values in spent.items():
        line = f"{name:18s} {statistics.median(values):7.2f} s  ({min(values):.2f} to {max(values):.2f})"
        for ours in OURS:
            if name not in OURS and ours in spent:
                ratios = [theirs / own for theirs, own in zip(values, spent[ours], strict=True)]
                line += f"  {statistics.median(ratios):.2f}x {ours} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line, flush=True)


def main() -> None:
    """Make the files, prepare the environments, measure in turn, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="A run of edgecls.")
    parser.add_argument("--photos", type=Path, required=True, help="A folder of JPEG files.")
    parser.add_argument("--video", type=Path, help="A video file; without it that row is left out.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--venvs", type=Path, default=Path(__file__).parent / ".venvs")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    plan = Plan.make({}, given.run.resolve(), given.photos, given.video, None)
    venvs, missing = given.venvs.resolve(), dict[str, str]()
    for name in ("Ultralytics onnx", "Model API fp32"):
        if reason := prepare(PEERS[name], venvs):
            missing[name] = reason
    result: dict[str, Any] = {"machine": machine.this_machine().to_json(), "versions": machine.versions(), "rows": {}}
    print(machine.this_machine().cpu)
    with tempfile.TemporaryDirectory() as folder:
        for row, place in make_files(plan.photos, plan.video, Path(folder)).items():
            spent, failed = measured(commands(plan, place, venvs, missing), given.rounds)
            told(row, spent)
            for name, reason in failed.items():
                print(f"{name:18s} {reason}")
            result["rows"][row] = {"seconds": spent, "failed": failed}
    for name, reason in missing.items():
        print(f"{name} cannot be installed: {reason}")
    if given.out:
        write_text(given.out, json.dumps({**result, "missing": missing, "rounds": given.rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
