"""Somebody's ONNX classifier, so changed that it takes raw images as every graph of ours does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.artifact.card import INPUT_NAME, OUTPUT_NAME, Output
from edgecls.backends.onnx_graph import (
    NORMALIZE_PREFIX,
    OPSET,
    constants_of,
    drop_unused,
    graphs_inside,
    inputs_of,
    replace_nodes,
)
from edgecls.errors import ArtifactError, UsageError, first_line

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

OLDEST_OPSET = 13
"""Per-channel quantizers came with it; older graphs are converted."""
OLDEST_IR = 8
"""Files of before version 4 list their constants among the inputs, which ours do not."""
FLOATS = ("FLOAT", "FLOAT16", "DOUBLE")
WHOLE_NUMBERS = ("UINT8", "INT32", "INT64")
"""A network that takes these takes pixels as they are, 0 to 255."""
GREY_WEIGHTS = (9798, 19235, 3735)
"""ITU-R BT.601's shares of red, green and blue in 1/32768, with which OpenCV converts to grey."""
CHECKED_IMAGES = 3
TOLERANCE = 0.01
"""Largest allowed difference between their answers and those of the changed graph, relative to the largest score."""
COARSE_TOLERANCE = 0.05
"""The same for graphs that compute in float16 or int8, where the last bit of an input decides more."""
_OWN_PREFIXES = (NORMALIZE_PREFIX, f"{OUTPUT_NAME}.")
_FOREIGN_PREFIX = "imported."


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


def embed_preprocessing(
    theirs: Classifier, pixels: Pixels, size_px: tuple[int, int], classes: int, out: Path
) -> Output:
    """Write somebody's classifier to `out` so that it takes raw images.

    It then takes (N, h, w, 3) uint8 RGB and gives (N, C) float32; N is free, normalization is inside. Both graphs are
    run on a few images. Raises `ArtifactError` where their answers differ, or where theirs cannot be run.
    """
    images = _patches(CHECKED_IMAGES + (theirs.batch == CHECKED_IMAGES), size_px)
    wanted = _their_scores(theirs, pixels, images, classes)
    rank, wanted = wanted.ndim, wanted.reshape(len(images), classes)
    model = _changed(theirs, pixels, size_px, classes, flatten=rank != 2)
    _save(model, out, theirs.file)
    reason = _difference(theirs, out, images, wanted)
    if reason and _free_batch(model, theirs.batch or 1):
        _save(model, out, theirs.file)
        reason = _difference(theirs, out, images, wanted)
    if reason:
        out.unlink()
        raise ArtifactError(
            f"{theirs.file} cannot be run on several images at once ({reason}); export it again with a free (dynamic) "
            "batch dimension"
        )
    return output_kind(out, wanted)


def _changed(theirs: Classifier, pixels: Pixels, size_px: tuple[int, int], classes: int, flatten: bool) -> Any:
    from onnx import TensorProto, helper

    model = type(theirs.model).FromString(theirs.model.SerializeToString())
    image, scores = _out_of_the_way(model, theirs.image, theirs.scores)
    _append_float_scores(model, scores, classes, flatten)
    _prepend_normalization(model, image, theirs, pixels)
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["N", *size_px, 3]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", classes]))
    del model.graph.value_info[:]  # shapes inside were inferred for another batch
    drop_unused(model.graph)
    _name_nodes(model)
    return model


