"""The search for an int8 bundle: calibration images, candidates that are quantized, built, verified and timed."""

from __future__ import annotations

from dataclasses import replace

from edgecls.clock import milliseconds_since, now_ns
from edgecls.exporting.build import BundleBuilder, ExportResult
from edgecls.exporting.config import ExportConfig
from edgecls.exporting.quantized import QuantizedGraph, QuantizedGraphs
from edgecls.exporting.timing import timed
from edgecls.quantization import calibration
from edgecls.quantization.calibration import Calibration
from edgecls.quantization.recipe import RecipeCandidate, candidates_for
from edgecls.quantization.search import AcceptanceCriteria, Attempt, accurate_enough, best, search, skipped
from edgecls.runtime.store import Artifact


def search_int8(config: ExportConfig, builder: BundleBuilder) -> ExportResult:
    """The best bundle that the search arrives at; its card's lineage holds every attempt.

    Raises `VerificationError` where no candidate is accurate enough.
    """
    shared = builder.shared
    candidates = candidates_for(config.target, config.device, config.recipe)
    count = max(candidate.recipe.samples for candidate in candidates)
    images = shared.calibration(count, config.calibration)
    verifier = shared.verifier(config.verify_images, images)
    # What stands in the way of float32 too is raised here: no recipe can mend it.
    shared.graph()
    graphs = shared.once(("quantized", images.source.location, images.keys), lambda: QuantizedGraphs(shared, images))
    float32 = builder.float32() if builder.is_timed_here else None
    if float32:
        float32.open().close()

    aim = AcceptanceCriteria(config.max_drop_points, config.strategy)

    def attempt(candidate: RecipeCandidate) -> Attempt:
        begun = now_ns()
        try:
            graph = graphs.by(candidate)
            bundle = _build(builder, candidate, graph)
            if float32:
                bundle = _timed_at_a_glance(bundle, float32, builder)
            bundle = verifier.verify(bundle, graph.path, aim.cannot_pass)
            if aim.undecided(bundle.card.quality):
                bundle = verifier.verify_on_all(bundle, graph.path)
        except Exception as error:
            # Quantizers and runtimes raise whatever they meet in a graph; another recipe may get past it.
            return skipped(candidate, milliseconds_since(begun) / 1000, error)
        looked_at = bundle.card.quality.images or 0
        reason = f"given up after {looked_at} of {verifier.count} images" if looked_at < verifier.count else None
        return Attempt(candidate, milliseconds_since(begun) / 1000, bundle, reason)

    attempts = search(candidates, attempt, aim)
    accurate = accurate_enough(attempts, aim)
    if float32:
        bundles = timed([each.bundle for each in accurate], float32, builder.on_progress)
        accurate = [replace(each, artifact=bundle) for each, bundle in zip(accurate, bundles, strict=True)]
    bundle = _with_provenance(best(accurate, aim).bundle, attempts, accurate, images)
    quality = replace(bundle.card.quality, note=aim.note(bundle.card.quality))
    return ExportResult(Artifact(bundle.path, replace(bundle.card, quality=quality)), verifier, float32)


def _timed_at_a_glance(bundle: Artifact, float32: Artifact, builder: BundleBuilder) -> Artifact:
    """The bundle with its gain over float32, measured for longer where it seems to have none: all that compute in the
    same way are left out then.
    """
    [bundle] = timed([bundle], float32, builder.on_progress, quick=True)
    if bundle.card.quality.recommended is False:
        [bundle] = timed([bundle], float32, builder.on_progress)
    return bundle


def _build(builder: BundleBuilder, candidate: RecipeCandidate, graph: QuantizedGraph) -> Artifact:
    """The bundle of a candidate, not verified yet."""
    lineage = replace(builder.card.lineage, recipe={"candidate": candidate.name, **graph.record})
    return builder.build(graph.path, replace(builder.card, precision="int8", lineage=lineage))


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
