"""Somebody's ONNX classifier, and what it wants its images to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.artifact.terms import Output
from edgecls.backends.onnx_graph import OPSET, inputs_of, replace_nodes
from edgecls.errors import ArtifactError, UsageError, first_line

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

FLOATS = ("FLOAT", "FLOAT16", "DOUBLE")
WHOLE_NUMBERS = ("UINT8", "INT32", "INT64")
"""A network that takes these takes pixels as they are, 0 to 255."""
OLDEST_OPSET = 13
"""Per-channel quantizers came with it; older graphs are converted."""
OLDEST_IR = 8
"""Files of before version 4 list their constants among the inputs, which ours do not."""


@dataclass(frozen=True)
class Pixels:
    """How a network wants its pixels: mean and standard deviation of red, green and blue on a scale of 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


RAW_PIXELS = Pixels((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
"""0 to 255, as they are in the image."""


@dataclass(frozen=True)
class Classifier:
    """Somebody's graph and how it takes its images: `batch`, `height` and `width` are 0 where they are free.

    `kind` is the input's type by ONNX's name, such as "FLOAT16"; `channels` are 3, or 1 for grey.
    """

    file: Path
    model: Any
    image: str
    scores: str
    kind: str
    batch: int
    height: int
    width: int
    channels: int
    channels_last: bool

    @property
    def takes_raw_pixels(self) -> bool:
        """Whether its type says that it takes pixels as they are."""
        return self.kind in WHOLE_NUMBERS

    def pixels(self, mean: tuple[float, float, float] | None, std: tuple[float, float, float] | None) -> Pixels:
        """How it wants its pixels. Raises `UsageError` where that was not said or cannot be."""
        if self.takes_raw_pixels:
            given = Pixels(mean or RAW_PIXELS.mean, std or RAW_PIXELS.std)
            if not _nearly_equal(given, RAW_PIXELS):
                raise UsageError(f"{self.file.name} takes {self.kind.lower()} pixels; leave `mean` and `std` out")
            return RAW_PIXELS
        if mean is None or std is None:
            raise UsageError(
                f"{self.file.name} does not say how it wants its pixels; give `mean` and `std` on a scale of 0 to 1: "
                "0,0,0 and 1,1,1 where it takes plain 0..1, std 0.00392157,0.00392157,0.00392157 where it takes 0..255"
            )
        if self.channels == 1 and (len(set(mean)) > 1 or len(set(std)) > 1):
            raise UsageError(f"{self.file.name} takes grey images; give one number to `mean` and one to `std`")
        return Pixels(mean, std)

    def size_px(self, wanted: tuple[int, int] | None) -> tuple[int, int]:
        """Height and width of its input. Raises `UsageError` where `wanted` is needed, or is not what it takes."""
        height, width = self.height, self.width
        if not (height and width):
            if wanted is None:
                raise UsageError(
                    f"{self.file.name} takes images of any size; say with `size_px` which it was trained for"
                )
            if (height or wanted[0], width or wanted[1]) == wanted:
                return wanted
        elif wanted in (None, (height, width)):
            return height, width
        raise UsageError(
            f"{self.file.name} takes {width or 'any'}x{height or 'any'} pixels and nothing else; leave `size_px` out"
        )


def _nearly_equal(first: Pixels, second: Pixels) -> bool:
    pairs = zip((*first.mean, *first.std), (*second.mean, *second.std), strict=True)
    return all(abs(one - other) <= 1e-6 for one, other in pairs)


_PASS_ON = frozenset(
    {"Cast", "Clip", "Concat", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape"}
    | {"Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators that leave the values of scores what they are."""


_SIGMOIDS = ("Sigmoid", "HardSigmoid", "QLinearSigmoid")


_SOFTMAXES = ("Softmax", "QLinearSoftmax")


def output_kind(graph: Path, scores: NDArray[float32] | None = None) -> Output:
    """Whether an ONNX classifier gives logits or probabilities, by the operator that makes its first output.

    `scores` (N, C) of several images speak where no single operator does: a softmax may be written in several. Raises
    `ArtifactError` for a sigmoid: there several classes may be true at once, which no single label can say.
    """
    import numpy as np
    import onnx

    model = onnx.load(graph, load_external_data=False)
    makers = {name: node for node in model.graph.node for name in node.output}
    node = makers.get(model.graph.output[0].name)
    while node is not None and node.op_type in _PASS_ON:
        node = makers.get(node.input[0])
    operator = node.op_type if node is not None else ""
    if operator in _SIGMOIDS:
        raise ArtifactError(
            f"the network ends in a {operator}: several classes may be true of an image at once, and edgecls names "
            "one; export the network without it where just one is true"
        )
    if operator in _SOFTMAXES:
        return "probabilities"
    summed = scores is not None and bool((scores >= 0).all()) and np.allclose(scores.sum(axis=1), 1, atol=1e-3)
    return "probabilities" if summed else "logits"


def read_classifier(file: Path, output: str | None = None) -> Classifier:
    """Somebody's ONNX classifier; `output` names the one that holds the scores, where there are several.

    Raises `ArtifactError` for a graph that is no classifier of images, `UsageError` where `output` must be given.
    """
    from onnx import TensorProto

    model = _read_model(file)
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [entry for entry in model.graph.input if entry.name not in constants]
    if len(inputs) != 1:
        names = f" ({_listed(inputs)})" if inputs else ""
        raise ArtifactError(f"{file} has {len(inputs)} inputs{names}; a classifier has one, the image")
    scores = _chosen_output(model, file, output)
    kind = TensorProto.DataType.Name(inputs[0].type.tensor_type.elem_type)
    if kind not in (*FLOATS, *WHOLE_NUMBERS):
        known = ", ".join((*FLOATS, *WHOLE_NUMBERS)).lower()
        raise ArtifactError(f"{file} takes {kind.lower()} images; what can be imported takes {known}")
    dims = [dimension.dim_value for dimension in inputs[0].type.tensor_type.shape.dim]
    last = len(dims) == 4 and dims[3] in (1, 3) and dims[1] not in (1, 3)
    if len(dims) != 4 or not (last or dims[1] in (0, 1, 3)):
        raise ArtifactError(
            f"{file} takes input {dims}; only (N, C, height, width) and (N, height, width, C) with C of 3 or 1 can be "
            "imported"
        )
    batch, channels, height, width = (dims[index] for index in ((0, 3, 1, 2) if last else (0, 1, 2, 3)))
    return Classifier(file, model, inputs[0].name, scores, kind, batch, height, width, channels or 3, last)


def _chosen_output(model: Any, file: Path, wanted: str | None) -> str:
    from onnx import TensorProto

    outputs = {entry.name: entry.type.tensor_type.elem_type for entry in model.graph.output}
    if wanted is None and len(outputs) != 1:
        raise UsageError(
            f"{file} has {len(outputs)} outputs: {_listed(model.graph.output)}; say with `output` which of them holds "
            "the scores"
        )
    name = next(iter(outputs)) if wanted is None else wanted
    if name not in outputs:
        raise UsageError(f"{file} has no output {name!r}; it has {_listed(model.graph.output)}")
    kind = TensorProto.DataType.Name(outputs[name])
    maker = next((node.op_type for node in model.graph.node if name in node.output), "nothing")
    if kind not in FLOATS:
        what = "no tensor" if kind == "UNDEFINED" else f"{kind.lower()}, a class's number"
        raise ArtifactError(
            f"{file}: the output {name} is {what}, made by {maker}; wanted is one score per class: export the network "
            "without that step"
        )
    return name


def _listed(values: Any, most: int = 10) -> str:
    names = [
        f"{value.name} [{', '.join(dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim)}]"
        for value in values
    ]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _read_model(graph: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(graph)
        opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        if opset < OLDEST_OPSET:
            model = onnx.version_converter.convert_version(model, OPSET)
        _sort_nodes(model.graph)
    except (DecodeError, StopIteration, OSError, RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise ArtifactError(f"{graph} cannot be read as an ONNX model ({first_line(error)})") from error
    model.ir_version = max(model.ir_version, OLDEST_IR)
    return model


def _sort_nodes(graph: Any) -> None:
    """Put what makes a tensor before what reads it; ONNX Runtime's quantizer appends its nodes at the end.

    Raises `ValueError` for a graph with a circle.
    """
    from graphlib import TopologicalSorter

    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = {
        index: {makers[name] for name in inputs_of(node) if name in makers} - {index}
        for index, node in enumerate(graph.node)
    }
    nodes = list(graph.node)
    replace_nodes(graph, [nodes[index] for index in TopologicalSorter(needs).static_order()])
