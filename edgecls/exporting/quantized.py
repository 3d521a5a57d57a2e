"""A run's graph in int8, one for each recipe; targets whose recipes are equal share it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.evaluation.inference import PreparedImages
from edgecls.exporting.graph import float_graph
from edgecls.exporting.shared import SharedSteps
from edgecls.quantization.calibration import Calibration
from edgecls.quantization.fine_tune import fine_tune
from edgecls.quantization.qdq import rank_layers
from edgecls.quantization.quantize import Quantizer, prepare
from edgecls.quantization.recipe import Recipe, RecipeCandidate

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

RANKING_IMAGES = 8


@dataclass(frozen=True)
class QuantizedGraph:
    """A graph with QuantizeLinear/DequantizeLinear pairs, and how it came about, for the lineage."""

    path: Path
    record: dict[str, Any]


class QuantizedGraphs:
    """Quantizes a run's float graph by recipes; these share the prepared graph and the layers' rankings."""

    def __init__(self, shared: SharedSteps, images: Calibration):
        self._shared = shared
        self._images = PreparedImages(images.source, images.keys, shared.run.card.preprocess)
        self._quantized: dict[Recipe, QuantizedGraph] = {}
        self._rankings: dict[Recipe, list[str]] = {}

    def by(self, candidate: RecipeCandidate) -> QuantizedGraph:
        """The graph that the candidate's recipe gives. Raises whatever quantizers raise."""
        recipe = candidate.recipe
        if recipe not in self._quantized:
            self._quantized[recipe] = self._quantize(candidate)
        return self._quantized[recipe]

    def _quantize(self, candidate: RecipeCandidate) -> QuantizedGraph:
        recipe, path = candidate.recipe, self._shared.folder() / "int8.onnx"
        self._shared.on_progress(f"{candidate.name}: quantizing")
        quantizer = self._fine_tuned(candidate) if recipe.fine_tune_epochs else self._quantizer
        kept: list[str] = []
        if recipe.float_share:
            ranked = self._ranking(candidate, quantizer)
            kept = ranked[: max(1, round(recipe.float_share * len(ranked)))]
        quantizer.quantize(recipe, path, kept)
        return QuantizedGraph(path, {**recipe.to_json(), "float_layers": kept})

    @cached_property
    def _quantizer(self) -> Quantizer:
        return self._quantizer_of(self._shared.graph())

    def _quantizer_of(self, graph: Path) -> Quantizer:
        prepared = self._shared.folder() / "prepared.onnx"
        prepare(graph, prepared)
        return Quantizer(prepared, self._calibration_images)

    def _calibration_images(self, count: int) -> Iterable[NDArray[uint8]]:
        return self._images.part(0, count)

    def _fine_tuned(self, candidate: RecipeCandidate) -> Quantizer:
        run, folder = self._shared.run, self._shared.folder()
        weights, graph = folder / "fine_tuned.safetensors", folder / "fine_tuned.onnx"
        fine_tune(
            run,
            candidate.recipe.fine_tune_epochs,
            weights,
            lambda step: self._shared.on_progress(f"{candidate.name}: {step}"),
        )
        float_graph(weights, run.card, graph)
        return self._quantizer_of(graph)

    def _ranking(self, candidate: RecipeCandidate, quantizer: Quantizer) -> list[str]:
        """The layers as `rank_layers` orders them; candidates that leave more or fewer of them in float share it."""
        plain = replace(candidate.recipe, bias_correction="none", float_share=0.0)
        if plain not in self._rankings:
            self._shared.on_progress(f"{candidate.name}: ranking the layers")
            if (known := self._quantized.get(plain)) is not None:
                quantized = known.path
            else:
                quantized = self._shared.folder() / "all.onnx"
                quantizer.quantize(plain, quantized)
            few = list(self._calibration_images(RANKING_IMAGES))
            self._rankings[plain] = rank_layers(quantized, quantizer.graph, few)
        return self._rankings[plain]
