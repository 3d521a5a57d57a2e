"""Tensors inside of a network: what its last layer takes in, and the last feature map before the pooling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgecls.artifact.card import OUTPUT_NAME
from edgecls.backends.onnx_graph import LAYERS, constants_of

_BEHIND_THE_MAP = (
    "AveragePool", "BatchNormalization", "Cast", "Clip", "DequantizeLinear", "Div", "Dropout", "Flatten", "Gemm",
    "GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity", "LayerNormalization", "MatMul", "Mul",
    "QuantizeLinear", "ReduceMean", "Relu", "Reshape", "Sigmoid", "Squeeze", "Transpose",
)  # fmt: skip
"""What may stand between the last feature map and the last layer: pooling, further layers, and their activations."""
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_SPATIAL_RANK = 4


def find_inner_tensors(graph: Path) -> dict[str, str]:
    """The names by which an ONNX file calls its "embedding" and its "feature_map"; without those that it lacks."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(graph))
    producers = {output: node for node in model.graph.node for output in node.output}
    constants = constants_of(model.graph)
    shapes = {
        each.name: [axis.dim_value for axis in each.type.tensor_type.shape.dim] for each in model.graph.value_info
    }

    def before(name: str) -> str | None:
        """What the node that makes a tensor computes it from."""
        node = producers.get(name)
        return None if node is None else next((each for each in node.input if each and each not in constants), None)

    def made_by(name: str) -> str:
        return producers[name].op_type if name in producers else ""

    layer: str | None = OUTPUT_NAME
    while layer and not _is_layer(producers.get(layer), producers, constants):
        layer = before(layer)
    embedding = before(layer) if layer else None
    while embedding and made_by(embedding) in _QUANTIZERS:  # as it is before it is rounded
        embedding = before(embedding)
    if embedding is None or embedding not in producers:
        return {}
    found, name = {"embedding": embedding}, embedding
    while not _is_spatial(shapes.get(name)):
        following = before(name)
        if following is None or made_by(name) not in _BEHIND_THE_MAP:
            return found
        name = following
    while made_by(name) in _QUANTIZERS:
        name = before(name) or name
    return {**found, "feature_map": name}


def _is_layer(node: Any, producers: Mapping[str, Any], constants: Mapping[str, Any]) -> bool:
    """Whether a node is a layer with weights of its own, quantized or not."""
    if node is None or node.op_type not in LAYERS:
        return False
    weight = node.input[1]
    while weight in producers and producers[weight].op_type in _QUANTIZERS:
        weight = producers[weight].input[0]
    return weight in constants


def _is_spatial(shape: list[int] | None) -> bool:
    """Whether a tensor is (N, channels, height, width) with more than one place."""
    return shape is not None and len(shape) == _SPATIAL_RANK and shape[2] * shape[3] > 1


def with_outputs(model: bytes, names: Iterable[str]) -> bytes:
    """An ONNX file's content with these tensors as further outputs, without the onnx package.

    Protocol buffers merge what is appended: field 7 of a model is its graph, field 12 of a graph an output, field 1 of
    an output its name; a runtime infers the rest.
    """
    for name in names:
        output = _field(1, name.encode())
        model += _field(7, _field(12, output))
    return model


def _field(number: int, content: bytes) -> bytes:
    """One length-delimited field; see https://protobuf.dev/programming-guides/encoding."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
