"""The search for an int8 bundle: calibration images, candidates that are quantized, built, verified and timed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.clock import milliseconds_since, now_ns
from edgecls.exporting.build import BundleBuilder, ExportResult
from edgecls.exporting.config import ExportConfig
from edgecls.exporting.graph import float_graph
from edgecls.exporting.timing import timed
from edgecls.exporting.verification import Verifier
from edgecls.quantization import calibration
from edgecls.quantization.calibration import Calibration
from edgecls.quantization.fine_tune import fine_tune
from edgecls.quantization.qdq import rank_layers
from edgecls.quantization.quantize import Quantizer, prepare
from edgecls.quantization.recipe import Recipe, RecipeCandidate, candidates_for
from edgecls.quantization.search import AcceptanceCriteria, Attempt, accurate_enough, best, search, skipped
from edgecls.runtime.store import Artifact

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

RANKING_IMAGES = 8


def search_int8(config: ExportConfig, builder: BundleBuilder) -> ExportResult:
    """The best bundle that the search arrives at; its card's lineage holds every attempt.

    Raises `VerificationError` where no candidate is accurate enough.
    """
    candidates = candidates_for(config.target, config.device, config.recipe)
    count = max(candidate.recipe.samples for candidate in candidates)
    images = calibration.choose(builder.run, count, config.calibration, sparing=True)
    calibration.check(images, builder.run)
    verifier = Verifier(builder.run, config.verify_images, builder.on_progress, images)
    # What stands in the way of float32 too is raised here: no recipe can mend it.
    graph = builder.trace()
    float32 = builder.build(graph, builder.card) if builder.is_timed_here else None
    if float32:
        float32.open().close()
    int8 = _Int8Builder(builder, graph, images)

    def attempt(candidate: RecipeCandidate) -> Attempt:
        begun = now_ns()
        builder.on_progress(f"{candidate.name}: quantizing")
        try:
            bundle = verifier.verify(int8.build(candidate))
            if float32:
                [bundle] = timed([bundle], float32, builder.on_progress, quick=True)
        except Exception as error:
            # Quantizers and runtimes raise whatever they meet in a graph; another recipe may get past it.
            return skipped(candidate, milliseconds_since(begun) / 1000, error)
        return Attempt(candidate, milliseconds_since(begun) / 1000, bundle)

    aim = AcceptanceCriteria(config.max_drop_points, config.strategy)
    attempts = search(candidates, attempt, aim)
    accurate = accurate_enough(attempts, aim)
    if float32:
        bundles = timed([each.bundle for each in accurate], float32, builder.on_progress)
        accurate = [replace(each, artifact=bundle) for each, bundle in zip(accurate, bundles, strict=True)]
    bundle = _with_provenance(best(accurate, aim).bundle, attempts, accurate, images)
    return ExportResult(bundle, verifier, float32)


def _with_provenance(
    chosen: Artifact, attempts: list[Attempt], timed_again: list[Attempt], images: Calibration
) -> Artifact:
    """The bundle with its calibration manifest, and with all attempts as they were measured last."""
    attempts = [next((new for new in timed_again if new.candidate is old.candidate), old) for old in attempts]
    lineage = replace(
        chosen.card.lineage,
        calibration=images.write(chosen.path / calibration.MANIFEST_FILE),
        candidates=[attempt.to_json() for attempt in attempts],
    )
    return Artifact(chosen.path, replace(chosen.card, lineage=lineage))


class _Int8Builder:
    """Builds candidates' bundles from one float graph; they share the prepared graph and the layers' rankings."""

    def __init__(self, builder: BundleBuilder, graph: Path, images: Calibration):
        self._builder, self._graph, self._images = builder, graph, images
        self._rankings: dict[Recipe, list[str]] = {}

    def build(self, candidate: RecipeCandidate) -> Artifact:
        """The bundle of a candidate, not verified yet."""
        recipe, graph = candidate.recipe, self._builder.scratch_folder() / "int8.onnx"
        quantizer = self._fine_tuned(candidate) if recipe.fine_tune_epochs else self._quantizer
        kept: list[str] = []
        if recipe.float_share:
            ranked = self._ranking(candidate, quantizer)
            kept = ranked[: max(1, round(recipe.float_share * len(ranked)))]
        quantizer.quantize(recipe, graph, kept)
        record = {"candidate": candidate.name, **recipe.to_json(), "float_layers": kept}
        card = self._builder.card
        card = replace(card, precision="int8", lineage=replace(card.lineage, recipe=record))
        return self._builder.build(graph, card)

    @cached_property
    def _quantizer(self) -> Quantizer:
        return self._quantizer_of(self._graph)

    def _quantizer_of(self, graph: Path) -> Quantizer:
        prepared = self._builder.scratch_folder() / "prepared.onnx"
        prepare(graph, prepared)
        return Quantizer(prepared, self._calibration_images)

    def _calibration_images(self, count: int) -> Iterable[NDArray[uint8]]:
        return self._images.images(self._builder.run.card.preprocess, count)

    def _fine_tuned(self, candidate: RecipeCandidate) -> Quantizer:
        run, folder = self._builder.run, self._builder.scratch_folder()
        weights, graph = folder / "fine_tuned.safetensors", folder / "fine_tuned.onnx"
        fine_tune(
            run,
            candidate.recipe.fine_tune_epochs,
            weights,
            lambda step: self._builder.on_progress(f"{candidate.name}: {step}"),
        )
        float_graph(weights, run.card, graph)
        return self._quantizer_of(graph)

    def _ranking(self, candidate: RecipeCandidate, quantizer: Quantizer) -> list[str]:
        """The layers as `rank_layers` orders them; candidates that leave more or fewer of them in float share it."""
        plain = replace(candidate.recipe, bias_correction="none", float_share=0.0)
        if plain not in self._rankings:
            self._builder.on_progress(f"{candidate.name}: ranking the layers")
            quantized = self._builder.scratch_folder() / "all.onnx"
            quantizer.quantize(plain, quantized)
            few = list(self._calibration_images(RANKING_IMAGES))
            self._rankings[plain] = rank_layers(quantized, quantizer.graph, few)
        return self._rankings[plain]
