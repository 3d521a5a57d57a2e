"""ncnn on the same weights, converted by pnnx."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import common
import numpy as np


def infer(plan: dict[str, Any]) -> dict[str, float]:
    """Float inputs to scores, one after the other, on all processors."""
    import ncnn

    source, size = Path(plan["model"]), plan["size_px"]
    parameters = source.with_suffix(".ncnn.param")
    if not parameters.exists():
        pnnx = str(Path(sys.executable).parent / "pnnx")
        shape = f"inputshape=[1,3,{size},{size}]"
        subprocess.run([pnnx, source.name, shape], check=True, capture_output=True, cwd=source.parent)
    net = ncnn.Net()
    net.opt.num_threads = 2
    net.load_param(str(parameters))
    net.load_model(str(source.with_suffix(".ncnn.bin")))
    image = np.random.default_rng(0).random((3, size, size), np.float32)

    def call() -> object:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image))
        return np.array(extractor.extract("out0")[1])

    return common.timed(call, plan["seconds"])


common.main({"infer": infer})
