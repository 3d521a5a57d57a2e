"""ONNX Runtime and OpenVINO called directly on edgecls' own model files: what its sessions cost on top."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import common


def infer(plan: dict[str, Any]) -> dict[str, float]:
    """Raw inputs to scores, one after the other, with the runtime's settings for latency."""
    path, size = Path(plan["model"]), plan["size_px"]
    image = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
    if (path / "model.onnx").exists():
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path / "model.onnx"), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return common.timed(lambda: session.run(None, {name: image}), plan["seconds"])
    import openvino

    core = openvino.Core()
    model = core.read_model(path / "model.xml")
    model.reshape([1, size, size, 3])
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def call() -> object:
        request.infer({0: image})
        return request.get_output_tensor(0).data.copy()

    return common.timed(call, plan["seconds"])


common.main({"infer": infer})
