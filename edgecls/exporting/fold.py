"""Arithmetic on shapes that are known: worked out once, before a graph is quantized or handed to a runtime.

Networks that pad as TensorFlow does compute the padding from the image's size at every run. That size never changes
here, and quantizers take such arithmetic for layers and round it to 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgecls.backends.onnx_graph import constants_of, drop_unused, replace_nodes

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_ELEMENTS = 64
"""Shapes and paddings are small; anything larger is somebody's tensor and stays as it is."""

Dimensions = list["int | None"]


def fold_shapes(model: Any) -> None:
    """Replace everything in an ONNX model that follows from static dimensions alone by constants.

    Padding with zeros that turns out to be known becomes a part of the convolution behind it.
    """
    import onnx

    light = _without_weights(model)
    while _fold_once(light):  # a padding that is known makes the dimensions behind it known
        pass
    replace_nodes(model.graph, light.graph.node)
    there = {tensor.name for tensor in model.graph.initializer}
    found = [tensor for tensor in light.graph.initializer if tensor.name not in there]
    model.graph.initializer.extend(onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in found)
    _absorb_padding(model.graph)
    drop_unused(model.graph)


def _without_weights(model: Any) -> Any:
    """A copy in which large constants are inputs, so that looking at shapes again and again is cheap."""
    import onnx

    graph = model.graph
    light = type(model)(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    light.graph.name = graph.name
    for field in ("node", "input", "output", "value_info"):
        getattr(light.graph, field).extend(getattr(graph, field))
    taken = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if _elements(tensor.dims) <= MAX_ELEMENTS:
            light.graph.initializer.append(tensor)
        elif tensor.name not in taken:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            light.graph.input.append(value)
    return light


def _fold_once(model: Any) -> bool:
    import onnx

    folder = _Folder(onnx.shape_inference.infer_shapes(model).graph)
    replace_nodes(model.graph, [node for node in model.graph.node if not folder.folds(node)])
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in folder.found.items())
    return bool(folder.found)


def _absorb_padding(graph: Any) -> None:
    """Let convolutions pad for themselves: as a step of its own, padding is one more pass over memory."""
    constants = _small_constants(graph)
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    absorbed = set()
    for node in graph.node:
        reader = readers.get(node.output[0], [None])
        padding = _zero_padding(node, constants) if len(reader) == 1 and reader[0] is not None else None
        if padding is not None and _takes_padding(reader[0]):
            _add_padding(reader[0], padding)
            reader[0].input[0] = node.input[0]
            absorbed.add(node.output[0])
    replace_nodes(graph, [node for node in graph.node if node.output[0] not in absorbed])


def _zero_padding(node: Any, constants: Mapping[str, NDArray[Any]]) -> list[int] | None:
    """By how many zeros a node pads (top, left, bottom, right), or None where it does something else."""
    modes = [each.s for each in node.attribute if each.name == "mode"]
    if node.op_type != "Pad" or len(node.input) < 2 or (modes and modes[0] != b"constant"):
        return None
    values = [constants[name] for name in node.input[1:] if name in constants]
    if len(values) != sum(map(bool, node.input[1:])) or len(values) > 2 or any(value.any() for value in values[1:]):
        return None
    pads = [int(value) for value in values[0]]
    if len(pads) != 8 or min(pads) < 0 or any(pads[axis] for axis in (0, 1, 4, 5)):
        return None
    return [*pads[2:4], *pads[6:8]]


def _takes_padding(node: Any) -> bool:
    automatic = [each.s for each in node.attribute if each.name == "auto_pad"]
    return node.op_type == "Conv" and automatic in ([], [b"NOTSET"])


def _add_padding(convolution: Any, padding: list[int]) -> None:
    for attribute in convolution.attribute:
        if attribute.name == "pads":
            attribute.ints[:] = [own + more for own, more in zip(attribute.ints, padding, strict=True)]
            return
    attribute = convolution.attribute.add()
    attribute.name, attribute.type = "pads", attribute.INTS
    attribute.ints.extend(padding)


class _Folder:
    """Goes through the nodes in order and remembers what is known; `found` are the constants that it worked out."""

    def __init__(self, graph: Any):

        self._dimensions: dict[str, Dimensions] = {
            each.name: [dim.dim_value if dim.HasField("dim_value") else None for dim in each.type.tensor_type.shape.dim]
            for each in (*graph.input, *graph.value_info, *graph.output)
            if each.type.tensor_type.HasField("shape")
        }
        self._dimensions.update((tensor.name, list(tensor.dims)) for tensor in graph.initializer)
        self._small = _small_constants(graph)
        self._shapes: dict[str, Dimensions] = {}
        self.found: dict[str, NDArray[Any]] = {}

    def folds(self, node: Any) -> bool:
        """Look at one node; whether its output is now known, so that the node can go."""
        import numpy as np

        if node.op_type == "Constant" or any(attribute.HasField("g") for attribute in node.attribute):
            return False
        dimensions = self._partial_shape(node)
        if dimensions is not None:
            if None in dimensions:
                self._shapes[node.output[0]] = dimensions
                return False
            value = np.array(dimensions, np.int64)
            if node.op_type == "Gather" and self._small[node.input[1]].ndim == 0:
                value = value.reshape(())
        elif len(node.output) == 1 and node.input and all(name in self._small for name in node.input if name):
            value = _evaluate(node, self._small)
            if value.size > MAX_ELEMENTS:
                return False
        else:
            return False
        self._small[node.output[0]] = self.found[node.output[0]] = value
        return True

    def _partial_shape(self, node: Any) -> Dimensions | None:
        """The shape, or the part of one, that a node gives out; None for nodes that do something else."""
        attributes = {each.name: each.i for each in node.attribute}
        if node.op_type == "Shape" and node.input[0] in self._dimensions:
            return self._dimensions[node.input[0]][attributes.get("start", 0) : attributes.get("end")]
        if node.input and node.input[0] in self._shapes and all(name in self._small for name in node.input[1:] if name):
            source = self._shapes[node.input[0]]
            if node.op_type == "Gather":
                return [source[int(index)] for index in self._small[node.input[1]].ravel()]
            if node.op_type == "Slice":
                starts, ends, *others = (self._small[name] for name in node.input[1:] if name)
                step = int(others[-1].ravel()[0]) if len(others) == 2 else 1
                return source[int(starts.ravel()[0]) : int(ends.ravel()[0]) : step]
        return None


def _small_constants(graph: Any) -> dict[str, NDArray[Any]]:
    """The values of the constants that are no weights, by name."""
    from onnx import numpy_helper

    tensors = constants_of(graph).items()
    return {name: numpy_helper.to_array(tensor) for name, tensor in tensors if _elements(tensor.dims) <= MAX_ELEMENTS}


def _evaluate(node: Any, known: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    import numpy as np
    from onnx.reference import ReferenceEvaluator

    [value] = ReferenceEvaluator(node).run(None, {name: known[name] for name in node.input if name})
    return np.asarray(value)


def _elements(dims: Any) -> int:
    count = 1
    for dim in dims:
        count *= int(dim)
    return count
