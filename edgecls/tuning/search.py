"""Searching for the settings that train best, alone or under a limit on latency measured here, with Optuna."""

from __future__ import annotations

import math
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls import backends, models
from edgecls.artifact.card import Card
from edgecls.benchmarking.measure import sample_session
from edgecls.clock import Latency
from edgecls.errors import MissingExtraError, OutputError, UsageError, first_line
from edgecls.exporting.graph import float_graph
from edgecls.files import make_folder, take_name
from edgecls.logs import quiet
from edgecls.models.torch_backend import MODEL_FILE
from edgecls.training.augment import PRESETS
from edgecls.training.history import Epoch, TrainingCallbacks
from edgecls.training.loop import train
from edgecls.tuning.config import TuneConfig
from edgecls.urls import SecretUrl

if TYPE_CHECKING:
    import optuna

    from edgecls.data.dataset import Dataset

STUDY_FILE = "study.db"
BEST_FOLDER = "best"
LR_RANGE = (1e-4, 1e-2)
WEIGHT_DECAY_RANGE = (1e-4, 0.2)
BATCH_SIZES = (16, 32, 64)
LATENCY, FAILURE = "latency_ms", "reason"
HEARTBEAT_S = 60
"""A trial whose process has not been heard of for three of these is given up, so that a study survives its machines."""


@dataclass(frozen=True)
class Trial:
    """One attempt: its settings, the best validation accuracy (a fraction) and how it ended.

    `state` is "complete", "pruned" or "failed", `reason` says why a trial was not finished.
    """

    number: int
    settings: dict[str, Any]
    val_top1: float | None
    state: str
    latency_ms: float | None
    reason: str | None


class TuningCallbacks:
    """What a search tells about itself. The base is silent."""

    def trial(self, number: int, settings: dict[str, Any]) -> None:
        """A trial begins."""

    def epoch(self, number: int, epoch: Epoch) -> None:
        """An epoch of it was validated."""

    def ended(self, trial: Trial, best: bool) -> None:
        """It ended."""


def tune(config: TuneConfig, callbacks: TuningCallbacks | None = None) -> list[Trial]:
    """Run the trials, adding to those that the study holds; returns all of them.

    The run of the best trial on this machine stands in `out/best`. Raises `MissingExtraError` without Optuna and
    `OutputError` where the storage cannot be used.
    """
    config = TuneConfig.checked(config)
    callbacks = callbacks or TuningCallbacks()
    _require_optuna()
    with quiet("optuna"):
        study = open_study(config)
        search = _Search(config, callbacks, best_of(trials_of(study)))
        study.optimize(
            search.run,
            n_trials=config.trials,
            timeout=None if config.minutes is None else 60 * config.minutes,
            callbacks=[lambda study, frozen: callbacks.ended(_trial(frozen), _is_best(study, frozen))],
        )
        return trials_of(study)


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("optuna", "tune", "tuning") from error


def open_study(config: TuneConfig) -> optuna.Study:
    """The study, with whatever trials it holds."""
    _require_optuna()
    import optuna

    make_folder(config.out)
    url = config.storage or f"sqlite:///{config.out.resolve() / STUDY_FILE}"
    shown = SecretUrl(url)
    try:
        with quiet("optuna"), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the heartbeat
            storage = optuna.storages.RDBStorage(url, heartbeat_interval=HEARTBEAT_S, grace_period=3 * HEARTBEAT_S)
            study = optuna.create_study(
                storage=storage,
                study_name=config.name,
                load_if_exists=True,
                direction="maximize",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
            )
    except Exception as error:
        # Databases' drivers have exceptions of their own.
        raise OutputError(
            f"the study's storage {shown} cannot be used ({shown.scrubbed(first_line(error))}); check `storage`"
        ) from error
    seed = config.base.seed + len(study.trials)  # a study that goes on must not suggest again what it began with
    study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    return study


def trials_of(study: optuna.Study) -> list[Trial]:
    """All ended trials."""
    return [_trial(frozen) for frozen in study.trials if frozen.state.is_finished()]


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the highest validation accuracy, None where there is none."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.val_top1 is not None]
    return max(complete, key=lambda trial: trial.val_top1 or 0.0, default=None)


def importances(study: optuna.Study) -> dict[str, float]:
    """How much each setting mattered (fANOVA, Hutter et al. 2014); empty where too few trials tell."""
    import optuna

    try:
        return dict(optuna.importance.get_param_importances(study))
    except (ValueError, RuntimeError):
        return {}


