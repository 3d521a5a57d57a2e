"""The export itself: graph, precision, build, verification, and only then a bundle on disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls import backends
from edgecls.artifact.card import CARD_FILE, Card, Quality, check_files, write_card
from edgecls.artifact.golden import Golden
from edgecls.backends.base import PROCESSORS
from edgecls.benchmarking.config import TimingConfig
from edgecls.benchmarking.run import Row, gain_over, time_artifacts
from edgecls.clock import milliseconds_since, now_ns
from edgecls.errors import UsageError, VerificationError
from edgecls.exporting.config import ExportConfig
from edgecls.exporting.graph import float_graph
from edgecls.exporting.verification import HeldOut, measure_quality, require_faithful
from edgecls.files import new_folder
from edgecls.quantization import calibration
from edgecls.quantization.calibration import Calibration
from edgecls.quantization.fine_tune import fine_tune
from edgecls.quantization.qdq import rank_layers
from edgecls.quantization.quantize import Quantizer, prepare
from edgecls.quantization.recipe import Recipe, RecipeCandidate, candidates_for
from edgecls.quantization.search import (
    AcceptanceCriteria,
    Attempt,
    accurate_enough,
    best,
    search,
    skipped,
)
from edgecls.runtime import machine, store
from edgecls.runtime.store import Artifact

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

QUICK_TIMING = TimingConfig(rounds=2, seconds=0.2)
"""Enough to see whether a candidate is worth stopping at; what is kept is timed again."""
TIMING = TimingConfig(rounds=4, seconds=0.2)
BORDERLINE_TIMING = TimingConfig(rounds=6, seconds=0.2)
BORDERLINE_GAIN = (0.8, 1.25)
"""Gains that were within these at a glance, or are not known, are timed for longer: they decide a verdict."""
RANKING_IMAGES = 8


def export(config: ExportConfig | None = None, tell: Callable[[str], None] = lambda _: None) -> Artifact:
    """Export a run for one target and precision; returns the bundle, verified. `tell` hears each step's name.

    The bundle stands at `config.out`, or in the run's folder. On any error nothing is left behind, and a bundle that
    stood there before stays. Where lowered precision is not faster than float32 on this machine, the bundle says so and
    float32 is exported beside it. Raises `VerificationError` where the result differs too much from the run.
    """
    config = config or ExportConfig()
    config.check()
    run = store.find_run(config.run)
    check_files(run.card, run.place)
    place = config.out or _own_place(run, config.target, config.precision)
    _check_replaceable(place)
    with tempfile.TemporaryDirectory(prefix="edgecls-") as scratch, new_folder(place) as folder:
        exporter = _Exporter(config, run, Path(scratch), tell)
        bundle = exporter.int8() if config.precision == "int8" else exporter.float_bundle(config.precision)
        _require_gain(config, bundle)
        _publish(bundle, folder)
        if bundle.card.quality.recommended is False and config.out is None:
            exporter.keep_float32()
    return Artifact(place, bundle.card)


def _own_place(run: Artifact, target: str, precision: str) -> Path:
    return run.place / store.BUNDLES_FOLDER / replace(run.card, target=target, precision=precision).name


def _check_replaceable(place: Path) -> None:
    """Only a bundle, or an empty folder, may be replaced: never a run or somebody's files."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not (place / CARD_FILE).is_file() or store.find(place).is_run:
        raise UsageError(f"{place} exists and is no bundle; choose another `out`")


def _require_gain(config: ExportConfig, bundle: Artifact) -> None:
    if not config.require_gain:
        return
    gain, name = bundle.card.quality.gain, bundle.card.name
    if gain is None:
        reason = bundle.backend.available() or "it was built for another kind of processor"
        raise VerificationError(f"{name} cannot be timed on this machine ({reason}), so `require_gain` cannot be met")
    if not bundle.card.quality.recommended:
        raise VerificationError(
            f"{name} is not faster than FP32 on this machine: {gain:.2f}x its speed in the same runtime; "
            "nothing was written"
        )


