"""Static int8: ONNX Runtime's quantizer does the arithmetic, a recipe says how, calibration images give the ranges."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.card import INPUT_NAME
from edgecls.export.graph import NORMALIZE_PREFIX
from edgecls.export.recipe import Recipe

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray


def quantize(graph: Path, recipe: Recipe, images: Iterable[NDArray[uint8]], out: Path) -> None:
    """Write the int8 graph, with QuantizeLinear/DequantizeLinear pairs, of a float32 ONNX file.

    `images` are raw inputs (h, w, 3) uint8; they are read one at a time. The normalization stays in float.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    activations = QuantType.QUInt8 if recipe.activations == "uint8" else QuantType.QInt8
    with tempfile.TemporaryDirectory(prefix="edgecls-") as scratch, _quiet():
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        quantize_static(
            str(prepared),
            str(out),
            _reader(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(recipe.operators) or None,
            nodes_to_exclude=[node.name for node in nodes if node.name.startswith(NORMALIZE_PREFIX)],
            per_channel=recipe.per_channel,
            reduce_range=recipe.reduces_range(),
            activation_type=activations,
            weight_type=QuantType.QInt8,
            calibrate_method=methods[recipe.estimator],
            extra_options={
                "ActivationSymmetric": recipe.symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": recipe.quantize_bias,
            },
        )


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer's advice, which is meant for people who call it themselves."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.setLevel(level)
