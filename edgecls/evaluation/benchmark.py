"""Which artifact to ship on this machine: all of them timed in turn, and measured on images where there are some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgecls.backends import OnProgress
from edgecls.benchmarking import conditions, regression, selection, suite
from edgecls.benchmarking.breakdown import FILES, Breakdown, break_down
from edgecls.benchmarking.config import BenchmarkConfig, Constraints
from edgecls.benchmarking.regression import Change
from edgecls.benchmarking.run import remember
from edgecls.benchmarking.suite import BenchmarkResult, Candidate
from edgecls.data.layout import index_dataset
from edgecls.data.sources import FolderSource
from edgecls.errors import BackendError, VerificationError
from edgecls.evaluation.evaluation import evaluate_artifact
from edgecls.evaluation.metrics import measure
from edgecls.files import read_bytes
from edgecls.imaging.decode import image_paths
from edgecls.runtime.store import Artifact, bundles_of, find, latest_run


@dataclass(frozen=True)
class BenchmarkReport:
    """What was measured, and what follows from it: `best` is the fastest verified bundle that meets the constraints,
    `front` the Pareto front of latency against accuracy, `changes` those against the baseline.

    `artifacts` are the models that were named, `same_machine` says whether the baseline was measured on such a one,
    and `record` is the whole as plain values, as in benchmark.json.
    """

    artifacts: Sequence[Artifact]
    results: Sequence[BenchmarkResult]
    best: BenchmarkResult | None
    front: Sequence[BenchmarkResult]
    breakdown: Sequence[Breakdown]
    changes: Sequence[Change]
    same_machine: bool
    record: dict[str, Any]

    def require(self, config: BenchmarkConfig) -> None:
        """Raise `VerificationError` where a candidate is slower than allowed, or none meets the constraints, and
        `BackendError` where none could be measured.
        """
        if not any(result.repetitions for result in self.results):
            raise BackendError(f"nothing could be measured here: {self.results[0].reason}")
        slower = [change for change in self.changes if change.slower]
        if slower and config.fail_if_slower is not None:
            named = ", ".join(f"{change.key} by {change.slowdown.value:.0%}" for change in slower)
            raise VerificationError(f"slower than the baseline: {named}; {config.fail_if_slower:.0%} was allowed")
        if self.best is None and config.constraints != Constraints():
            raise VerificationError(f"no verified bundle that ran here keeps to {config.constraints}")


def benchmark(config: BenchmarkConfig | None = None, on_progress: OnProgress = lambda _: None) -> BenchmarkReport:
    """Measure every bundle of a run and its torch parent, or the models named; `on_progress` hears what is being
    measured.

    Latencies of single images are kept beside each artifact's card. Raises `ArtifactError` for what is no model, and
    `UsageError` where the baseline has none of the candidates.
    """
    config = BenchmarkConfig.checked(config)
    before = regression.read_baseline(config.baseline) if config.baseline else None
    named = [find(model) for model in config.models or [latest_run()]]
    chosen = suite.candidates(_with_bundles(named), config)
    state = conditions.now()
    top1 = _accuracies(chosen, config.data, on_progress) if config.data is not None else {}
    results = [
        replace(result, top1=top1.get(result.candidate.artifact.path))
        for result in suite.run(chosen, config, on_progress)
    ]
    changes = []
    if before:
        changes = regression.compare(before, results, config.allowed_slowdown, config.seconds, on_progress)
    best, front = selection.recommended(results, config.constraints), selection.pareto(results)
    steps = _broken_down(results, config.data, on_progress) if config.data is not None else []
    remember([result.to_row() for result in results if result.candidate.is_plain])
    selected = {
        "recommended": best.candidate.key if best else None,
        "front": [result.candidate.key for result in front],
        "constraints": str(config.constraints),
        "breakdown": [{"name": each.name, "steps_ms": each.steps_ms, "images": each.images} for each in steps],
        "changes": [change.to_json() for change in changes],
    }
    same = before is None or regression.same_machine(before)
    record = {**suite.record(results, config, state), "selection": selected}
    return BenchmarkReport(named, results, best, front, steps, changes, same, record)


def _with_bundles(named: Sequence[Artifact]) -> list[Artifact]:
    """The artifacts, and behind each run its bundles."""
    artifacts: list[Artifact] = []
    for artifact in named:
        artifacts += [artifact, *bundles_of(artifact.path)] if artifact.is_run else [artifact]
    return artifacts


def _accuracies(chosen: Sequence[Candidate], data: Path, on_progress: OnProgress) -> dict[Path, float]:
    """Top-1 of each artifact that runs here, through its own runtime."""
    top1: dict[Path, float] = {}
    for artifact in {each.artifact.path: each.artifact for each in chosen}.values():
        if artifact.backend.available() is None:
            on_progress(f"accuracy of {artifact.card.name}")
            _, _, scores, labels = evaluate_artifact(artifact, data)
            top1[artifact.path] = measure(scores, labels).top1
    return top1


def _broken_down(results: Sequence[BenchmarkResult], data: Path, on_progress: OnProgress) -> list[Breakdown]:
    """The way from file to label of each artifact, on image files of the data."""
    if data.is_dir():
        paths = image_paths([data])
    else:
        layout = index_dataset(str(data))
        if not isinstance(layout.source, FolderSource):
            return []
        paths = [layout.source.root / sample.key for samples in layout.splits.values() for sample in samples]
    files = [read_bytes(path) for path in paths[:: max(1, len(paths) // FILES)][:FILES]]
    breakdowns = []
    for result in results:
        if result.repetitions and result.candidate.is_plain:
            on_progress(f"from file to label with {result.candidate.key}")
            breakdowns.append(replace(break_down(result.candidate.artifact, files), name=result.candidate.key))
    return breakdowns
