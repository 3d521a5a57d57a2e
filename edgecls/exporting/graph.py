"""The float graph of a run as ONNX: traced from torch, or taken over from an imported ONNX file."""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

from edgecls.artifact.card import INPUT_NAME, OUTPUT_NAME, Card
from edgecls.backends.onnx_graph import NORMALIZE_PREFIX, OPSET
from edgecls.errors import BackendError, MissingExtraError, first_line
from edgecls.models import require_torch
from edgecls.models.torch_backend import open_module

logger = logging.getLogger(__name__)


def float_graph(weights: Path, card: Card, out: Path, half: bool = False) -> None:
    """Write a run's network as an ONNX file: (N, h, w, 3) uint8 RGB in, (N, C) float32 out, N dynamic.

    `weights` is the run's model file: safetensors for `card.arch`, or an imported graph. With `half` the network
    computes in float16. Raises `MissingExtraError` where torch or onnx is missing.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "train", "exporting") from error
    if weights.suffix != ".onnx":
        _trace(weights, card, out, half)
    elif half:
        _halve(weights, out)
    else:
        shutil.copyfile(weights, out)
    onnx.save(simplified(onnx.load(out)), out)


def simplified(model: Any) -> Any:
    """An ONNX model without what follows from its constants and known dimensions, identities, and separate padding.

    Quantizers take arithmetic on shapes for layers, and runtimes that build per shape stumble over it. A graph that
    cannot be simplified stays as it is.
    """
    try:
        import onnxsim
    except ImportError as error:
        raise MissingExtraError("onnxsim", "train", "exporting") from error
    try:
        simpler, _ = onnxsim.simplify(model)
    except Exception as error:
        # Graphs that others wrote may hold operators that it does not know; its errors share no base class.
        logger.warning("the graph cannot be simplified: %s", first_line(error))
        return model
    return simpler


def _trace(weights: Path, card: Card, out: Path, half: bool) -> None:
    """Torch's tracing exporter is used on purpose.

    For these networks it is about ten times faster than the exporter built on `torch.export`, needs no further package,
    and keeps global average pooling as one node.
    """
    require_torch("exporting")
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


def _halve(graph: Path, out: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(graph)
    kept = [node.name for node in model.graph.node if node.name.startswith(NORMALIZE_PREFIX)]
    try:
        halved = convert_float_to_float16(model, keep_io_types=True, node_block_list=kept)
    except (ValueError, RuntimeError) as error:
        raise BackendError(
            f"the imported graph cannot be converted to float16 ({error}); use int8 or neither"
        ) from error
    onnx.save(halved, out)
