"""PyTorch, eager and compiled, on the same network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import common

from edgecls.models.torch_backend import open_module
from edgecls.runtime import store


def infer(plan: dict[str, Any]) -> dict[str, float]:
    """Raw inputs to scores, one after the other."""
    import torch

    artifact = store.find(plan["model"])
    module = open_module(artifact.path / artifact.card.model_file, artifact.card)
    if plan.get("compile"):
        module = torch.compile(module)  # type: ignore[assignment]
    image = np.random.default_rng(0).integers(0, 256, (1, *artifact.card.input_shape), np.uint8)
    with torch.inference_mode():
        module(torch.from_numpy(image))
        return common.timed(lambda: module(torch.from_numpy(image)).numpy(), plan["seconds"])


common.main({"infer": infer})
