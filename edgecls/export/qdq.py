"""Looking into a quantized ONNX graph: which layers are int8, and what it does with some of them back in float."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.card import INPUT_NAME, OUTPUT_NAME
from edgecls.export.quantize import LAYERS

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray


class QuantizedGraph:
    """An ONNX graph with QuantizeLinear/DequantizeLinear pairs, beside the float graph that it was made from.

    `layers` are the names of the nodes with weights that compute on dequantized inputs, in the order of computation.
    """

    def __init__(self, quantized: Path, graph: Path):
        import onnx

        self._model = onnx.load(quantized)
        self._producers = {output: node for node in self._model.graph.node for output in node.output}
        self._float = onnx.load(graph).graph
        self._float_nodes = {node.name: node for node in self._float.node if node.name}
        self._float_constants = {tensor.name: tensor for tensor in self._float.initializer}
        self.layers = tuple(
            node.name
            for node in self._model.graph.node
            if node.op_type in LAYERS and any(self._is(name, "DequantizeLinear") for name in node.input)
        )

    def only(self, quantized: Collection[str]) -> Any:
        """The ONNX model with just these layers in int8, inputs and weights, and all others in float."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        used: set[str] = set()
        for node in model.graph.node:
            if node.name not in quantized and node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                original = self._float_nodes.get(node.name)
                for index, name in enumerate(node.input):
                    constant = original.input[index] if original and index < len(original.input) else ""
                    if constant in self._float_constants:
                        used.add(constant)
                        node.input[index] = f"{constant}.float"
                    else:
                        node.input[index] = self._float_source(name)
        for name in sorted(used):
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(self._float_constants[name])
            tensor.name = f"{name}.float"
        self._free_outputs(model)
        return model

    def _free_outputs(self, model: Any) -> None:
        """Give out what stood before the quantizers of the graph's outputs."""
        import onnx

        for output in model.graph.output:
            source = self._float_source(output.name)
            if source != output.name:
                output.name = f"{output.name}.float"
                model.graph.node.append(onnx.helper.make_node("Identity", [source], [output.name]))

    def _is(self, tensor: str, operator: str) -> bool:
        return tensor in self._producers and self._producers[tensor].op_type == operator

    def _float_source(self, tensor: str) -> str:
        """The tensor that stood here before the quantizers."""
        while self._is(tensor, "DequantizeLinear") and self._is(self._producers[tensor].input[0], "QuantizeLinear"):
            tensor = self._producers[self._producers[tensor].input[0]].input[0]
        return tensor


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
    import json
    import tempfile
    from collections import defaultdict

    with tempfile.TemporaryDirectory(prefix="edgecls-") as scratch:
        options = _options(names_kept=True)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = _session(graph.read_bytes(), options)
        for _ in range(repeats):
            session.run([OUTPUT_NAME], {INPUT_NAME: batch})
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["name"].removesuffix("_kernel_time")] += event["dur"] / 1000 / repeats
    return dict(times)


def _scores(model: bytes, batch: NDArray[uint8]) -> NDArray[float32]:
    return _session(model, _options(names_kept=False)).run(None, {INPUT_NAME: batch})[0]


def _options(names_kept: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if names_kept:  # further rewriting merges nodes and renames them
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return options


def _session(model: bytes, options: Any) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
