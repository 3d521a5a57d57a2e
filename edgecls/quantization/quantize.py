"""Static int8: ONNX Runtime's quantizer or NNCF does the arithmetic, a recipe says how, images give the ranges."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.artifact.card import INPUT_NAME
from edgecls.backends.onnx_graph import LAYERS, NORMALIZE_PREFIX, drop_unused, replace_nodes
from edgecls.concurrency import chunked
from edgecls.errors import BackendError, MissingExtraError, first_line
from edgecls.logs import quiet, without_advice
from edgecls.quantization.histograms import use_fast_histograms
from edgecls.quantization.recipe import Recipe
from edgecls.quantization.rounding import round_weights

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

PERCENTILE = 99.99
"""Share of the values, in percent, that percentile ranges cover; the rest is clipped."""
HISTOGRAM_IMAGES = 4
"""Histograms are collected from so many images at a time: ONNX Runtime holds every activation of these in memory."""

Images = Callable[[int], "Iterable[NDArray[uint8]]"]
"""Gives at most so many raw inputs (h, w, 3) uint8, read one at a time."""


@dataclass(frozen=True)
class Quantizer:
    """Quantizes one float graph in as many ways as are asked for. `graph` is made ready by `prepare`.

    Recipes that read the same ranges off the same images share these.
    """

    graph: Path
    images: Images
    _ranges: dict[Hashable, Any] = field(default_factory=dict)

    def quantize(self, recipe: Recipe, out: Path, keep_float: Sequence[str] = ()) -> None:
        """Write the graph with QuantizeLinear/DequantizeLinear pairs. Normalization and `keep_float` nodes stay float.

        Raises `BackendError` where the quantizer gives up and `MissingExtraError` where it is not installed.
        """
        import onnx

        kept = [*self._normalization(), *keep_float]
        with tempfile.TemporaryDirectory(prefix="edgecls-") as scratch, _quiet():
            if recipe.quantizer == "nncf":
                model = _nncf(self.graph, recipe, self.images, kept, per_tensor=False)
            else:
                graph = self.graph
                if recipe.bias_correction != "none":
                    graph = Path(scratch) / "corrected.onnx"
                    _correct_biases(self.graph, recipe, self.images, graph, kept)
                ranges = self._ranges_for(recipe) if graph == self.graph else _ranges(graph, recipe, self.images)
                model = _with_onnxruntime(graph, recipe, ranges, kept)
                if recipe.rounding == "gptq":
                    round_weights(model, graph, self.images(recipe.samples), 64 if recipe.reduce_range else 127)
        drop_unused(model.graph)  # both leave constants of layers that they replaced, which runtimes complain about
        onnx.save(model, out)

    def _ranges_for(self, recipe: Recipe) -> Any:
        key = (recipe.estimator, recipe.symmetric, recipe.samples, _operators(recipe))
        if key not in self._ranges:
            self._ranges[key] = _ranges(self.graph, recipe, self.images)
        return copy.deepcopy(self._ranges[key])  # the quantizer changes them

    def _normalization(self) -> list[str]:
        import onnx

        nodes = onnx.load(self.graph).graph.node
        return [node.name for node in nodes if node.name.startswith(NORMALIZE_PREFIX)]


def prepare(graph: Path, out: Path) -> None:
    """Infer shapes and fold batch norms, as both quantizers want it.

    ONNX Runtime's rewriting is kept away from graphs without batch norms: it takes HardSwish apart, after which no
    runtime computes MobileNetV3 fast in int8.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(graph)
    _drop_identities(model.graph)
    folded = not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    onnx.save(model, out)
    with _quiet():
        quant_pre_process(str(out), str(out), skip_symbolic_shape=True, skip_optimization=folded)


def _drop_identities(graph: Any) -> None:
    """Let nodes read constants themselves: through an Identity, a quantizer does not see that they are constants."""
    constants = {tensor.name for tensor in graph.initializer}
    through: dict[str, str] = {}
    kept = []
    for node in graph.node:
        source = through.get(node.input[0], node.input[0]) if node.op_type == "Identity" else ""
        if source in constants:
            through[node.output[0]] = source
            continue
        for index, name in enumerate(node.input):
            node.input[index] = through.get(name, name)
        kept.append(node)
    replace_nodes(graph, kept)


def _operators(recipe: Recipe) -> tuple[str, ...]:
    """What the recipe says, or all that ONNX Runtime's quantizer knows."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return recipe.operators or tuple(sorted({*QLinearOpsRegistry, *QDQRegistry}))


def _with_onnxruntime(graph: Path, recipe: Recipe, ranges: Any, kept: Sequence[str]) -> Any:
    import onnx
    from onnxruntime.quantization import QDQQuantizer, QuantType

    operators = list(_operators(recipe))
    quantizer = QDQQuantizer(
        onnx.load(graph),
        recipe.per_channel,
        recipe.reduce_range,
        QuantType.QInt8,
        QuantType.QUInt8 if recipe.activations == "uint8" else QuantType.QInt8,
        ranges,
        [],
        list(kept),
        operators,
        {
            "ActivationSymmetric": recipe.symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": recipe.quantize_bias,
            # The scores come from such a layer: 256 steps for all of them make ties, and clipping turns answers over.
            "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"] if recipe.quantize_outputs else operators,
        },
    )
    quantizer.quantize_model()
    if not recipe.quantize_outputs:
        _free_sums(quantizer.model.graph())
    return quantizer.model.model


def _free_sums(graph: Any) -> None:
    """Let a residual addition take its convolution's output as it comes, and only the shortcut quantized.

    That is how TensorRT computes convolution and addition as one layer in int8.
    https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html
    """
    producers = {output: node for node in graph.node for output in node.output}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1

    def behind(name: str) -> str | None:
        """The convolution's output from which a quantized tensor that nothing else reads was made."""
        for operator in ("DequantizeLinear", "QuantizeLinear"):
            node = producers.get(name)
            if node is None or node.op_type != operator or readers[name] != 1:
                return None
            name = node.input[0]
        source = producers.get(name)
        return name if source is not None and source.op_type == "Conv" and readers[name] == 1 else None

    superfluous: set[str] = set()
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for index, name in enumerate(node.input):
            if source := behind(name):
                superfluous.update((name, producers[name].input[0]))
                node.input[index] = source
                break
    replace_nodes(graph, [node for node in graph.node if node.output[0] not in superfluous])


