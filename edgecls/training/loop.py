"""The training loop: one explicit function from a data set to a finished run."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls import models
from edgecls.data.dataset import Dataset, open_dataset
from edgecls.errors import UsageError
from edgecls.evaluation.cross_validation import CrossValidation, Fold
from edgecls.evaluation.inference import labels_of
from edgecls.evaluation.metrics import Metrics, measure
from edgecls.files import half_written, make_folder, new_folder
from edgecls.runtime import store
from edgecls.runtime.pipeline import scores_of
from edgecls.training import optimize
from edgecls.training.checkpoint import CHECKPOINT_FILE, FOLDS_FILE, Checkpoint, read_checkpoint, write_checkpoint
from edgecls.training.config import TrainConfig
from edgecls.training.features import FrozenFeatures
from edgecls.training.finish import finish
from edgecls.training.folds import FoldCallbacks, FoldsDone, digest_of, folds_of, read_folds
from edgecls.training.history import Epoch, TensorBoardLog, TrainingCallbacks
from edgecls.training.interrupt import Interruption, deferred_signals
from edgecls.training.parallel import gathered, launched
from edgecls.training.prepare import prepare
from edgecls.training.setup import TrainingSetup

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric
    from numpy import float32
    from numpy.typing import NDArray


def resume(path: Path | str, callbacks: TrainingCallbacks | None = None) -> tuple[Path, Metrics]:
    """Go on with the training that was ended in the folder `path`, with the same result as if it had not been.

    Raises `ArtifactError` where there is none and `DataError` where its images have changed.
    """
    models.require_torch("training")
    if not isinstance(path, (str, Path)):
        raise UsageError(f"a training is named by its folder, not by {type(path).__name__}")
    path = Path(path)
    folds = read_folds(path)
    checkpoint = None if folds and not (path / CHECKPOINT_FILE).exists() else read_checkpoint(path)
    settings = checkpoint.settings if checkpoint else folds.settings if folds else {}
    config = TrainConfig(**{**settings, "out": path})
    for left in half_written(path):  # SIGKILL while the finished run was being written
        shutil.rmtree(left, ignore_errors=True)
    return _train(config, callbacks or TrainingCallbacks(), lambda _: nullcontext(path), checkpoint)


def train(config: TrainConfig | None = None, callbacks: TrainingCallbacks | None = None) -> tuple[Path, Metrics]:
    """Train, evaluate on the test split and write the run; returns its folder and the test metrics.

    The epoch with the best validation accuracy, or macro F1 where classes are uneven, is kept. After each epoch, and on
    Ctrl-C or SIGTERM after the running step, a checkpoint stands in the run's folder, from which `resume` goes on; a
    training that is interrupted before leaves nothing behind. Of several processes the first one writes; the others
    return the same.
    """
    models.require_torch("training")
    config = TrainConfig.checked(config)

    def reserve(dataset: Dataset) -> AbstractContextManager[Path]:
        return _taken(config.out) if config.out else store.new_run(dataset.source.name, config.arch)

    return _train(config, callbacks or TrainingCallbacks(), reserve)


@contextmanager
def _taken(path: Path) -> Iterator[Path]:
    """Create a folder before hours are spent on what it is for; it goes where nothing was put into it."""
    make_folder(path)
    try:
        yield path
    finally:
        with suppress(OSError):
            path.rmdir()


def _train(
    config: TrainConfig,
    callbacks: TrainingCallbacks,
    reserve: Callable[[Dataset], AbstractContextManager[Path]],
    checkpoint: Checkpoint | None = None,
) -> tuple[Path, Metrics]:
    import torch

    from edgecls.imaging.opencv import single_threaded

    with ExitStack() as stack:
        fabric = stack.enter_context(launched(config.precision, config.deterministic))
        dataset = open_dataset(config.data, config.seed)
        path = stack.enter_context(reserve(dataset)) if fabric.is_global_zero else None
        heard = callbacks
        if path is None:
            callbacks = TrainingCallbacks()
        elif config.tensorboard:
            callbacks = TensorBoardLog(callbacks, path)
        try:
            folds = _cross_validate(config, dataset, heard, fabric, path) if config.folds and path else None
            torch.manual_seed(config.seed + fabric.global_rank)
            setup = prepare(config, dataset, callbacks, fabric, checkpoint)
            with deferred_signals() as interruption, single_threaded():
                Trainer(setup, callbacks, path, interruption).fit()
        except UsageError:
            for file in _left_behind(path):
                file.unlink()  # what cannot go on is not worth keeping
            raise
        except KeyboardInterrupt:
            if path and _left_behind(path):
                callbacks.stopped(path)
            raise
        with new_folder(path) if path else nullcontext() as folder:
            metrics = finish(setup, folder, folds)
        written: Path = fabric.broadcast(path)
    return written, metrics


def _left_behind(path: Path | None) -> list[Path]:
    """The files in a run's folder by which a training goes on."""
    return [path / name for name in (CHECKPOINT_FILE, FOLDS_FILE) if (path / name).exists()] if path else []


