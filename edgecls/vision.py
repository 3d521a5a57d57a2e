"""The one import of torchvision.

Where a torch without CUDA meets a torchvision whose operators were compiled for CUDA, the operators do not load and
`import torchvision` dies with "operator torchvision::nms does not exist" (pytorch issues 122494 and 157648). Models,
weights and transforms need none of them, so their missing schemas are declared first; where the operators are there,
nothing is changed.
"""

from __future__ import annotations

from typing import Any

from edgecls.errors import MissingExtraError

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> Any:
    """Return the module `torchvision`. Raises `MissingExtraError` where it or torch is not installed."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "train", "this step") from error
    try:
        import torchvision
    except ImportError as error:
        raise MissingExtraError("torchvision", "train", "this step") from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", _SCHEMA)
        import torchvision
    return torchvision
