"""Looking into a quantized ONNX graph: which layers are int8, and what it does with some of them back in float."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.artifact.card import INPUT_NAME, OUTPUT_NAME
from edgecls.backends.onnx_graph import LAYERS, constants_of, replace_nodes
from edgecls.backends.onnxruntime import node_events

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray


class QuantizedGraph:
    """An ONNX graph with QuantizeLinear/DequantizeLinear pairs, beside the float graph that it was made from.

    `layers` are the names of the nodes with weights that compute on dequantized inputs, in the order of computation.
    """

    def __init__(self, quantized: Path, graph: Path):
        import onnx

        model = onnx.load(quantized)
        self._float = onnx.load(graph)
        self._producers = {output: node for node in model.graph.node for output in node.output}
        self._constants = constants_of(model.graph)
        layers = [
            node
            for node in model.graph.node
            if node.op_type in LAYERS and any(self._is(name, "DequantizeLinear") for name in node.input)
        ]
        self._layers = {node.name: node for node in layers}
        self.layers = tuple(self._layers)

    def only(self, quantized: Collection[str]) -> Any:
        """The float ONNX model with just these layers in int8, inputs and weights.

        The quantizers are put into the float graph: taking them out of the quantized one would not bring back what a
        quantizer made superfluous, a ReLU for one.
        """
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self._float)
        nodes = []
        for node in model.graph.node:
            if node.name in quantized:
                nodes += self._quantize_inputs(node, model.graph.initializer)
            nodes.append(node)
        replace_nodes(model.graph, nodes)
        return model

    def _quantize_inputs(self, node: Any, initializers: Any) -> list[Any]:
        """The quantizers that stand before one layer in the quantized graph, for the same layer in float."""
        from onnx import helper

        added = []
        for index, name in enumerate(self._layers[node.name].input):
            if not self._is(name, "DequantizeLinear"):
                continue
            dequantize, prefix = self._producers[name], f"{node.name}.{index}"
            stored, *scale = (self._copy(each, f"{prefix}.{each}", initializers) for each in dequantize.input)
            attributes = {each.name: helper.get_attribute_value(each) for each in dequantize.attribute}
            if stored is None:
                stored = f"{prefix}.quantized"
                added.append(helper.make_node("QuantizeLinear", [node.input[index], *scale], [stored], **attributes))
            node.input[index] = f"{prefix}.dequantized"
            added.append(helper.make_node("DequantizeLinear", [stored, *scale], [node.input[index]], **attributes))
        return added

    def _copy(self, constant: str, name: str, initializers: Any) -> str | None:
        """Put a constant of the quantized graph among `initializers` as `name`; None for what is no constant."""
        if constant not in self._constants:
            return None
        tensor = initializers.add()
        tensor.CopyFrom(self._constants[constant])
        tensor.name = name
        return name

    def _is(self, tensor: str, operator: str) -> bool:
        return tensor in self._producers and self._producers[tensor].op_type == operator


def rank_layers(quantized: Path, graph: Path, images: Sequence[NDArray[uint8]]) -> list[str]:
    """The quantized layers of a graph, first the one whose return to float gives most for what it costs.

    The gain is the mean squared change of the float graph's scores when this layer alone computes on quantized inputs,
    the cost is the time that the layer takes in float. `images` are raw inputs (h, w, 3).
    """
    import numpy as np

    split = QuantizedGraph(quantized, graph)
    batch = np.stack(images)
    reference = _scores(graph.read_bytes(), batch)
    times_ms = layer_times_ms(graph, batch[:1])
    worth = {}
    for layer in split.layers:
        error = float(np.square(_scores(split.only({layer}).SerializeToString(), batch) - reference).mean())
        worth[layer] = error / max(times_ms.get(layer, 0.0), 1e-3)
    return sorted(worth, key=worth.__getitem__, reverse=True)


def layer_times_ms(graph: Path, batch: NDArray[uint8], repeats: int = 5) -> dict[str, float]:
    """Mean time of each node of an ONNX file in ONNX Runtime on this processor, by node name."""
    import tempfile
    from collections import defaultdict

    with tempfile.TemporaryDirectory(prefix="edgecls-") as scratch:
        options = session_options(names_kept=True)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = session_on(graph.read_bytes(), options)
        for _ in range(repeats):
            session.run([OUTPUT_NAME], {INPUT_NAME: batch})
        events = node_events(session)
    times: dict[str, float] = defaultdict(float)
    for event in events:
        times[event["name"]] += event["dur"] / 1000 / repeats
    return dict(times)


def _scores(model: bytes, batch: NDArray[uint8]) -> NDArray[float32]:
    return session_on(model, session_options()).run(None, {INPUT_NAME: batch})[0]


def session_options(names_kept: bool = False, exact: bool = False) -> Any:
    """ONNX Runtime's, with nodes as they are called in the file, or with the graph as it is: `exact`, it computes what
    every processor should, where on some, sums of 8-bit products saturate.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what matters is told as an exception
    if names_kept:  # further rewriting merges nodes and renames them
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def session_on(model: bytes, options: Any) -> Any:
    """An ONNX Runtime session on the processor."""
    import onnxruntime

    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def layer_noise_db(quantized: Path, graph: Path, images: Sequence[NDArray[uint8]]) -> list[tuple[str, float]]:
    """Signal-to-noise ratio of each layer's output in decibels, quantized against float, in the order of computation.

    10 log10(sum f^2 / sum (f - q)^2) over all `images`, raw inputs (h, w, 3). Layers are matched by the names of their
    nodes; what both graphs do not share is left out.
    """
    import numpy as np

    ours, theirs = _with_layer_outputs(quantized), _with_layer_outputs(graph)
    shared = [name for name in ours[1] if name in theirs[1]]
    signal, noise = dict.fromkeys(shared, 0.0), dict.fromkeys(shared, 0.0)
    sessions = [session_on(model.SerializeToString(), session_options(names_kept=True)) for model, _ in (ours, theirs)]
    for image in images:
        actual, wanted = (
            session.run([tensors[name] for name in shared], {INPUT_NAME: image[None]})
            for session, tensors in zip(sessions, (ours[1], theirs[1]), strict=True)
        )
        for name, ours_out, theirs_out in zip(shared, actual, wanted, strict=True):
            signal[name] += float(np.square(theirs_out, dtype=np.float64).sum())
            noise[name] += float(np.square(np.subtract(theirs_out, ours_out, dtype=np.float64)).sum())
    return [(name, 10 * math.log10(max(signal[name], 1e-30) / max(noise[name], 1e-30))) for name in shared]


def _with_layer_outputs(file: Path) -> tuple[Any, dict[str, str]]:
    """The model with every layer's output given out, and the tensor of each layer."""
    import onnx

    model = onnx.load(file)
    tensors = {node.name: node.output[0] for node in model.graph.node if node.op_type in LAYERS and node.name}
    give_out(model, tensors.values())
    return model, tensors


def give_out(model: Any, names: Iterable[str]) -> None:
    """Let an ONNX model give out these float tensors too."""
    import onnx

    known = {each.name for each in (*model.graph.output, *model.graph.input)}
    for name in names:
        if name not in known:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