def latency_of(arch: str, classes: int, size_px: int) -> float:
    """Median latency in ms of a network with fresh weights: float32, ONNX Runtime, batch 1, on this machine."""
    import numpy as np

    backend = backends.of_every_install()
    card = Card(arch, tuple(map(str, range(classes))), models.usual_preprocess(arch, size_px), target=backend.name)
    with tempfile.TemporaryDirectory(prefix="edgecls-") as scratch:
        folder = Path(scratch)
        models.write_weights(models.create(arch, classes), folder / MODEL_FILE)
        float_graph(folder / MODEL_FILE, card, folder / "model.onnx")
        with backend.open(folder / "model.onnx", card) as session:
            return Latency.of(sample_session(session, np.zeros(card.input_shape, np.uint8))).p50_ms


class _Search:
    """Makes settings of what Optuna suggests, trains with them, and keeps the best run."""

    def __init__(self, config: TuneConfig, callbacks: TuningCallbacks, best: Trial | None):
        self._config, self._callbacks = config, callbacks
        self._latency_ms = lru_cache(latency_of)
        there = best is not None and (config.out / BEST_FOLDER).exists()
        self._best = best.val_top1 or 0.0 if best and there else -math.inf

    def run(self, trial: optuna.Trial) -> float:
        import optuna

        settings = self._suggest(trial)
        self._callbacks.trial(trial.number, settings)
        path = self._config.out / f"trial-{trial.number}"
        callbacks = _Reporting(self._config, trial, self._callbacks, self._latency_ms)
        try:
            train(replace(self._config.base, **settings, folds=None, out=path), callbacks)
        except UsageError as error:  # the loss ran away, or these settings do not go together
            trial.set_user_attr(FAILURE, str(error))
            raise optuna.TrialPruned from error
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        self._keep(path, callbacks.best)
        return callbacks.best

    def _suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        config = self._config
        settings: dict[str, Any] = {
            "arch": trial.suggest_categorical("arch", list(config.archs or [config.base.arch])),
            "lr": trial.suggest_float("lr", *LR_RANGE, log=True),
            "batch_size": trial.suggest_categorical("batch_size", list(BATCH_SIZES)),
            "weight_decay": trial.suggest_float("weight_decay", *WEIGHT_DECAY_RANGE, log=True),
            "augment": trial.suggest_categorical("augment", [name for name in PRESETS if name != "none"]),
        }
        if config.sizes_px:
            settings["size_px"] = trial.suggest_categorical("size_px", list(config.sizes_px))
        if config.epochs:
            settings["epochs"] = trial.suggest_int("epochs", *config.epochs)
        return settings

    def _keep(self, path: Path, val_top1: float) -> None:
        """Move the run to `best` where none before was as good: of equals the first is the best, as in `best_of`."""
        if val_top1 <= self._best:
            shutil.rmtree(path)
            return
        self._best = val_top1
        take_name(path, self._config.out / BEST_FOLDER)


class _Reporting(TrainingCallbacks):
    """Tells Optuna about each epoch, which may end the trial; refuses networks that are too slow before they train."""

    def __init__(
        self,
        config: TuneConfig,
        trial: optuna.Trial,
        callbacks: TuningCallbacks,
        latency_ms: Callable[[str, int, int], float],
    ):
        self._config, self._trial, self._callbacks, self._latency_ms = config, trial, callbacks, latency_ms
        self.best = 0.0

    def started(self, dataset: Dataset, *_: Any) -> None:
        """See `TrainingCallbacks`."""
        limit = self._config.max_latency_ms
        if limit is None:
            return
        arch = self._trial.params["arch"]
        size = self._trial.params.get("size_px") or models.usual_size_px(arch, dataset.source.default_size_px)
        latency_ms = self._latency_ms(arch, len(dataset.classes), size)
        self._trial.set_user_attr(LATENCY, latency_ms)
        if latency_ms > limit:
            self._end(f"{latency_ms:.2f} ms, more than {limit:g}")

    def epoch(self, epoch: Epoch) -> None:
        """See `TrainingCallbacks`."""
        self.best = max(self.best, epoch.val_top1)
        self._callbacks.epoch(self._trial.number, epoch)
        self._trial.report(self.best, epoch.epoch)
        if self._trial.should_prune():
            self._end(f"behind the others after epoch {epoch.epoch}")

    def _end(self, reason: str) -> None:
        import optuna

        self._trial.set_user_attr(FAILURE, reason)
        raise optuna.TrialPruned


def _trial(frozen: optuna.trial.FrozenTrial) -> Trial:
    states = {"COMPLETE": "complete", "PRUNED": "pruned"}
    values = [frozen.value] if frozen.value is not None else list(frozen.intermediate_values.values())
    attributes = frozen.user_attrs
    return Trial(
        frozen.number,
        dict(frozen.params),
        max(values, default=None),
        states.get(frozen.state.name, "failed"),
        attributes.get(LATENCY),
        attributes.get(FAILURE),
    )


def _is_best(study: optuna.Study, frozen: optuna.trial.FrozenTrial) -> bool:
    return frozen.state.name == "COMPLETE" and study.best_trial.number == frozen.number
