"""What an engine computes, layer by layer: TensorRT's own inspector, and the times of one profiled run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgecls.artifact.card import Card
from edgecls.backends.base import PROFILED_RUNS, Layer
from edgecls.backends.nvidia.session import Engine, Lane

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

PRECISIONS = {
    "int8": "int8",
    "uint8": "int8",
    "half": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float": "fp32",
    "fp32": "fp32",
}
"""The words for a tensor's type in the inspector's "Format/Datatype"."""
WEIGHTED = ("conv", "gemm", "matmul", "matrixmultiply", "fullyconnected")


def engine_layers(engine: Engine, card: Card, images: NDArray[uint8]) -> list[Layer]:
    """The layers of an engine with the mean time of each over some runs on `images` (N, h, w, 3)."""
    lane = Lane(engine, card, len(images))
    try:
        profiler = _profiler_for(engine.trt)
        lane.profile(profiler, images, PROFILED_RUNS)
        inspector = engine.engine.create_engine_inspector()
        text = inspector.get_engine_information(engine.trt.LayerInformationFormat.JSON)
    finally:
        lane.free()
    return layers_from(text, profiler.mean_ms(PROFILED_RUNS))


def layers_from(inspected: str, times_ms: Mapping[str, float]) -> list[Layer]:
    """The inspector's JSON as layers; `times_ms` by layer name."""
    return [_layer(record, times_ms) for record in _records(inspected)]


def _records(inspected: str) -> Iterator[Mapping[str, Any]]:
    for record in json.loads(inspected).get("Layers", ()):
        # Without detailed verbosity the inspector knows nothing but names.
        yield record if isinstance(record, dict) else {"Name": str(record)}


def _layer(record: Mapping[str, Any], times_ms: Mapping[str, float]) -> Layer:
    name, kind = str(record.get("Name", "")), str(record.get("LayerType", ""))
    described = f"{kind} {record.get('ParameterType', '')} {name}".lower()
    return Layer(
        name=name,
        kind=kind or "unknown",
        precision=_precision(record.get("Inputs", ())),
        time_ms=times_ms.get(name),
        weighted=any(word in described for word in WEIGHTED),
    )


def _precision(inputs: Any) -> str:
    """The type of a layer's first input, which is what it computes in."""
    for tensor in inputs:
        words = str(tensor.get("Format/Datatype", "") if isinstance(tensor, dict) else "").lower().replace("/", " ")
        for word in words.split():
            if word in PRECISIONS:
                return PRECISIONS[word]
    return "unknown"


def _profiler_for(trt: Any) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]
        """Sums the times that TensorRT reports for each layer."""

        def __init__(self) -> None:
            super().__init__()
            self._sums_ms: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self._sums_ms[layer_name] = self._sums_ms.get(layer_name, 0.0) + ms

        def mean_ms(self, runs: int) -> dict[str, float]:
            return {name: total / runs for name, total in self._sums_ms.items()}

    return Profiler()
