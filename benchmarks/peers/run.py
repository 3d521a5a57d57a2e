"""edgecls beside the tools that people would use instead: the same weights, the same images, in turn, each in its own
virtual environment.

    python benchmarks/peers/run.py benchmarks/suites/FILE.toml --run RUN --photos FOLDER [--video FILE] [--out FILE]

A suite says which peers do which job, with the bundles of a run that edgecls exports first where they are missing:
`infer` (raw network inputs to scores), `files` (JPEG files to labels), `video` (a video file to labels) and `start`
(the command's help). A peer that cannot be installed or run is told with its reason, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.peers.peers import PEERS, Peer, Plan
from edgecls.benchmarking import conditions
from edgecls.benchmarking.statistics import prediction_interval
from edgecls.files import parse_toml
from edgecls.runtime import machine

TIMEOUT_S = 600
OPERATORS = '''\
"""Before torchvision is imported, declare the two operators that a processor build of torch lacks beside it."""
import importlib.abc, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch.library
            for name in ("nms", "qnms"):
                try:
                    torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float t) -> Tensor")
                except RuntimeError:
                    pass

sys.meta_path.insert(0, Finder())
'''


def prepare(peer: Peer, venvs: Path) -> str | None:
    """Make the peer's environment where it is not there yet; why that failed, or None."""
    if not peer.packages:
        return None
    path = venvs / peer.environment
    if (path / ".ready").exists():
        return None
    steps = [
        [sys.executable, "-m", "venv", str(path)],
        [str(path / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *peer.packages],
    ]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
    if any(package.startswith("torchvision") for package in peer.packages):
        packages = next(path.glob("lib/python3*/site-packages"))
        (packages / "torchvision_operators.py").write_text(OPERATORS)
        (packages / "torchvision_operators.pth").write_text("import torchvision_operators\n")
    (path / ".ready").touch()
    return None


def visit(peer: Peer, job: str, plan: Plan, venvs: Path) -> dict[str, Any]:
    """One visit in a process of the peer's environment: what its script printed, or an error."""
    python = venvs / peer.environment / "bin" / "python" if peer.packages else Path(sys.executable)
    command = [str(python), str(Path(__file__).parent / f"{peer.script}.py"), job, json.dumps(plan.for_peer(peer))]
    environment = {**os.environ, "YOLO_VERBOSE": "false", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environment)
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {TIMEOUT_S} s"}
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]
    except (IndexError, ValueError):
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]}


def main() -> None:
    """Parse, prepare, visit in turn, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="A run of edgecls.")
    parser.add_argument("--photos", type=Path, required=True, help="A folder of JPEG files.")
    parser.add_argument("--video", type=Path, help="A video file; without it that job is left out.")
    parser.add_argument("--calibration", type=Path, help="Images for int8, where the run has none of its own.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--venvs", type=Path, default=Path(__file__).parent / ".venvs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    suite = parse_toml(options.suite.read_text(), str(options.suite))
    if options.video is None:
        suite["jobs"].pop("video", None)
    plan = Plan.make(suite, options.run, options.photos, options.video, options.calibration)
    state = conditions.now()
    jobs: dict[str, list[Peer]] = {job: [PEERS[name] for name in names] for job, names in suite["jobs"].items()}
    missing: dict[str, str] = {}
    for peer in {peer.name: peer for peers in jobs.values() for peer in peers}.values():
        print(f"preparing {peer.name}", file=sys.stderr, flush=True)
        if reason := prepare(peer, options.venvs):
            missing[peer.name] = reason
    found: dict[str, dict[str, list[dict[str, Any]]]] = {job: {} for job in jobs}
    for turn in range(1, options.rounds + 1):
        for job, peers in jobs.items():
            for peer in peers:
                if peer.name in missing:
                    continue
                print(f"round {turn}: {job} {peer.name}", file=sys.stderr, flush=True)
                result = visit(peer, job, plan, options.venvs)
                if "error" in result:
                    missing[peer.name] = result["error"]
                found[job].setdefault(peer.name, []).append(result)
    table = summary(found, missing)
    print(json.dumps(table, indent=1))
    if options.out:
        result = {
            "machine": machine.this_machine().to_json(), "versions": machine.versions(), "conditions": state.to_json(),
            "suite": suite, "rounds": options.rounds, "missing": missing, "summary": table, "visits": found,
        }  # fmt: skip
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def summary(
    found: dict[str, dict[str, list[dict[str, Any]]]], missing: dict[str, str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """For each job and peer the median of each figure over the rounds, and its interval for another run."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for job, peers in found.items():
        table[job] = {}
        for name, visits in peers.items():
            if name in missing or not visits:
                continue
            figures = {key for key, value in visits[0].items() if isinstance(value, (int, float))}
            table[job][name] = {key: statistics.median(each[key] for each in visits) for key in sorted(figures)}
            main_figure = "p50_ms" if "p50_ms" in figures else "images_per_s"
            if len(visits) > 1 and main_figure in figures:
                interval = prediction_interval([each[main_figure] for each in visits])
                table[job][name]["interval"] = [interval.low, interval.high]
    return table


if __name__ == "__main__":
    main()
