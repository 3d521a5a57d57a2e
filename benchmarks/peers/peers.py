"""Who is measured, what each needs to be installed, and the files that all of them work on."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TORCH = ("torch==2.13.0", "torchvision==0.28.0")


@dataclass(frozen=True)
class Peer:
    """One way to do the jobs: its script, the packages of its environment (none: that of edgecls), and its model file.

    `model` is the key of `Plan.files`; `options` go to the script.
    """

    name: str
    script: str
    model: str
    environment: str = ""
    packages: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()


ULTRALYTICS = ("ultralytics", ("ultralytics==8.4.190", *TORCH, "onnx", "onnxruntime==1.31.1", "openvino==2026.4.1"))
MODEL_API = ("model_api", ("openvino-model-api==0.4.7", "openvino==2026.4.1"))
NCNN = ("ncnn", ("ncnn", "pnnx", "torch==2.13.0", "numpy", "opencv-python-headless"))

_ALL = (
    Peer("edgecls onnx-fp32", "ours_peer", "onnx-fp32"),
    Peer("edgecls onnx-int8", "ours_peer", "onnx-int8"),
    Peer("edgecls openvino-fp32", "ours_peer", "openvino-fp32"),
    Peer("edgecls openvino-int8", "ours_peer", "openvino-int8"),
    Peer("edgecls torch", "ours_peer", "torch"),
    Peer("edgecls openvino-fp32, streams", "ours_peer", "openvino-fp32", options=(("streams", None),)),
    Peer("edgecls openvino-int8, streams", "ours_peer", "openvino-int8", options=(("streams", None),)),
    Peer("edgecls onnx-fp32, streams", "ours_peer", "onnx-fp32", options=(("streams", None),)),
    Peer("onnxruntime fp32", "direct_peer", "onnx-fp32"),
    Peer("onnxruntime int8", "direct_peer", "onnx-int8"),
    Peer("openvino fp32", "direct_peer", "openvino-fp32"),
    Peer("openvino int8", "direct_peer", "openvino-int8"),
    Peer("benchmark_app fp32, latency", "benchmark_app_peer", "openvino-fp32", options=(("hint", "latency"),)),
    Peer("benchmark_app fp32, throughput", "benchmark_app_peer", "openvino-fp32", options=(("hint", "throughput"),)),
    Peer("benchmark_app int8, throughput", "benchmark_app_peer", "openvino-int8", options=(("hint", "throughput"),)),
    Peer("torch eager", "torch_peer", "torch"),
    Peer("torch compiled", "torch_peer", "torch", options=(("compile", True),)),
    Peer("Model API fp32", "model_api_peer", "openvino-fp32", *MODEL_API),
    Peer("Model API int8", "model_api_peer", "openvino-int8", *MODEL_API),
    Peer("Model API fp32, asynchronous", "model_api_peer", "openvino-fp32", *MODEL_API, (("asynchronous", True),)),
    Peer("Ultralytics onnx", "ultralytics_peer", "nchw-onnx", *ULTRALYTICS),
    Peer("Ultralytics openvino", "ultralytics_peer", "nchw-openvino", *ULTRALYTICS),
    Peer("ncnn", "ncnn_peer", "nchw-torchscript", *NCNN),
)
PEERS = {peer.name: peer for peer in _ALL}


@dataclass(frozen=True)
class Plan:
    """The files of a suite: models by key, photographs, a video."""

    files: dict[str, str]
    photos: list[str]
    video: str | None
    size_px: int
    seconds: float

    @classmethod
    def make(
        cls, suite: dict[str, Any], folder: Path, photos: Path, video: Path | None, calibration: Path | None
    ) -> Plan:
        """Export what is missing of a run, and find the images."""
        from edgecls.runtime import store

        run = store.find_run(folder)
        for bundle in ("onnx-fp32", "onnx-int8", "openvino-fp32", "openvino-int8"):
            if not (run.path / "bundles" / bundle / "card.json").exists():
                target, precision = bundle.split("-")
                command = [sys.executable, "-m", "edgecls", "export", str(run.path), "--target", target]
                command += ["--int8", "--strategy", "smallest"] if precision == "int8" else []
                command += ["--calibration", str(calibration)] if calibration and precision == "int8" else []
                subprocess.run(command, check=True)
        files = {name: str(run.path / "bundles" / name) for name in ("onnx-fp32", "onnx-int8")}
        files |= {name: str(run.path / "bundles" / name) for name in ("openvino-fp32", "openvino-int8")}
        files["torch"] = str(run.path)
        plain = run.path / "peers"
        if not (plain / "nchw.onnx").exists():
            subprocess.run([sys.executable, str(Path(__file__).parent / "plain_export.py"), str(run.path)], check=True)
        files |= {"nchw-onnx": str(plain / "nchw.onnx"), "nchw-openvino": str(plain / "nchw_openvino_model")}
        files["nchw-torchscript"] = str(plain / "nchw.torchscript")
        found = sorted(str(path) for path in photos.rglob("*.jpg"))[: suite.get("images", 400)]
        size_px, seconds = run.card.preprocess.height_px, float(suite.get("seconds", 2.0))
        return cls(files, found, str(video) if video else None, size_px, seconds)

    def for_peer(self, peer: Peer) -> dict[str, Any]:
        """What a peer's script is told."""
        return {
            "model": self.files[peer.model], "photos": self.photos, "video": self.video, "size_px": self.size_px,
            "seconds": self.seconds, **dict(peer.options),
        }  # fmt: skip
