"""Which way each weight is rounded: so that the layer's output changes least, not the weight (GPTQ).

A weight that is rounded up or down makes an error that the weights after it, not rounded yet, can take back, as far as
their inputs go together with its own: Frantar et al. 2022, arXiv:2210.17323, after Hassibi and Stork's optimal brain
surgeon (1993). Scales, zero points and so the speed of the graph stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.artifact.card import INPUT_NAME
from edgecls.backends.onnx_graph import constants_of
from edgecls.concurrency import chunked
from edgecls.quantization.qdq import give_out, session_on, session_options

if TYPE_CHECKING:
    from numpy import float32, float64, uint8
    from numpy.typing import NDArray

IMAGES = 32
POSITIONS = 48
"""How many images the layers' inputs are looked at, and at how many places of each."""
TOGETHER = 8
"""Images whose inputs are multiplied at once."""
DAMPING = 0.01
"""Added to the diagonal of the inputs' second moments, as a share of its mean (as in the paper)."""
BLOCK = 128
"""Columns that are rounded before the rest of the weights is brought up to date (as in the paper)."""
MOST_INPUTS = 5000
"""Of one output of a layer: the work grows with their third power. Larger layers keep the nearest values."""
MOST_BYTES = 200 * 10**6
"""Of second moments that are held at once, which is what the largest layer needs: the images are looked at again for
each group of layers that fills it."""
OPERATORS = ("Conv", "Gemm", "MatMul")


def round_weights(model: Any, graph: Path, images: Iterable[NDArray[uint8]], largest: int) -> None:
    """Choose the stored weights of a quantized ONNX model anew, in place.

    `graph` is the float graph that it was made from, with the same names, `images` are raw inputs (h, w, 3), of which
    `IMAGES` are looked at, and `largest` is the largest magnitude of a stored weight.
    """
    import numpy as np
    import onnx

    originals = {node.name: node for node in onnx.load(graph).graph.node}
    floats = constants_of(onnx.load(graph).graph)
    layers = [layer for layer in _layers(model) if layer.name in originals]
    inputs = _LayerInputs(model, layers, list(islice(images, IMAGES)))
    for group in _grouped(layers):
        for layer, moments in zip(group, inputs.moments(group), strict=True):
            original = onnx.numpy_helper.to_array(floats[originals[layer.name].input[1]])
            if original.shape != tuple(layer.stored.dims):
                continue
            weights, scales = layer.as_rows(original), layer.row_scales()
            rounded = gptq(weights.astype(np.float64), scales, moments, largest)
            content = layer.from_rows(rounded, original.shape).astype(np.int8)
            layer.stored.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(content), layer.stored.name))


def _grouped(layers: Sequence[_Layer]) -> Iterator[list[_Layer]]:
    """The layers in order, as many at a time as `MOST_BYTES` allows for the moments of, and at least one."""
    group: list[_Layer] = []
    for layer in layers:
        if group and sum(each.moments_bytes for each in (*group, layer)) > MOST_BYTES:
            yield group
            group = []
        group.append(layer)
    if group:
        yield group


def gptq(
    weights: NDArray[float64], scales: NDArray[float64], moments: NDArray[float64], largest: int
) -> NDArray[float64]:
    """Integers (G, O, I) for weights (G, O, I) in units of `scales` (G, O, 1), at most `largest` in magnitude.

    `moments` (G, I, I) are the sums of products of the layer's inputs, of each group of channels.
    """
    import numpy as np

    left, count = weights.copy(), weights.shape[2]
    diagonal = np.einsum("gii->gi", moments)
    damped = moments + np.eye(count) * (DAMPING * diagonal.mean(axis=1) + 1e-12)[:, None, None]
    # Row j of the upper factor of the inverse says how the error in input j is taken back by those behind it.
    upper = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    rounded = np.empty_like(left)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        errors = np.empty((*left.shape[:2], end - start))
        for column in range(start, end):
            value = left[:, :, column]
            rounded[:, :, column] = np.clip(np.round(value / scales[:, :, 0]), -largest, largest)
            error = (value - rounded[:, :, column] * scales[:, :, 0]) / upper[:, None, column, column]
            left[:, :, column + 1 : end] -= error[:, :, None] * upper[:, None, column, column + 1 : end]
            errors[:, :, column - start] = error
        left[:, :, end:] -= errors @ upper[:, start:end, end:]
    return rounded