def _ranges(graph: Path, recipe: Recipe, given: Images) -> Any:
    """The range of every activation. Memory does not grow with the images, which `quantize_static` does not keep to."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    images = given(recipe.samples)
    minmax = recipe.estimator in ("minmax", "average")
    methods = {"percentile": CalibrationMethod.Percentile, "entropy": CalibrationMethod.Entropy}
    options: dict[str, Any] = {"symmetric": recipe.symmetric and not minmax}
    if recipe.estimator == "average":
        options["moving_average"] = True
    if recipe.estimator == "percentile":
        options["percentile"] = PERCENTILE
    with tempfile.TemporaryDirectory(prefix="edgecls-") as scratch:
        calibrator = create_calibrator(
            graph,
            list(_operators(recipe)),
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=methods.get(recipe.estimator, CalibrationMethod.MinMax),
            extra_options=options,
        )
        if minmax:
            calibrator.collect_data(_reader(images))  # minima and maxima are computed in the graph: a few bytes each
        else:
            use_fast_histograms(calibrator)
            for few in chunked(images, HISTOGRAM_IMAGES):
                calibrator.collect_data(_reader(few))
        return calibrator.compute_data()


def _reader(images: Iterable[NDArray[uint8]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Feeds one image at a time."""

        def __init__(self) -> None:
            self._images: Iterator[NDArray[uint8]] = iter(images)

        def get_next(self) -> dict[str, NDArray[uint8]] | None:
            image = next(self._images, None)
            return None if image is None else {INPUT_NAME: image[None]}

    return Reader()


def _correct_biases(graph: Path, recipe: Recipe, images: Images, out: Path, kept: Sequence[str]) -> None:
    """Copy the float graph with the biases that NNCF's bias correction arrives at for int8."""
    import onnx

    corrected = _nncf(graph, recipe, images, kept, per_tensor=True).graph
    values = {tensor.name: tensor for tensor in corrected.initializer}
    biases = {
        node.name: values[node.input[2]]
        for node in corrected.node
        if node.op_type in LAYERS and len(node.input) > 2 and node.input[2] in values
    }
    model = onnx.load(graph)
    for node in model.graph.node:
        if node.name in biases and len(node.input) > 2:
            bias = model.graph.initializer.add()
            bias.CopyFrom(biases[node.name])
            node.input[2] = bias.name = f"{node.name}.corrected_bias"
    used = {name for node in model.graph.node for name in node.input}
    kept_tensors = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept_tensors)
    onnx.save(model, out)


def _nncf(graph: Path, recipe: Recipe, images: Images, kept: Sequence[str], per_tensor: bool) -> Any:
    """The ONNX model as NNCF quantizes it.

    `per_tensor` forbids the per-channel activation ranges of depthwise convolutions, which only OpenVINO understands.
    """
    import onnx

    try:
        import nncf
    except ImportError as error:
        raise MissingExtraError("nncf", "train", "this recipe") from error
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        OverflowFix,
        QuantizationParameters,
    )
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Ranges

    estimators = {
        "minmax": Ranges.MINMAX,
        "average": Ranges.MEAN_MINMAX,
        "percentile": Ranges.MEAN_QUANTILE,
        "mse": Ranges.HISTOGRAM,
    }
    parameters = AdvancedQuantizationParameters(
        overflow_fix=OverflowFix.ENABLE if recipe.reduce_range else OverflowFix.DISABLE,
        disable_bias_correction=recipe.bias_correction == "none",
        activations_range_estimator_params=estimators.get(recipe.estimator, Ranges.MINMAX),
        activations_quantization_params=QuantizationParameters(per_channel=False) if per_tensor else None,
    )

    class Pictures:
        """Read anew at each pass, so that memory does not grow with their number."""

        def __iter__(self) -> Iterator[NDArray[uint8]]:
            return iter(images(recipe.samples))

    try:
        return nncf.quantize(
            onnx.load(graph),
            nncf.Dataset(Pictures(), lambda image: {INPUT_NAME: image[None]}),
            preset=nncf.QuantizationPreset.PERFORMANCE if recipe.symmetric else nncf.QuantizationPreset.MIXED,
            subset_size=recipe.samples,
            fast_bias_correction=recipe.bias_correction != "full",
            ignored_scope=nncf.IgnoredScope(names=list(kept), validate=False),
            advanced_parameters=parameters,
        )
    except Exception as error:
        # NNCF lets through whatever ONNX and ONNX Runtime raise; those errors share no base class.
        raise BackendError(f"NNCF cannot quantize this graph ({first_line(error)}); choose another recipe") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer's advice, which is meant for people who call it themselves, and its progress bars."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    try:
        with (
            quiet("nncf"),
            without_advice("onnxruntime"),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        onnxruntime.set_default_logger_severity(2)