def _publish(bundle: Artifact, folder: Path) -> None:
    shutil.copytree(bundle.place, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    write_card(bundle.card, folder)


def _with_latency(bundle: Artifact, row: Row, float32: Row | None) -> Artifact:
    quality = replace(
        bundle.card.quality,
        latency_ms=row.latency.p50_ms if row.latency else None,
        latency_machine=machine.this_machine().name,
        gain=gain_over(row, float32) if float32 else None,
    )
    return Artifact(bundle.place, replace(bundle.card, quality=quality.with_verdict()))


class _Exporter:
    """What one export needs at hand: the run, its float graph, held-out images, and scratch space."""

    def __init__(self, config: ExportConfig, run: Artifact, scratch: Path, tell: Callable[[str], None]):
        self._config, self._run, self._scratch, self._tell = config, run, scratch, tell
        self._backend = backends.find(config.target)
        self._weights = run.place / run.card.model_file
        lineage = machine.new_lineage(run.card.lineage.data, parent=run.card.lineage.files[run.card.model_file])
        self._card = replace(
            run.card, target=config.target, precision="fp32", quality=Quality(), runtime=None, lineage=lineage
        )
        self._images: Calibration | None = None
        self._rankings: dict[Recipe, list[str]] = {}

    @cached_property
    def _float_graph(self) -> Path:
        self._tell("tracing the graph")
        path = self._scratch / "float.onnx"
        float_graph(self._weights, self._run.card, path)
        return path

    def _half_graph(self) -> Path:
        self._tell("tracing the graph in float16")
        path = self._scratch / "float16.onnx"
        float_graph(self._weights, self._run.card, path, half=True)
        return path

    @cached_property
    def _held_out(self) -> HeldOut:
        self._tell("asking the run about held-out images")
        return HeldOut(self._run, self._images, self._config.verify_images)

    @cached_property
    def _float32(self) -> Artifact:
        """Float32 for the same target, which lowered precision is timed against."""
        return self._built(self._float_graph, self._card)

    def float_bundle(self, precision: str) -> Artifact:
        """A float bundle, verified, and timed where it can run."""
        if precision == "fp32":
            bundle = self._verified(self._float32)
        else:
            graph = self._half_graph() if precision == "fp16" else self._float_graph
            bundle = self._verified(self._built(graph, replace(self._card, precision=precision)))
        require_faithful(bundle.card, self._held_out)
        [timed] = self._timed(bundle)
        return timed

    def int8(self) -> Artifact:
        """The best bundle that the search arrives at."""
        candidates = candidates_for(self._config.target, self._config.device, self._config.recipe)
        count = max(candidate.recipe.samples for candidate in candidates)
        images = calibration.choose(self._run, count, self._config.calibration, sparing=True)
        calibration.check(images, self._run)
        self._images = images
        self._require_float()
        aim = AcceptanceCriteria(self._config.max_drop_points, self._config.strategy)
        attempts = search(candidates, self._attempt, aim)
        accurate = accurate_enough(attempts, aim)
        bundles = self._timed(*(attempt.bundle for attempt in accurate))
        accurate = [replace(attempt, artifact=bundle) for attempt, bundle in zip(accurate, bundles, strict=True)]
        attempts = [next((new for new in accurate if new.candidate is old.candidate), old) for old in attempts]
        chosen = best(accurate, aim).bundle
        provenance = images.write(chosen.place / calibration.MANIFEST_FILE)
        tried = [attempt.to_json() for attempt in attempts]
        lineage = replace(chosen.card.lineage, calibration=provenance, candidates=tried)
        return Artifact(chosen.place, replace(chosen.card, lineage=lineage))

    def keep_float32(self) -> None:
        """Export float32 into the run's folder, for it is what is recommended. One that stands there is kept."""
        place = _own_place(self._run, self._config.target, "fp32")
        _check_replaceable(place)
        parent = self._card.lineage.parent
        if any(b.place == place and b.card.lineage.parent == parent for b in store.bundles_of(self._run.place)):
            return
        bundle = self.float_bundle("fp32")
        with new_folder(place) as folder:
            _publish(bundle, folder)

    def _require_float(self) -> None:
        """Raise what stands in the way of float32 too, which no recipe can mend."""
        if self._is_timed_here():
            self._float32.open().close()
        else:
            _ = self._float_graph

    def _attempt(self, candidate: RecipeCandidate) -> Attempt:
        begun = now_ns()
        self._tell(f"{candidate.name}: quantizing")
        try:
            [bundle] = self._timed(self._verified(self._quantized(candidate)), quick=True)
        except Exception as error:
            # Quantizers and runtimes raise whatever they meet in a graph; another recipe may get past it.
            return skipped(candidate, milliseconds_since(begun) / 1000, error)
        return Attempt(candidate, milliseconds_since(begun) / 1000, bundle)

    def _quantized(self, candidate: RecipeCandidate) -> Artifact:
        recipe, graph = candidate.recipe, self._scratch_folder() / "int8.onnx"
        quantizer = self._fine_tuned(candidate) if recipe.fine_tune_epochs else self._quantizer
        kept: list[str] = []
        if recipe.float_share:
            ranked = self._ranking(candidate, quantizer)
            kept = ranked[: max(1, round(recipe.float_share * len(ranked)))]
        quantizer.quantize(recipe, graph, kept)
        record = {"candidate": candidate.name, **recipe.to_json(), "float_layers": kept}
        card = replace(self._card, precision="int8", lineage=replace(self._card.lineage, recipe=record))
        return self._built(graph, card)

    @cached_property
    def _quantizer(self) -> Quantizer:
        return self._quantizer_of(self._float_graph)

    def _quantizer_of(self, graph: Path) -> Quantizer:
        prepared = self._scratch_folder() / "prepared.onnx"
        prepare(graph, prepared)
        return Quantizer(prepared, self._calibration_images)

    def _calibration_images(self, count: int) -> Iterable[NDArray[uint8]]:
        return self._images.images(self._run.card.preprocess, count) if self._images else ()

    def _fine_tuned(self, candidate: RecipeCandidate) -> Quantizer:
        folder = self._scratch_folder()
        weights, graph = folder / "fine_tuned.safetensors", folder / "fine_tuned.onnx"
        fine_tune(
            self._run, candidate.recipe.fine_tune_epochs, weights, lambda step: self._tell(f"{candidate.name}: {step}")
        )
        float_graph(weights, self._run.card, graph)
        return self._quantizer_of(graph)

    def _ranking(self, candidate: RecipeCandidate, quantizer: Quantizer) -> list[str]:
        """The layers as `rank_layers` orders them; candidates that leave more or fewer of them in float share it."""
        plain = replace(candidate.recipe, bias_correction="none", float_share=0.0)
        if plain not in self._rankings:
            self._tell(f"{candidate.name}: ranking the layers")
            quantized = self._scratch_folder() / "all.onnx"
            quantizer.quantize(plain, quantized)
            few = list(self._calibration_images(RANKING_IMAGES))
            self._rankings[plain] = rank_layers(quantized, quantizer.graph, few)
        return self._rankings[plain]

    def _scratch_folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        folder.chmod(0o755)  # copied with the folder's content; others on the device may read it
        return folder

    def _built(self, graph: Path, card: Card) -> Artifact:
        self._tell(f"building for {self._config.target}")
        folder = self._scratch_folder()
        card = self._backend.build(graph, card, folder, self._config.options)
        Golden.read(self._run.place, self._run.card).write(folder)
        return Artifact(folder, card)

    def _verified(self, bundle: Artifact) -> Artifact:
        self._tell("verifying against the run")
        return Artifact(bundle.place, replace(bundle.card, quality=measure_quality(bundle, self._held_out)))

    def _timed(self, *bundles: Artifact, quick: bool = False) -> list[Artifact]:
        """The bundles, timed in turn, with their latency and, where precision is lowered, the gain over float32."""
        if not self._is_timed_here():
            return list(bundles)
        lowered = bundles[0].card.precision != "fp32"
        compared = [*bundles, self._float32] if lowered else list(bundles)
        self._tell("timing")
        close = lowered and any(
            BORDERLINE_GAIN[0] < (bundle.card.quality.gain or 1.0) < BORDERLINE_GAIN[1] for bundle in bundles
        )
        rows = time_artifacts(compared, QUICK_TIMING if quick else BORDERLINE_TIMING if close else TIMING)
        return [
            _with_latency(bundle, row, rows[-1] if lowered else None)
            for bundle, row in zip(bundles, rows, strict=False)
        ]

    def _is_timed_here(self) -> bool:
        """Whether what is built can run on this machine, and is meant for its kind of processor."""
        device = self._config.device
        elsewhere = device in PROCESSORS and device != machine.int8_kind(machine.this_machine())
        return self._backend.available() is None and not elsewhere