@dataclass(frozen=True)
class _Layer:
    """A layer with stored weights, as groups of rows: one row for each output, with its inputs side by side."""

    name: str
    operator: str
    source: str
    stored: Any
    scales: NDArray[float32]
    attributes: dict[str, Any]

    @property
    def groups(self) -> int:
        return int(self.attributes.get("group", 1))

    @property
    def _is_transposed(self) -> bool:
        return self.operator == "MatMul" or (self.operator == "Gemm" and not self.attributes.get("transB", 0))

    def as_rows(self, weights: NDArray[float32]) -> NDArray[float32]:
        """Weights as (G, O, I)."""
        rows = weights.T if self._is_transposed else weights
        return rows.reshape(self.groups, len(rows) // self.groups, -1)

    def from_rows(self, rows: NDArray[float64], shape: tuple[int, ...]) -> NDArray[float64]:
        """Weights of their own shape from (G, O, I)."""
        return rows.reshape(shape[::-1]).T if self._is_transposed else rows.reshape(shape)

    def row_scales(self) -> NDArray[float64]:
        """The scale of each row (G, O, 1)."""
        import numpy as np

        outputs = self.stored.dims[1 if self._is_transposed else 0]
        scales = np.broadcast_to(self.scales.ravel(), (outputs,)).astype(np.float64)
        return scales.reshape(self.groups, outputs // self.groups, 1)

    @property
    def inputs(self) -> int:
        """How many inputs an output has."""
        count = 1
        for side in self.stored.dims:
            count *= side
        return int(count // self.stored.dims[1 if self._is_transposed else 0])

    @property
    def moments_bytes(self) -> int:
        """What the second moments of its inputs take, (G, I, I) float64."""
        return self.groups * self.inputs**2 * 8

    def rows_of(self, tensor: NDArray[float32], generator: Any) -> NDArray[float32]:
        """What an output's weights are multiplied with, at some places of one image: (G, P, I)."""
        import numpy as np

        if self.operator != "Conv":
            rows = tensor.reshape(-1, tensor.shape[-1])
            return rows[generator.permutation(len(rows))[:POSITIONS]][None]
        kernel = self.stored.dims[2:]
        down, across = self.attributes.get("dilations", (1, 1))
        top, left, bottom, right = self.attributes.get("pads", (0, 0, 0, 0))
        step_down, step_across = self.attributes.get("strides", (1, 1))
        padded = np.pad(tensor[0], ((0, 0), (top, bottom), (left, right)))
        reach = ((kernel[0] - 1) * down + 1, (kernel[1] - 1) * across + 1)
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))
        windows = windows[:, ::step_down, ::step_across, ::down, ::across]
        height, width = windows.shape[1:3]
        picked = generator.permutation(height * width)[:POSITIONS]
        chosen = windows[:, picked // width, picked % width]  # (C, P, kh, kw)
        grouped = chosen.reshape(self.groups, -1, *chosen.shape[1:]).transpose(0, 2, 1, 3, 4)
        return np.ascontiguousarray(grouped).reshape(self.groups, len(picked), -1)


def _layers(model: Any) -> Iterator[_Layer]:
    """The layers whose stored weights nobody else reads."""
    import onnx

    constants = constants_of(model.graph)
    makers = {output: node for node in model.graph.node for output in node.output}
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for node in model.graph.node:
        if node.op_type not in OPERATORS:
            continue
        weights = makers.get(node.input[1])
        if weights is None or weights.op_type != "DequantizeLinear" or weights.input[0] not in constants:
            continue
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        padded_by_name = attributes.get("auto_pad", b"NOTSET") != b"NOTSET"
        if len(constants[weights.input[0]].dims) != (4 if node.op_type == "Conv" else 2):
            continue
        if padded_by_name or readers[weights.input[0]] > 1 or readers[node.input[1]] > 1 or attributes.get("transA"):
            continue
        scales = onnx.numpy_helper.to_array(constants[weights.input[1]])
        layer = _Layer(node.name, node.op_type, node.input[0], constants[weights.input[0]], scales, attributes)
        if layer.inputs <= MOST_INPUTS:
            yield layer


class _LayerInputs:
    """What the layers of a quantized graph take in for some images, as the graph computes it before it is changed."""

    def __init__(self, model: Any, layers: Sequence[_Layer], images: Sequence[NDArray[uint8]]):
        import onnx

        self._images = images
        observed = onnx.ModelProto()
        observed.CopyFrom(model)
        give_out(observed, sorted({layer.source for layer in layers}))
        self._session = session_on(observed.SerializeToString(), session_options(exact=True))

    def moments(self, layers: Sequence[_Layer]) -> list[NDArray[float64]]:
        """The sums of products (G, I, I) of each layer's inputs."""
        import numpy as np

        sources = sorted({layer.source for layer in layers})
        # One for each layer, so that the places looked at do not depend on which layers come together.
        generators = [np.random.default_rng(0) for _ in layers]
        moments = [np.zeros((layer.groups, layer.inputs, layer.inputs)) for layer in layers]
        for few in chunked(self._images, TOGETHER):
            rows: list[list[NDArray[float32]]] = [[] for _ in layers]
            for image in few:
                tensors = dict(zip(sources, self._session.run(sources, {INPUT_NAME: image[None]}), strict=True))
                for layer, generator, parts in zip(layers, generators, rows, strict=True):
                    parts.append(layer.rows_of(tensors[layer.source], generator))
            for total, parts in zip(moments, rows, strict=True):
                together = np.concatenate(parts, axis=1)
                total += together.transpose(0, 2, 1) @ together
        return moments
