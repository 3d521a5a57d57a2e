"""All that only an NVIDIA GPU can show, in one go, written as one JSON file that anybody can send.

    python benchmarks/gpu/run.py RUN [RUN ...] --out benchmarks/results/DATE-GPU.json

For each run and precision it exports a TensorRT bundle (or takes the one that is there), builds the engine on this GPU,
compares its answers with the same graph in ONNX Runtime, and measures latency, throughput over batch sizes, the time of
building, and the share of the time that is spent in each precision. Where `trtexec` is installed it measures the same
ONNX file. Everything runs in turn; nothing else should run on the GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from edgecls import backends
from edgecls.artifact.golden import Golden
from edgecls.backends.nvidia import cuda
from edgecls.clock import milliseconds_since, now_ns
from edgecls.errors import EdgeclsError
from edgecls.exporting.bundle import export
from edgecls.exporting.config import ExportConfig
from edgecls.runtime import machine, store
from edgecls.runtime.layers import profile_layers
from edgecls.runtime.pipeline import pipelined, scores_of
from edgecls.runtime.scores import agreement

BATCHES = (1, 2, 4, 8, 16, 32)
PRECISIONS = ("fp32", "fp16", "int8")
IMAGES = 256


def study(run: store.Artifact, precision: str, seconds: float) -> dict[str, Any]:
    """Everything about one run in one precision."""
    record: dict[str, Any] = {"run": run.path.name, "arch": run.card.arch, "precision": precision}
    config = ExportConfig(
        target="tensorrt", run=run.path, precision=precision, batch=(1, 1, max(BATCHES)), max_drop_points=100.0
    )
    try:
        bundle = export(config)
        shutil.rmtree(bundle.path / "engines", ignore_errors=True)  # so that building is timed from nothing
        begun_ns = now_ns()
        [engine] = bundle.backend.prepare(bundle.path, bundle.card)
        record["build_s"] = round(milliseconds_since(begun_ns) / 1000, 2)
        record["engine_mb"] = round(engine.stat().st_size / 1e6, 2)
        record |= {"parity": parity(bundle), "latency": latency(bundle, seconds), "inside": inside(bundle)}
        record["trtexec"] = trtexec(bundle)
    except EdgeclsError as error:
        record["error"] = str(error)
    return record


def parity(bundle: store.Artifact) -> dict[str, Any]:
    """Answers of the engine against those of ONNX Runtime on the same graph."""
    images = np.concatenate([Golden.read(bundle.path, bundle.card).images, noise(bundle, IMAGES)])
    fallback = backends.find(bundle.backend.fallback or "onnx")
    with bundle.open() as ours, fallback.open(bundle.path / bundle.card.model_file, bundle.card) as theirs:
        scores, expected = scores_of(ours, images), scores_of(theirs, images)
        submitted = np.concatenate(list(pipelined(ours, images[:64])))
    return {
        "images": len(images),
        "agreement": agreement(scores, expected),
        "max_score_difference": float(np.abs(scores - expected).max()),
        "largest_score": float(np.abs(expected).max()),
        "submitted_as_inferred": bool(np.abs(submitted - scores[:64]).max() < 1e-3 * np.abs(expected).max()),
    }


def latency(bundle: store.Artifact, seconds: float) -> list[dict[str, Any]]:
    """Host image in to host scores out, one batch after another, and for one image also two under way at once."""
    rows = []
    with bundle.open() as session:
        for batch in BATCHES:
            images = noise(bundle, batch)
            session.infer(images)
            times_ms, begun_ns = [], now_ns()
            while milliseconds_since(begun_ns) < 1000 * seconds or len(times_ms) < 20:
                start_ns = now_ns()
                session.infer(images)
                times_ms.append(milliseconds_since(start_ns))
            p50, p90, p99 = np.percentile(times_ms, (50, 90, 99))
            rows.append(
                {"batch": batch, "p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "images_per_s": 1000 * batch / p50}
            )
        images, begun_ns, done = noise(bundle, 256), now_ns(), 0
        while milliseconds_since(begun_ns) < 1000 * seconds:
            done += len(list(pipelined(session, images)))
        rows.append(
            {"batch": 1, "overlapping": session.depth, "images_per_s": 1000 * done / milliseconds_since(begun_ns)}
        )
    return rows


def inside(bundle: store.Artifact) -> dict[str, Any]:
    """What the engine computes in."""
    seen = profile_layers(bundle)
    weighted = [layer for layer in seen.layers if layer.weighted]
    counts = {
        name: sum(layer.precision == name for layer in weighted) for name in {layer.precision for layer in weighted}
    }
    return {"time_shares": seen.shares, "layers_with_weights": counts, "unquantized": seen.unquantized}


def trtexec(bundle: store.Artifact) -> dict[str, Any] | None:
    """NVIDIA's own tool on the same ONNX file, or None where it is not installed."""
    program = shutil.which("trtexec") or shutil.which("trtexec", path="/usr/src/tensorrt/bin")
    if program is None:
        return None
    shape = "x".join(map(str, (1, *bundle.card.input_shape)))
    command = [program, f"--onnx={bundle.path / bundle.card.model_file}", f"--shapes=image:{shape}", "--stronglyTyped"]
    done = subprocess.run([*command, "--useCudaGraph"], capture_output=True, text=True, timeout=900, check=False)
    found = re.search(r"Latency: min = \S+ ms, max = \S+ ms, mean = \S+ ms, median = (\S+) ms", done.stdout)
    return {"p50_ms": float(found[1])} if found else {"error": done.stderr.strip().splitlines()[-1:] or done.returncode}


def noise(bundle: store.Artifact, count: int) -> np.ndarray:
    """Raw inputs (count, h, w, 3) that look like nothing."""
    return np.random.default_rng(0).integers(0, 256, (count, *bundle.card.input_shape), dtype=np.uint8)


def main() -> None:
    """Parse, study, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing for each batch size")
    options = parser.parse_args()
    backend = backends.find("tensorrt")
    if reason := backend.available():
        parser.exit(5, f"error: {reason}\n")
    gpu = cuda.gpu()
    result: dict[str, Any] = {
        "machine": machine.this_machine().to_json(), "gpu": vars(gpu) if gpu else None, "tensorrt": backend.version(),
        "versions": machine.versions(), "records": [],
    }  # fmt: skip
    for path in options.runs:
        for precision in PRECISIONS:
            record = study(store.find_run(path), precision, options.seconds)
            result["records"].append(record)
            options.out.write_text(json.dumps(result, indent=1) + "\n")
            print(json.dumps({name: record.get(name) for name in ("run", "precision", "build_s", "parity", "error")}))
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
