"""The last layers of a network as a graph of their own: what they would say of each place of the last feature map."""

from __future__ import annotations

from pathlib import Path

from edgecls.artifact.card import OUTPUT_NAME
from edgecls.backends.inner_tensors import find_inner_tensors
from edgecls.errors import UsageError


def write_head(graph: Path, out: Path) -> None:
    """Write what stands behind the last feature map of a float graph as an ONNX file: feature maps (N, channels, H, W)
    float32 of any height and width in, scores (N, C) out.

    Raises `UsageError` where the network has no feature map, or last layers that take maps of one size alone.
    """
    import onnx
    from onnx.utils import Extractor

    name = find_inner_tensors(graph).get("feature_map")
    if name is None:
        raise UsageError("`explain`: this network has no feature map before its last layers; leave it out")
    model = onnx.shape_inference.infer_shapes(onnx.load(graph))
    head = Extractor(model).extract_model([name], [OUTPUT_NAME])
    for axis, free in zip(head.graph.input[0].type.tensor_type.shape.dim, ("N", "", "H", "W"), strict=True):
        if free:
            axis.dim_param = free
    del head.graph.value_info[:]  # sizes that hold for the whole network alone
    onnx.save(head, out)
    _check_sizes(out)


def _check_sizes(head: Path) -> None:
    """Raise `UsageError` for last layers that do not take a single place of a map, as those of VGG."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(head), options, providers=["CPUExecutionProvider"])
        taken = session.get_inputs()[0]
        session.run(None, {taken.name: np.zeros((2, taken.shape[1], 1, 1), np.float32)})
    except Exception as error:
        # ONNX Runtime's exceptions share no base class of their own.
        head.unlink(missing_ok=True)
        raise UsageError(
            "`explain`: the last layers of this network take feature maps of one size alone; leave it out, and "
            "explanations come from covering parts of the image"
        ) from error