def _save(model: Any, out: Path, file: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(model)
        onnx.save(model, out)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ArtifactError(f"{file} is no valid ONNX model ({first_line(error)})") from error


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


def _out_of_the_way(model: Any, image: str, scores: str) -> tuple[str, str]:
    """Rename everything where a name is one of ours; returns those of the input and the chosen output."""
    import onnx

    names = {image, scores}
    for graph in graphs_inside(model.graph):
        names.update(tensor.name for tensor in graph.initializer)
        names.update(name for node in graph.node for name in (node.name, *node.input, *node.output))
    if any(name in (INPUT_NAME, OUTPUT_NAME) or name.startswith(_OWN_PREFIXES) for name in names):
        onnx.compose.add_prefix(model, _FOREIGN_PREFIX, inplace=True)
        return _FOREIGN_PREFIX + image, _FOREIGN_PREFIX + scores
    return image, scores


def _append_float_scores(model: Any, scores: str, classes: int, flatten: bool) -> None:
    """Let the graph end in `OUTPUT_NAME`, (N, C) float32."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    nodes = model.graph.node
    kind = next(entry.type.tensor_type.elem_type for entry in model.graph.output if entry.name == scores)
    last = scores
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [last], [f"{OUTPUT_NAME}.float"], to=TensorProto.FLOAT))
        last = f"{OUTPUT_NAME}.float"
    if flatten:
        shape = f"{OUTPUT_NAME}.shape"
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1, classes], np.int64), shape))
        nodes.append(helper.make_node("Reshape", [last, shape], [f"{OUTPUT_NAME}.flat"]))
        last = f"{OUTPUT_NAME}.flat"
    _rename(model, last, OUTPUT_NAME)


def _rename(model: Any, old: str, new: str) -> None:
    """Give a tensor another name everywhere."""
    for graph in graphs_inside(model.graph):
        for node in graph.node:
            for each in (node.input, node.output):
                for index, name in enumerate(each):
                    if name == old:
                        each[index] = new


def _prepend_normalization(model: Any, image: str, theirs: Classifier, pixels: Pixels) -> None:
    """Make `image`, as their network wants it, from raw images.

    The cast stands first because TensorRT transposes no uint8.
    """
    from onnx import TensorProto, helper

    constants = model.graph.initializer
    steps: list[tuple[str, list[str], dict[str, Any]]] = [("Cast", [], {"to": TensorProto.FLOAT})]
    if theirs.channels == 1:
        weights = [[[[weight / 32768 for weight in GREY_WEIGHTS]]]]
        steps += [
            ("Mul", [_constant(constants, "weights", weights)], {}),
            ("ReduceSum", [_constant(constants, "channel", [3], "int64")], {"keepdims": 1}),
            ("Add", [_constant(constants, "half", 0.5)], {}),
            ("Floor", [], {}),
        ]
    if not theirs.channels_last:
        steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
    if not theirs.takes_raw_pixels:
        scale, shift = _scale_and_shift(theirs, pixels)
        steps.append(("Mul", [_constant(constants, "scale", scale)], {}))
        steps.append(("Sub", [_constant(constants, "shift", shift)], {}))
    if theirs.kind != "FLOAT":
        steps.append(("Cast", [], {"to": TensorProto.DataType.Value(theirs.kind)}))
    source = INPUT_NAME
    for position, (operator, others, attributes) in enumerate(steps):
        target = image if position == len(steps) - 1 else f"{NORMALIZE_PREFIX}{position}"
        node = helper.make_node(operator, [source, *others], [target], **attributes)
        node.name = f"{NORMALIZE_PREFIX}{operator}_{position}"
        model.graph.node.insert(position, node)
        source = target


def _constant(constants: Any, name: str, values: Any, dtype: str = "float32") -> str:
    import numpy as np
    from onnx import numpy_helper

    constants.append(numpy_helper.from_array(np.asarray(values, dtype), f"{NORMALIZE_PREFIX}{name}"))
    return f"{NORMALIZE_PREFIX}{name}"


def _scale_and_shift(theirs: Classifier, pixels: Pixels) -> tuple[NDArray[Any], NDArray[Any]]:
    """By what pixels of 0 to 255 are multiplied, and what is then taken away, in the layout of their input."""
    import numpy as np

    shape = (1, 1, 1, -1) if theirs.channels_last else (1, -1, 1, 1)
    mean, std = (np.array(values[: theirs.channels], np.float32).reshape(shape) for values in (pixels.mean, pixels.std))
    return 1 / (255 * std), mean / std


def _free_batch(model: Any, batch: int) -> bool:
    """Let each Reshape of what is made from the image keep the batch as it comes; whether there was one to change."""
    import numpy as np
    from onnx import numpy_helper

    constants, changed = constants_of(model.graph), False
    from_image = {INPUT_NAME}
    for index, node in enumerate(model.graph.node):
        if from_image.isdisjoint(inputs_of(node)):
            continue
        from_image.update(node.output)
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        shape = numpy_helper.to_array(constants[node.input[1]]).tolist()
        if not isinstance(shape, list) or shape[:1] != [batch]:
            continue
        keeps_zero = any(each.name == "allowzero" and each.i for each in node.attribute)
        if -1 not in shape or not keeps_zero:
            shape[0] = -1 if -1 not in shape else 0
            node.input[1] = f"{OUTPUT_NAME}.free_batch_{index}"
            model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), node.input[1]))
            changed = True
    return changed


def _patches(count: int, size_px: tuple[int, int]) -> NDArray[uint8]:
    """Raw images (count, h, w, 3) of random colours in patches."""
    import numpy as np

    from edgecls.imaging.opencv import cv2

    height, width = size_px
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST) for image in coarse])


def _their_scores(theirs: Classifier, pixels: Pixels, images: NDArray[uint8], classes: int) -> NDArray[Any]:
    """What the untouched file answers, the first dimension being the images."""
    import numpy as np

    run = _session(theirs.file)
    arranged = _arranged(theirs, pixels, images)
    answers: list[Any] = []
    for few in _groups(arranged, theirs.batch or 1):
        try:
            [scores] = run.run([theirs.scores], {theirs.image: few})
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise ArtifactError(f"{theirs.file} does not run in ONNX Runtime: {first_line(error)}") from error
        if scores.size != len(few) * classes:
            raise ArtifactError(
                f"{theirs.file} gives {scores.size // len(few)} scores, the classes file names {classes}; they must be "
                f"the same (the output {theirs.scores} has shape {list(scores.shape)})"
            )
        answers.append(scores if scores.ndim > 1 else scores.reshape(len(few), 1, 1, classes))
    return np.concatenate(answers)[: len(images)].astype(np.float32)


def _arranged(theirs: Classifier, pixels: Pixels, images: NDArray[uint8]) -> NDArray[Any]:
    """Raw images as their network wants them."""
    import numpy as np
    import onnx

    from edgecls.imaging.opencv import cv2

    if theirs.channels == 1:
        images = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] for image in images])
    values = images if theirs.channels_last else images.transpose(0, 3, 1, 2)
    if not theirs.takes_raw_pixels:
        scale, shift = _scale_and_shift(theirs, pixels)
        values = values * scale - shift
    dtype = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(theirs.kind))
    return np.ascontiguousarray(values.astype(dtype))


def _groups(images: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    """Batches of exactly that size, the last one filled up with its last image."""
    import numpy as np

    for start in range(0, len(images), size):
        few = images[start : start + size]
        yield np.concatenate([few, np.repeat(few[-1:], size - len(few), axis=0)])


def _difference(theirs: Classifier, changed: Path, images: NDArray[uint8], wanted: NDArray[Any]) -> str:
    """Why the changed graph does not answer as theirs did, alone and all at once; empty where it does."""
    import numpy as np

    if not np.isfinite(wanted).all():
        return ""  # told for what it is when the run is examined
    exact = theirs.kind in ("FLOAT", "DOUBLE") and not _is_coarse(theirs.model)
    allowed = (TOLERANCE if exact else COARSE_TOLERANCE) * float(np.abs(wanted).max())
    for count in (1, len(images)):
        try:
            [scores] = _session(changed).run([OUTPUT_NAME], {INPUT_NAME: images[:count]})
        except ArtifactError as error:
            return str(error)
        except Exception as error:  # as above
            return first_line(error)
        if scores.shape != wanted[:count].shape:
            return f"scores {scores.shape} for {count} images"
        difference = float(np.abs(scores - wanted[:count]).max())
        if not difference <= allowed:
            return f"scores of {count} images differ by up to {difference:.3g} from those of one image each"
    return ""


def _is_coarse(model: Any) -> bool:
    from onnx import TensorProto

    half = any(tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for tensor in model.graph.initializer)
    return half or any("Quantize" in node.op_type or "Integer" in node.op_type for node in model.graph.node)


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what matters is told as an exception
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise ArtifactError(f"{file} does not run in ONNX Runtime: {first_line(error)}") from error


def _nearly_equal(first: Pixels, second: Pixels) -> bool:
    pairs = zip((*first.mean, *first.std), (*second.mean, *second.std), strict=True)
    return all(abs(one - other) <= 1e-6 for one, other in pairs)


def _name_nodes(model: Any) -> None:
    """Names by which a quantizer can leave layers out; some exporters give none, or the same one twice."""
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            node.name = f"/imported/{node.op_type}_{index}"
        seen.add(node.name)
