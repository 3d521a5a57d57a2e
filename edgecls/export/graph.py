"""From torch to ONNX: one graph with raw images in and scores out, in float32 or float16."""

from __future__ import annotations

import warnings
from pathlib import Path

from edgecls.backends.torch import open_module
from edgecls.card import INPUT_NAME, OUTPUT_NAME, Card
from edgecls.errors import MissingExtraError

OPSET = 17
"""The newest opset that ONNX Runtime 1.20, OpenVINO 2025, TensorRT 10 and both majors' parsers all read."""
NORMALIZE_PREFIX = "/normalize/"
"""Where the exporter puts the nodes of `models.deployable`'s normalization; they stay in float."""


def export_graph(weights: Path, card: Card, out: Path, half: bool = False) -> None:
    """Write the run's network as an ONNX file: (N, h, w, 3) uint8 RGB in, (N, C) float32 out, N dynamic.

    Torch's tracing exporter is used on purpose: for these networks it is about ten times faster than the exporter built
    on `torch.export`, needs no further package, and keeps global average pooling as one node.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("onnx", "train", "exporting") from error
    import torch

    module = open_module(weights, card, half)
    example = torch.zeros((2, *card.input_shape), dtype=torch.uint8)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (example,),
            str(out),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_axes={INPUT_NAME: {0: "N"}, OUTPUT_NAME: {0: "N"}},
        )
