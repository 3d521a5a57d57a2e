"""The export itself: graph, precision, build, verification, and only then a bundle on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import edgecls
from edgecls import backends, env, runs
from edgecls.benchmark.run import BenchmarkConfig, benchmark
from edgecls.card import CARD_FILE, Card, Golden, Lineage, Quality, check_files, write_card
from edgecls.errors import UsageError, VerificationError
from edgecls.export import calibration
from edgecls.export.graph import export_graph
from edgecls.export.parity import HeldOut, verify_export
from edgecls.export.quantize import quantize
from edgecls.export.recipe import recipe_for
from edgecls.models import require_torch
from edgecls.runs import Artefact
from edgecls.storage import new_folder

TIMING = BenchmarkConfig(rounds=3, seconds=0.25)


@dataclass(frozen=True)
class ExportConfig:
    """What an export is asked for.

    `device` is what the target builds for, where it builds per device. With `require_gain` a bundle of lowered
    precision that is slower than float32 here is an error.
    """

    target: str
    run: Path | None = None
    precision: str = "fp32"
    calibration: Path | None = None
    device: str | None = None
    out: Path | None = None
    max_drop_points: float = 1.0
    require_gain: bool = False

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense together."""
        backend = backends.find(self.target)
        if not backend.exportable:
            raise UsageError(f"{self.target} is no export target; choose one of {', '.join(backends.exportable())}")
        backend.check_request(self.precision, self.device)
        if self.calibration is not None and self.precision != "int8":
            raise UsageError("--calibration is for --int8; float exports need none")
        if not 0 <= self.max_drop_points <= 100:
            raise UsageError(f"--max-drop is in points of top-1, 0 to 100, not {self.max_drop_points:g}")


def export(config: ExportConfig, tell: Callable[[str], None] = lambda _: None) -> Artefact:
    """Export a run for one target and precision; returns the bundle, verified. `tell` hears each step's name.

    The bundle stands at `config.out`, or in the run's folder. On any error nothing is left behind, and a bundle that
    stood there before stays. Raises `VerificationError` where the result differs too much from the run.
    """
    config.check()
    require_torch("exporting")
    run = runs.find_run(config.run)
    check_files(run.card, run.place)
    card = replace(run.card, target=config.target, precision=config.precision, quality=Quality(), runtime=None)
    place = config.out or run.place / runs.BUNDLES_FOLDER / card.name
    _check_replaceable(place)
    with new_folder(place) as folder, tempfile.TemporaryDirectory(prefix="edgecls-") as scratch:
        tell("tracing the graph")
        card = replace(card, lineage=_lineage(run))
        weights, float_graph = run.place / run.card.model_file, Path(scratch) / "float.onnx"
        export_graph(weights, run.card, float_graph)
        graph = float_graph
        if config.precision == "fp16":
            graph = Path(scratch) / "half.onnx"
            export_graph(weights, run.card, graph, half=True)
        elif config.precision == "int8":
            graph, card = _quantized(config, run, graph, card, folder, tell)
        tell(f"building for {config.target}")
        card = backends.find(config.target).build(graph, card, folder, config.device)
        Golden.read(run.place).write(folder)
        tell("verifying against the run")
        quality = verify_export(Artefact(folder, card), HeldOut(run), config.max_drop_points)
        bundle = Artefact(folder, replace(card, quality=quality))
        if bundle.backend.available() is None:
            tell("timing")
            bundle = _timed(bundle, float_graph, Path(scratch))
        _require_gain(config, bundle.card)
        write_card(bundle.card, folder)
    return Artefact(place, bundle.card)


def _check_replaceable(place: Path) -> None:
    """Only a bundle, or an empty folder, may be replaced: never a run or somebody's files."""
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not (place / CARD_FILE).is_file() or runs.find(place).is_run:
        raise UsageError(f"{place} exists and is no bundle; choose another --out")


def _lineage(run: Artefact) -> Lineage:
    return Lineage(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        edgecls=edgecls.__version__,
        machine=env.this_machine().name,
        parent=run.card.lineage.files[run.card.model_file],
        data=run.card.lineage.data,
    )


def _quantized(
    config: ExportConfig, run: Artefact, graph: Path, card: Card, folder: Path, tell: Callable[[str], None]
) -> tuple[Path, Card]:
    """The int8 graph, and the card with recipe and calibration in its lineage."""
    recipe = recipe_for(config.target)
    if config.calibration is None:
        images = calibration.from_run(run.place, recipe.samples)
    else:
        images = calibration.from_folder(config.calibration, recipe.samples)
    tell(f"calibrating with {len(images.keys)} images")
    out = graph.with_name("int8.onnx")
    quantize(graph, recipe, images.images(card.preprocess), out)
    lineage = replace(card.lineage, recipe=recipe.to_json(), calibration=images.write(folder))
    return out, replace(card, lineage=lineage)


def _timed(bundle: Artefact, float_graph: Path, scratch: Path) -> Artefact:
    """The bundle with its median latency and, where its precision is lowered, that of float32 in the same runtime."""
    rivals = [bundle]
    if bundle.card.precision != "fp32":
        rivals.append(_float_rival(bundle, float_graph, scratch / "rival"))
    latency_ms, *float_ms = (row.latency.p50_ms for row in benchmark(rivals, TIMING) if row.latency)
    quality = replace(
        bundle.card.quality,
        latency_ms=latency_ms,
        latency_machine=env.this_machine().name,
        gain=float_ms[0] / latency_ms if float_ms else None,
    )
    return Artefact(bundle.place, replace(bundle.card, quality=quality))


def _float_rival(bundle: Artefact, float_graph: Path, folder: Path) -> Artefact:
    folder.mkdir()
    device = bundle.card.runtime.device if bundle.card.runtime else None
    card = bundle.backend.build(float_graph, replace(bundle.card, precision="fp32"), folder, device or None)
    Golden.read(bundle.place).write(folder)
    return Artefact(folder, card)


def _require_gain(config: ExportConfig, card: Card) -> None:
    gain = card.quality.gain
    if config.require_gain and gain is not None and gain < 1:
        raise VerificationError(
            f"{card.name} does not pay on this machine: {gain:.2f}x the speed of float32 in the same runtime; "
            "nothing was written"
        )