def _cross_validate(
    config: TrainConfig, dataset: Dataset, callbacks: TrainingCallbacks, fabric: Fabric, path: Path
) -> CrossValidation:
    """Train a model for each fold that is not done yet, and note each one's figures in the run's folder."""
    import torch

    from edgecls.imaging.opencv import single_threaded

    folds = folds_of(dataset, config.folds or 0)
    done = read_folds(path) or FoldsDone(config.to_json(), digest_of(dataset), CrossValidation(()))
    done.require_same_images(dataset)
    for number, fold in enumerate(folds, start=1):
        if number <= len(done.result.folds):
            continue
        torch.manual_seed(config.seed + number)
        told = FoldCallbacks(callbacks)
        setup = prepare(config, fold, told, fabric)
        callbacks.fold(number, len(folds), setup.epochs, len(setup.batches))
        with deferred_signals() as interruption, single_threaded():
            Trainer(setup, told, None, interruption).fit()
        result = Fold.of(finish(setup, None), dataset.classes)
        done = replace(done, result=CrossValidation((*done.result.folds, result)))
        done.write(path)
        callbacks.remark(
            f"fold {number} of {len(folds)}: top-1 {100 * result.top1:.2f} %, macro F1 {100 * result.macro_f1:.2f} % "
            f"over {result.images} images"
        )
    callbacks.remark(f"{done.result} (mean ± standard deviation)")
    return done.result


