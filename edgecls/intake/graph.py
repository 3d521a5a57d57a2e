"""Somebody's ONNX classifier, so changed that it takes raw images as every graph of ours does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecls.backends.onnx_graph import NORMALIZE_PREFIX, OPSET
from edgecls.card import INPUT_NAME, OUTPUT_NAME, Output
from edgecls.errors import ArtefactError, UsageError, first_line

OLDEST_OPSET = 13
"""Per-channel quantizers came with it; older graphs are converted."""


@dataclass(frozen=True)
class Pixels:
    """How a network wants its pixels: mean and standard deviation of red, green and blue on a scale of 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_PASS_ON = frozenset(
    "Cast DequantizeLinear Flatten Identity QuantizeLinear Reshape Squeeze Transpose Unsqueeze".split()  # noqa: SIM905
)
"""Operators that leave the values of scores what they are."""


def output_kind(graph: Path) -> Output:
    """Whether an ONNX classifier gives logits or probabilities, by the operator that makes its first output.

    Raises `ArtefactError` for a sigmoid: there several classes may be true at once, which no single label can say.
    """
    import onnx

    model = onnx.load(graph, load_external_data=False)
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers.get(model.graph.output[0].name)
    while node is not None and node.op_type in _PASS_ON:
        node = makers.get(node.input[0])
    operator = node.op_type if node is not None else ""
    if operator in ("Sigmoid", "HardSigmoid"):
        raise ArtefactError(
            f"the network ends in a {operator}: several classes may be true of an image at once, and edgecls names "
            "one; export the network without it where just one is true"
        )
    return "probabilities" if operator == "Softmax" else "logits"


def take_raw_images(
    graph: Path, pixels: Pixels, size_px: tuple[int, int] | None, classes: int, out: Path
) -> tuple[int, int]:
    """Copy somebody's ONNX classifier so that it takes raw images; returns the height and width of its input.

    The copy takes (N, h, w, 3) uint8 RGB and gives (N, C) float32; N is free, normalization is inside.
    `size_px` is (height, width), needed only where the graph leaves them open. Raises `ArtefactError` for a graph that
    is no such classifier: float32 NCHW in, one score per class out.
    """
    import onnx

    model = _read_model(graph)
    image, scores = _only_input(model, graph), model.graph.output[0]
    height, width = _input_size(image, size_px, graph)
    found = [dimension.dim_value for dimension in scores.type.tensor_type.shape.dim]
    if found and found[-1] not in (0, classes):
        raise ArtefactError(
            f"{graph} gives {found[-1]} scores, the classes file names {classes}; they must be the same"
        )
    _rename(model, scores.name, OUTPUT_NAME)
    inner = _rename(model, image.name, "normalized")
    _prepend_normalization(model, inner, pixels)
    del model.graph.input[:]
    model.graph.input.append(
        onnx.helper.make_tensor_value_info(INPUT_NAME, onnx.TensorProto.UINT8, ["N", height, width, 3])
    )
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT_NAME, onnx.TensorProto.FLOAT, ["N", classes]))
    del model.graph.value_info[:]  # shapes inside were inferred for another batch
    _name_nodes(model)
    try:
        onnx.checker.check_model(model)
        onnx.save(model, out)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ArtefactError(f"{graph} is no valid ONNX model ({first_line(error)})") from error
    return height, width


def _read_model(graph: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(graph)
        opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        if opset < OLDEST_OPSET:
            model = onnx.version_converter.convert_version(model, OPSET)
    except (DecodeError, StopIteration, OSError, RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise ArtefactError(f"{graph} cannot be read as an ONNX model ({first_line(error)})") from error
    return model


def _only_input(model: Any, graph: Path) -> Any:
    import onnx

    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ArtefactError(
            f"{graph} has {len(inputs)} inputs and {len(model.graph.output)} outputs; a classifier has one of each"
        )
    kind = inputs[0].type.tensor_type.elem_type
    if kind != onnx.TensorProto.FLOAT:
        name = onnx.TensorProto.DataType.Name(kind).lower()
        raise ArtefactError(f"{graph} takes {name} images; only float32 can be imported, with --mean and --std")
    return inputs[0]


def _input_size(image: Any, size_px: tuple[int, int] | None, graph: Path) -> tuple[int, int]:
    dimensions = [dimension.dim_value for dimension in image.type.tensor_type.shape.dim]
    if len(dimensions) != 4 or dimensions[1] not in (0, 3):
        raise ArtefactError(f"{graph} takes input {dimensions}; only (N, 3, height, width) can be imported")
    fixed = (dimensions[2], dimensions[3])
    if not all(fixed):
        if size_px is None:
            raise UsageError(f"{graph.name} takes images of any size; say with --size which it was trained for")
        return size_px
    if size_px is not None and size_px != fixed:
        raise UsageError(f"{graph.name} takes {fixed[1]}x{fixed[0]} pixels and nothing else; leave --size out")
    return fixed


def _rename(model: Any, old: str, new: str) -> str:
    """Give a tensor another name everywhere; one that bears the new name already gets out of the way."""
    names = {name for node in model.graph.node for name in (*node.input, *node.output)}
    if new != old and new in names:
        _rename(model, new, f"{new}.inner")
    for node in model.graph.node:
        for each in (node.input, node.output):
            for index, name in enumerate(each):
                if name == old:
                    each[index] = new
    for tensor in model.graph.initializer:
        if tensor.name == old:
            tensor.name = new
    return new


def _prepend_normalization(model: Any, output: str, pixels: Pixels) -> None:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (pixels.mean, pixels.std))
    model.graph.initializer.extend(
        [
            numpy_helper.from_array((1 / (255 * std)).astype(np.float32), "normalize.scale"),
            numpy_helper.from_array((mean / std).astype(np.float32), "normalize.shift"),
        ]
    )
    names = [f"{NORMALIZE_PREFIX}{name}" for name in ("cast", "planes", "scaled")]
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], [names[0]], to=TensorProto.FLOAT),
        helper.make_node("Transpose", [names[0]], [names[1]], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", [names[1], "normalize.scale"], [names[2]]),
        helper.make_node("Sub", [names[2], "normalize.shift"], [output]),
    ]
    for node in nodes:
        node.name = f"{NORMALIZE_PREFIX}{node.op_type}"
    for position, node in enumerate(nodes):
        model.graph.node.insert(position, node)


def _name_nodes(model: Any) -> None:
    """Names by which a quantizer can leave layers out; some exporters give none, or the same one twice."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"/imported/{node.op_type}_{index}"
        seen.add(node.name)
