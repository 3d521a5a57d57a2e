"""What the backends that ship ONNX files share: embedding the card, and looking at the quantizers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edgecls.artifact.card import EMBEDDED_KEY, Card
from edgecls.backends.base import Layer, missing_package
from edgecls.errors import BackendError

OPSET = 17
"""The newest opset that ONNX Runtime 1.20, OpenVINO 2025, TensorRT 10 and both majors' parsers all read."""
NORMALIZE_PREFIX = "/normalize/"
"""Where the nodes of the normalization stand, as `models.deployable` is traced; they stay in float."""
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators with weights: what a sensitivity analysis ranks and what may be left in float."""


def constants_of(graph: Any) -> dict[str, Any]:
    """The tensors that a graph holds, by name: initializers and the values of Constant nodes."""
    constants: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], each.t) for each in node.attribute if each.name == "value")
    return constants


def graphs_inside(graph: Any) -> Iterator[Any]:
    """A graph and the bodies of its If, Loop and Scan nodes, at any depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs_inside(attribute.g)


def inputs_of(node: Any) -> set[str]:
    """The tensors that a node reads, those that its bodies take from around it included."""
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    inside = {name for body in bodies for graph in graphs_inside(body) for each in graph.node for name in each.input}
    given_out = {output.name for body in bodies for graph in graphs_inside(body) for output in graph.output}
    return {*node.input, *inside, *given_out}


def replace_nodes(graph: Any, nodes: Iterable[Any]) -> None:
    """Give a graph these nodes, which may be its own, in this order."""
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def drop_unused(graph: Any) -> None:
    """Take out nodes and constants that nothing reads any more."""
    producers = {output: node for node in graph.node for output in node.output}
    used: set[str] = set()
    open_ends = [output.name for output in graph.output]
    while open_ends:
        name = open_ends.pop()
        if name not in used:
            used.add(name)
            open_ends.extend(inputs_of(producers[name]) if name in producers else ())
    replace_nodes(graph, [node for node in graph.node if used.intersection(node.output)])
    tensors = [
        type(tensor).FromString(tensor.SerializeToString()) for tensor in graph.initializer if tensor.name in used
    ]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def embed_card(graph: Path, card: Card, out: Path) -> None:
    """Copy the ONNX file `graph` to `out` with the card and Model API's `model_info` keys in its metadata."""
    import onnx

    model = onnx.load(graph)
    entries = {EMBEDDED_KEY: card.embedded(), **{f"model_info {k}": v for k, v in card.model_info().items()}}
    onnx.helper.set_model_props(model, entries)
    onnx.save(model, out)


def quantizer_faults(graph: Path) -> list[str]:
    """Quantizers that TensorRT does not take as meant: one line each, naming the node; empty where all are fine.

    TensorRT wants signed int8 with zero point 0. An asymmetric quantizer it refuses; a uint8 one with zero point 0 it
    reads as int8 with a mere warning, so that everything above half of the range saturates: accuracy collapses without
    an error. https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load(graph)
    constants = constants_of(model.graph)
    faults = []
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        name = f"{node.op_type} {node.name or node.output[0]}"
        zero = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if zero is None:
            # ONNX's default zero point is uint8 0 unless the quantized input says otherwise.
            stored = constants.get(node.input[0])
            if node.op_type == "QuantizeLinear" or (stored is not None and stored.data_type != TensorProto.INT8):
                faults.append(f"{name} has no zero point, which means unsigned")
        elif zero.data_type != TensorProto.INT8:
            faults.append(f"{name} is {TensorProto.DataType.Name(zero.data_type).lower()}, not int8")
        elif np.any(numpy_helper.to_array(zero)):
            faults.append(f"{name} is asymmetric (zero point {numpy_helper.to_array(zero).ravel()[0]})")
    return faults


def graph_layers(graph: Path) -> list[Layer]:
    """The layers with weights of an ONNX file and the precision that the graph asks for, without times.

    Raises `BackendError` where onnx is not installed.
    """
    if reason := missing_package("onnx", "train", "looking into a graph"):
        raise BackendError(reason)
    import onnx
    from onnx import TensorProto

    model = onnx.load(graph)
    made_by = {output: node.op_type for node in model.graph.node for output in node.output}
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    floats = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}

    def precision(node: Any) -> str:
        if all(made_by.get(name) == "DequantizeLinear" for name in node.input[:2]):
            return "int8"
        return next((floats[stored[name]] for name in node.input if stored.get(name) in floats), "fp32")

    nodes = [node for node in model.graph.node if node.op_type in LAYERS]
    return [Layer(node.name, node.op_type, precision(node), weighted=True) for node in nodes]