class Trainer:
    """The loop over epochs and steps. `path` is the run's folder, None in all processes but the first."""

    def __init__(
        self, setup: TrainingSetup, callbacks: TrainingCallbacks, path: Path | None, interruption: Interruption
    ):
        self.setup, self.callbacks, self.path, self.interruption = setup, callbacks, path, interruption

    def fit(self) -> None:
        """Train all epochs, with a checkpoint in the run's folder after each; the best weights end up in the network.

        An interruption that waits ends it after the running step. Raises `UsageError` where the loss is no longer a
        number.
        """
        setup, progress = self.setup, self.setup.progress
        device = "NVIDIA GPU" if setup.fabric.device.type == "cuda" else "CPU"
        history, steps = progress.history, len(setup.batches)
        done = len(history) * steps + len(progress.losses)
        self.callbacks.started(setup.dataset, setup.model.initial, setup.epochs, steps, device, done)
        for number in range(len(history) + 1, setup.epochs + 1):
            if self._is_out_of_patience():
                break
            epoch = self._epoch(number)
            if not history or epoch.merit >= max(each.merit for each in history):
                progress.best = {name: tensor.detach().clone() for name, tensor in setup.result.state_dict().items()}
            history.append(epoch)
            if number < setup.epochs:
                self._write_checkpoint()
            self.callbacks.epoch(epoch)
            self.interruption.go()
        models.restore(setup.model.network, progress.best)

    def _is_out_of_patience(self) -> bool:
        """Whether the best epoch lies further back than the asked-for patience."""
        patience, history = self.setup.config.patience, self.setup.progress.history
        if patience is None or not history:
            return False
        best = max(history, key=lambda epoch: epoch.merit)
        return history[-1].epoch - best.epoch >= patience

    def _write_checkpoint(self) -> None:
        if self.path:
            write_checkpoint(self.setup, self.path)

    def _epoch(self, number: int) -> Epoch:
        setup, model, progress = self.setup, self.setup.model, self.setup.progress
        begun, before = time.perf_counter(), len(progress.losses)
        frozen = optimize.frozen_blocks(setup.config.freeze, len(model.blocks), number, setup.epochs)
        optimize.freeze(model.network, model.blocks, frozen)
        model.module.train()
        optimize.hold_frozen(model.network)
        for inputs, targets in setup.batches.epoch(number, skip=before):
            progress.losses.append(self._step(inputs.to(setup.fabric.device), targets.to(setup.fabric.device), number))
            if self.interruption.wanted:
                self._write_checkpoint()
                self.interruption.go()
        trained = time.perf_counter()
        val_loss, val = _validate(setup)
        _require_finite(val_loss, number)
        losses, progress.losses = progress.losses, []
        return Epoch(
            epoch=number,
            lr=float(setup.optimization.schedule.get_last_lr()[-1]),
            train_loss=sum(losses) / len(losses),
            val_loss=val_loss,
            val_top1=val.top1,
            val_macro_f1=val.macro_f1,
            selected_by=setup.merit,
            images_per_s=(len(losses) - before) * setup.config.batch_size / (trained - begun),
            seconds=time.perf_counter() - begun,
        )

    def _step(self, inputs: torch.Tensor, targets: torch.Tensor, epoch: int) -> float:
        """One optimizer step; returns the batch's loss, over all processes."""
        config, fabric, optimization = self.setup.config, self.setup.fabric, self.setup.optimization
        optimization.optimizer.zero_grad()
        pieces = list(zip(inputs.chunk(config.accumulate), targets.chunk(config.accumulate), strict=True))
        value = 0.0
        for position, (images, wanted) in enumerate(pieces, start=1):
            with fabric.no_backward_sync(optimization.learner, enabled=position < len(pieces)):
                scores = optimization.learner(images)
                loss = optimization.loss(scores, wanted)
                if optimization.teacher:
                    loss = optimization.teacher.loss(images, scores, loss)
                loss = loss * (len(images) / len(inputs))
                fabric.backward(loss)
                value += float(loss.detach())
        if fabric.world_size > 1:
            value = float(fabric.all_reduce(loss.new_tensor(value), reduce_op="mean"))
        _require_finite(value, epoch)
        fabric.clip_gradients(
            optimization.learner, optimization.optimizer, max_norm=config.clip, error_if_nonfinite=False
        )
        optimization.optimizer.step()
        optimization.schedule.step()
        if optimization.average:
            optimization.average.update_parameters(self.setup.model.network)
        self.callbacks.batch(epoch, value)
        return value


def _validate(setup: TrainingSetup) -> tuple[float, Metrics]:
    """Loss and figures of what would be kept now, on the validation split."""
    import torch
    from torch.nn.functional import cross_entropy

    scores, labels = _val_scores(setup), labels_of(setup.dataset.splits["val"])
    loss = cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels))
    return float(loss), measure(scores, labels)


def _val_scores(setup: TrainingSetup) -> NDArray[float32]:
    model, network = setup.model, setup.result
    if isinstance(setup.batches, FrozenFeatures):
        return setup.batches.val_scores(network.get_submodule(model.head))
    samples, fabric = setup.dataset.splits["val"], setup.fabric
    share = samples[fabric.global_rank :: fabric.world_size]
    scores = scores_of(model.session(network), setup.batches.val_inputs(share))
    return gathered(fabric, scores, len(samples))


def _require_finite(loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise UsageError(f"training diverged: the loss is NaN in epoch {epoch}; train with a smaller `lr`")
