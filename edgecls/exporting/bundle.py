"""Exports: for each a float bundle or a search for an int8 one, and only then a bundle on disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgecls import backends
from edgecls.artifact.card import CARD_FILE, check_files, write_card
from edgecls.errors import BackendError, UsageError, VerificationError
from edgecls.exporting.build import BundleBuilder, float32_card
from edgecls.exporting.config import ExportConfig
from edgecls.exporting.float_export import export_float
from edgecls.exporting.int8_search import search_int8
from edgecls.exporting.recording import record
from edgecls.exporting.shared import SharedSteps, shared_steps
from edgecls.exporting.timing import timed
from edgecls.exporting.verification import Verifier
from edgecls.files import new_folder
from edgecls.runtime import store
from edgecls.runtime.store import Artifact
from edgecls.runtime.verification import is_for_here


@dataclass(frozen=True)
class ExportOutcome:
    """What became of one of several exports: the bundle on disk, or the error that kept it from being made."""

    config: ExportConfig
    artifact: Artifact | None = None
    error: Exception | None = None

    @property
    def name(self) -> str:
        """Target and precision."""
        return f"{self.config.target}-{self.config.precision}"


def export(config: ExportConfig | None = None, on_progress: Callable[[str], None] = lambda _: None) -> Artifact:
    """Export a run for one target and precision; returns the bundle, verified. `on_progress` hears each step's name.

    The bundle stands at `config.out`, or in the run's folder. On any error nothing is left behind, and a bundle that
    stood there before stays. Where lowered precision is not faster than float32 on this machine, the bundle says so and
    float32 is exported beside it. Raises `VerificationError` where the result differs too much from the run.
    """
    config = ExportConfig.checked(config)
    run = _checked_run(config)
    with shared_steps(run, on_progress) as shared:
        return _export_one(config, shared)


def export_all(
    configs: Sequence[ExportConfig], on_progress: Callable[[str], None] = lambda _: None
) -> list[ExportOutcome]:
    """Export one run several times, as `export` does, each target and precision with a configuration of its own.

    What the exports have in common is done once: tracing, calibration images, the run's own scores, and int8 graphs
    whose recipes are equal. An export that fails does not keep the others from being made; its outcome holds the error.
    Raises `UsageError`, before any work is done, for a configuration that makes no sense, for two runs, and for two
    exports into one folder.
    """
    unbuildable = [_unbuildable(config) for config in configs]
    if not configs:
        return []
    if len({config.run for config in configs}) > 1:
        raise UsageError("`run`: exports that are made together are of one run; call `export` for each run")
    run = _checked_run(configs[0])
    _require_distinct_paths(configs, run)
    outcomes: list[ExportOutcome] = []
    current = ""
    with shared_steps(run, lambda step: on_progress(f"{current}: {step}")) as shared:
        for config, error in zip(configs, unbuildable, strict=True):
            outcome = ExportOutcome(config, error=error)
            current = outcome.name
            if error is None:
                try:
                    outcome = replace(outcome, artifact=_export_one(config, shared))
                except Exception as failure:
                    # Whatever a runtime raises, the other targets are still to be made.
                    outcome = replace(outcome, error=failure)
            outcomes.append(outcome)
    return outcomes


def _unbuildable(config: ExportConfig) -> BackendError | None:
    """Why this machine cannot build what is asked for, if so. Raises `UsageError` for what makes no sense anywhere."""
    try:
        ExportConfig.checked(config)
    except BackendError as error:
        return error
    return None


def _checked_run(config: ExportConfig) -> Artifact:
    run = store.find_run(config.run)
    check_files(run.card, run.path)
    return run


def _require_distinct_paths(configs: Sequence[ExportConfig], run: Artifact) -> None:
    """Raise `UsageError` for two exports into the same folder, whatever links and `..` lead to it."""
    paths: dict[Path, ExportConfig] = {}
    for config in configs:
        path = _bundle_path(run, config).resolve()
        other = paths.get(path)
        paths[path] = config
        if other is None:
            continue
        if (other.target, other.precision) == (config.target, config.precision):
            raise UsageError(f"`target` names {config.target} twice; name each target once", "target")
        raise UsageError(f"`out` is the folder of one bundle, and there are {len(configs)}; leave it out", "out")


def _export_one(config: ExportConfig, shared: SharedSteps) -> Artifact:
    run, path = shared.run, _bundle_path(shared.run, config)
    _check_replaceable(path)
    with tempfile.TemporaryDirectory(prefix="edgecls-", dir=shared.scratch) as scratch, new_folder(path) as folder:
        builder = BundleBuilder(shared, float32_card(run, config.target), config.options, Path(scratch), config.explain)
        if config.precision == "int8":
            result = search_int8(config, builder)
        else:
            result = export_float(builder, shared.verifier(config.verify_images), config.precision)
        bundle = result.bundle
        _require_gain(config, bundle)
        _publish(bundle, result.verifier, folder, shared)
        if result.float32 and bundle.card.quality.recommended is False and config.out is None:
            _keep_float32(result.float32, result.verifier, shared)
    return Artifact(path, bundle.card)


def _bundle_path(run: Artifact, config: ExportConfig) -> Path:
    """Where a bundle goes: what is made for a device that is not here does not replace what was made for another."""
    path = config.out or _default_path(run, config.target, config.precision)
    if config.out or config.device is None or is_for_here(backends.find(config.target), config.device):
        return path
    others = [each for each in store.bundles_of(run.path) if each.path == path and each.card.device != config.device]
    return path.with_name(f"{path.name}-{config.device.lower()}") if others else path


def _default_path(run: Artifact, target: str, precision: str) -> Path:
    return run.path / store.BUNDLES_FOLDER / replace(run.card, target=target, precision=precision).name


def _check_replaceable(path: Path) -> None:
    """Only a bundle, or an empty folder, may be replaced: never a run or somebody's files."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / CARD_FILE).is_file() or store.find(path).is_run:
        raise UsageError(f"{path} exists and is no bundle; choose another `out`")


def _require_gain(config: ExportConfig, bundle: Artifact) -> None:
    if not config.require_gain:
        return
    gain, name = bundle.card.quality.gain, bundle.card.name
    if gain is None:
        reason = bundle.backend.available() or "it was built for another device"
        raise VerificationError(f"{name} cannot be timed on this machine ({reason}), so `require_gain` cannot be met")
    if not bundle.card.quality.recommended:
        raise VerificationError(
            f"{name} is not faster than FP32 on this machine: {gain:.2f}x its speed in the same runtime; "
            "nothing was written"
        )


def _publish(bundle: Artifact, verifier: Verifier, folder: Path, shared: SharedSteps) -> None:
    shutil.copytree(bundle.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    verifier.golden().write(folder)
    shared.on_progress("recording answers to images of the run")
    record(shared.run, bundle, verifier, folder)
    write_card(bundle.card, folder)


def _keep_float32(bundle: Artifact, verifier: Verifier, shared: SharedSteps) -> None:
    """Export float32 into the run's folder, for it is what is recommended. One that stands there is kept."""
    run = shared.run
    path = _default_path(run, bundle.card.target, "fp32")
    _check_replaceable(path)
    parent = bundle.card.lineage.parent
    if any(b.path == path and b.card.lineage.parent == parent for b in store.bundles_of(run.path)):
        return
    [bundle] = timed([verifier.verify_float(bundle, shared.graph())], None, shared.on_progress)
    with new_folder(path) as folder:
        _publish(bundle, verifier, folder, shared)
