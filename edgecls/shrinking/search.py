"""The search for a smaller run: what is fast enough is trained, the cheapest first, until one is accurate enough."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls import models
from edgecls.artifact.card import Quality, check_files, write_card
from edgecls.benchmarking.run import gain_over, time_artifacts
from edgecls.clock import milliseconds_since, now_ns
from edgecls.data.dataset import Dataset
from edgecls.errors import BackendError, UsageError, VerificationError, first_line
from edgecls.evaluation.inference import labels_of, scores_on
from edgecls.evaluation.kept_scores import CACHE_FOLDER
from edgecls.evaluation.metrics import labelled, measure
from edgecls.exporting import timing
from edgecls.files import new_folder
from edgecls.quantization.search import AcceptanceCriteria
from edgecls.runtime import machine, store
from edgecls.runtime.store import Artifact
from edgecls.runtime.verification import compared
from edgecls.shrinking.attempts import Attempt, Candidate, ShrinkCallbacks, Timed
from edgecls.shrinking.candidates import HEADROOM, CandidateBuilder, time_candidates, worth_training
from edgecls.shrinking.config import DISTILLED, ShrinkConfig
from edgecls.shrinking.parent import settings_of_run, training_images
from edgecls.training.config import TrainConfig
from edgecls.training.finish import finish
from edgecls.training.history import Epoch, TrainingCallbacks
from edgecls.training.loop import train
from edgecls.training.parallel import launched
from edgecls.training.prepare import prepare

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

SLACK = 0.02
"""Of top-1: what the last epochs of a schedule may bring beyond all extrapolation."""


def shrink(config: ShrinkConfig, callbacks: ShrinkCallbacks | None = None) -> Artifact:
    """Make a run as fast as `config.to` says and hardly less accurate; returns the new run.

    A run that is as fast already is returned as it is. Of what is tried nothing is left but the new run, and on any
    error, Ctrl-C included, nothing at all. Raises `VerificationError` where nothing is fast enough, or nothing that is
    loses as little as allowed, and `UsageError` or `DataError` for a run that cannot be trained on.
    """
    config, callbacks = ShrinkConfig.checked(config), callbacks or ShrinkCallbacks()
    models.require_torch("shrinking")
    run = store.find_run(config.run)
    check_files(run.card, run.path)
    base = settings_of_run(run)
    with tempfile.TemporaryDirectory(prefix="edgecls-") as folder:
        scratch = Path(folder)
        builder = CandidateBuilder(run, scratch, config, callbacks)
        parent_ms, _ = time_candidates(builder, [], callbacks)
        if config.goal.reached(parent_ms, parent_ms):
            callbacks.remark(f"{run.path} takes {parent_ms:.2f} ms with {config.target} here already; nothing was done")
            return run
        callbacks.step("making candidates")
        parent_ms, timed = time_candidates(builder, builder.candidates(), callbacks)
        chosen = worth_training(timed, config.goal)
        if not chosen:
            raise VerificationError(_unreachable(config, parent_ms, timed))
        callbacks.step("reading the images")
        dataset = training_images(run, base)
        search = _Search(config, callbacks, run, base, dataset, scratch)
        attempts = search.attempts(chosen)
        kept = attempts[-1]
        if kept.run is None or kept.reason:
            raise VerificationError(_refusal(config, attempts))
        callbacks.step("measuring what was found")
        return search.publish(kept, attempts, builder)


class _Search:
    """Trains candidates of one run and compares each with it."""

    def __init__(
        self,
        config: ShrinkConfig,
        callbacks: ShrinkCallbacks,
        run: Artifact,
        base: TrainConfig,
        dataset: Dataset,
        scratch: Path,
    ):
        self._config, self._callbacks, self._run = config, callbacks, run
        self._base, self._dataset, self._scratch = base, dataset, scratch
        self._parent_scores = lru_cache(lambda split: self._scores(run, split))
        self._aim = AcceptanceCriteria(config.max_drop_points)

    def attempts(self, chosen: Sequence[Timed]) -> list[Attempt]:
        """What was tried, the first that is accurate enough at the end."""
        attempts: list[Attempt] = []
        for timed in chosen:
            for trained in (False, True) if timed.candidate.lever == "size" else (True,):
                attempts.append(self._attempt(timed, trained))
                self._callbacks.ended(attempts[-1])
                if attempts[-1].reason is None:
                    return attempts
        return attempts

    def _attempt(self, timed: Timed, trained: bool) -> Attempt:
        begun, candidate = now_ns(), timed.candidate
        how = "weights as they are" if not trained else "fine-tuned" if candidate.learned else "distilled"
        attempt = Attempt(timed, f"{candidate.name}, {how}")
        self._callbacks.step(attempt.name)
        path = Path(tempfile.mkdtemp(dir=self._scratch)) / "run"
        try:
            self._make(candidate, trained, path, attempt.name)
        except (_TooFarBehindError, UsageError, BackendError) as error:
            return replace(attempt, seconds=milliseconds_since(begun) / 1000, reason=first_line(error))
        made = store.find(path)
        quality = self._compare(made, "val")
        reason = None if self._aim.accurate(quality) else f"loses more than {self._config.max_drop_points:g} points"
        return replace(attempt, seconds=milliseconds_since(begun) / 1000, quality=quality, reason=reason, run=made)

    def _make(self, candidate: Candidate, trained: bool, path: Path, name: str) -> None:
        """Write the run of a candidate to `path`, trained or with the weights that it has."""
        config = replace(
            self._base,
            arch=candidate.arch,
            weights=str(candidate.weights.resolve()) if candidate.learned else self._fresh_weights(),
            size_px=candidate.size_px,
            epochs=self._config.epochs * (1 if candidate.learned else DISTILLED) if trained else 1,
            lr=models.find(candidate.arch).lr if candidate.lever == "prune" else None,  # as from scratch: much is gone
            teacher=str(self._run.path.resolve()) if trained else None,
            out=path,
        )
        if trained:
            train(config, _Watching(self._callbacks, name, config.epochs or 1, self._needed_top1()))
            return
        with launched(config.precision, config.deterministic) as fabric, new_folder(path) as folder:
            finish(prepare(config, self._dataset, TrainingCallbacks(), fabric), folder)

    def _fresh_weights(self) -> str:
        """Of another architecture: those that are at hand, unless the run was trained from nothing on purpose."""
        return "none" if self._base.weights == "none" else "auto"

    def _needed_top1(self) -> float:
        labels = labels_of(self._dataset.splits["val"])
        return measure(self._parent_scores("val"), labels).top1 - self._config.max_drop_points / 100

    def _scores(self, artifact: Artifact, split: str) -> NDArray[float32]:
        return scores_on(artifact, self._dataset.source, self._dataset.splits[split])

    def _compare(self, artifact: Artifact, split: str) -> Quality:
        labels, parent = labels_of(self._dataset.splits[split]), self._parent_scores(split)
        scores = self._scores(artifact, split)
        return labelled(compared(scores, parent, split), scores, parent, labels)

    def publish(self, kept: Attempt, attempts: Sequence[Attempt], builder: CandidateBuilder) -> Artifact:
        """Give the kept run its place, with what it loses on the test split and its latency, measured again."""
        assert kept.run is not None
        made, quality = kept.run, self._compare(kept.run, "test")
        bundle = builder.bundle(made.path / made.card.model_file, made.card)
        own, parent = time_artifacts([bundle, builder.parent], timing.TIMING)
        shrunk = {
            "parent": self._run.card.lineage.files[self._run.card.model_file],
            "run": self._run.path.resolve().name,
            "lever": kept.timed.candidate.lever,
            "how": kept.name,
            "split": quality.split,
            "images": quality.images,
            "agreement": quality.agreement,
            "drop_points": quality.drop_points,
            "drop_low_points": quality.drop_low_points,
            "drop_high_points": quality.drop_high_points,
            "target": self._config.target,
            "latency_ms": min(own.round_p50_ms),
            "parent_latency_ms": min(parent.round_p50_ms),
            "speedup": gain_over(own, parent),
            "machine": machine.this_machine().name,
        }
        lineage = replace(made.card.lineage, shrunk=shrunk, candidates=[each.to_json() for each in attempts])
        card = replace(made.card, lineage=lineage)
        config = self._config
        reserved = nullcontext(config.out) if config.out else store.new_run(self._dataset.source.name, card.arch)
        with reserved as path, new_folder(path) as folder:
            shutil.copytree(made.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(CACHE_FOLDER))
            write_card(card, folder)
            self._replayable(kept, path).write(folder)
        return Artifact(path, card)

    def _replayable(self, kept: Attempt, path: Path) -> TrainConfig:
        """The settings by which a run can be trained on: what a pruned one began with is gone, what it has is not."""
        trained = settings_of_run(kept.run) if kept.run else self._base
        return replace(trained, weights=str(path.resolve())) if kept.timed.candidate.lever == "prune" else trained


class _TooFarBehindError(Exception):
    """An attempt that cannot become accurate enough."""


class _Watching(TrainingCallbacks):
    """Passes epochs on, and ends a training that will not get to `needed_top1` (a fraction)."""

    def __init__(self, callbacks: ShrinkCallbacks, name: str, epochs: int, needed_top1: float):
        self._callbacks, self._name, self._epochs, self._needed = callbacks, name, epochs, needed_top1
        self._top1s: list[float] = []

    def epoch(self, epoch: Epoch) -> None:
        """See `TrainingCallbacks`."""
        self._callbacks.epoch(self._name, self._epochs, epoch)
        self._top1s.append(epoch.val_top1)
        if is_too_far_behind(self._top1s, self._epochs, self._needed):
            best = f"{100 * max(self._top1s):.2f} %"
            raise _TooFarBehindError(f"ended after {epoch.epoch} of {self._epochs} epochs at {best}, too far behind")


def is_too_far_behind(top1s: Sequence[float], epochs: int, needed: float) -> bool:
    """Whether a training that had these validation accuracies so far lacks more than twice its pace can bring.

    All are fractions; the first third of the epochs is not judged, for most learn little in it.
    """
    done = len(top1s)
    if done < max(2, math.ceil(epochs / 3)) or done >= epochs:
        return False
    pace = (max(top1s) - top1s[0]) / (done - 1)
    return needed - max(top1s) > SLACK + 2 * pace * (epochs - done)


def _unreachable(config: ShrinkConfig, parent_ms: float, timed: Sequence[Timed]) -> str:
    beginning = f"nothing reaches {config.goal} with {config.target} here: the run takes {parent_ms:.2f} ms"
    if not timed:
        return f"{beginning}, and there is nothing smaller to try; allow more `levers`"
    best = min(timed, key=lambda each: each.latency_ms)
    fastest = f"{best.candidate.name}, {best.latency_ms:.2f} ms ({best.speedup:.2f}x)"
    return (
        f"{beginning}, the fastest candidate, {fastest}, and one must have {HEADROOM - 1:.0%} to spare, for it is "
        "timed again when it is trained; ask for less with `to`"
    )


def _refusal(config: ShrinkConfig, attempts: Sequence[Attempt]) -> str:
    measured = [each for each in attempts if each.quality.drop_points is not None]
    tried = f"{len(attempts)} {'attempt' if len(attempts) == 1 else 'attempts'}, nothing was written"
    if not measured:
        return f"no attempt could be finished ({attempts[-1].name}: {attempts[-1].reason}); {tried}"
    nearest = min(measured, key=lambda each: each.quality.drop_points or 0.0)
    return (
        f"{config.goal} costs {nearest.quality.drop_points:.2f} points of top-1 at best ({nearest.name}, over "
        f"{nearest.quality.images} validation images), {config.max_drop_points:g} are allowed; {tried}: "
        "allow more with `max_drop_points`, or train for more `epochs`"
    )
