"""The training loop: one explicit function from a data set to a finished run."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls import models
from edgecls.artifact.card import Card, Confidence, Quality, with_files, write_card
from edgecls.artifact.golden import Golden
from edgecls.data.dataset import Dataset, open_dataset
from edgecls.errors import UsageError
from edgecls.evaluation.confidence import fit_temperature
from edgecls.evaluation.inference import golden_images, labels_of, prepared
from edgecls.evaluation.metrics import Metrics, measure
from edgecls.files import half_written, make_folder, new_folder, write_text
from edgecls.imaging.preprocess import Preprocess
from edgecls.models.torch_backend import BACKEND as REFERENCE
from edgecls.models.torch_backend import MODEL_FILE, TorchSession
from edgecls.runtime import machine, store
from edgecls.runtime.pipeline import scores_of
from edgecls.training import optimize
from edgecls.training.augment import PRESETS, Augmentation
from edgecls.training.batches import Order, TrainingBatches, write_preview
from edgecls.training.checkpoint import CHECKPOINT_FILE, Checkpoint, images_of, read_checkpoint
from edgecls.training.config import TrainConfig
from edgecls.training.features import Backbone, FrozenFeatures
from edgecls.training.history import Epoch, TensorBoardLog, TrainingCallbacks, write_history
from edgecls.training.interrupt import Interruption, deferred_signals
from edgecls.training.parallel import gathered, launch, share_batch_norms
from edgecls.training.teacher import Teacher
from edgecls.training.weights import InitialWeights, start

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric
    from numpy import float32
    from numpy.typing import NDArray

EVALUATION_FILE = "evaluation.json"


def resume(place: Path, callbacks: TrainingCallbacks | None = None) -> tuple[Path, Metrics]:
    """Go on with the training that was ended in the folder `place`, with the same result as if it had not been.

    Raises `ArtifactError` where there is none and `DataError` where its images have changed.
    """
    models.require_torch("training")
    checkpoint = read_checkpoint(place)
    config = TrainConfig(**{**checkpoint.settings, "out": place})
    for left in half_written(place):  # SIGKILL while the finished run was being written
        shutil.rmtree(left, ignore_errors=True)
    return _train(config, callbacks or TrainingCallbacks(), lambda _: nullcontext(place), checkpoint)


def train(config: TrainConfig | None = None, callbacks: TrainingCallbacks | None = None) -> tuple[Path, Metrics]:
    """Train, evaluate on the test split and write the run; returns its folder and the test metrics.

    The epoch with the best validation accuracy is kept. After each epoch, and on Ctrl-C or SIGTERM after the running
    step, a checkpoint stands in the run's folder, from which `resume` goes on; a training that is interrupted before
    leaves nothing behind. Of several processes the first one writes; the others return the same.
    """
    models.require_torch("training")
    config = config or TrainConfig()
    config.check()

    def reserve(dataset: Dataset) -> AbstractContextManager[Path]:
        return _taken(config.out) if config.out else store.new_run(dataset.source.name, config.arch)

    return _train(config, callbacks or TrainingCallbacks(), reserve)


@contextmanager
def _taken(place: Path) -> Iterator[Path]:
    """Create a folder before hours are spent on what it is for; it goes where nothing was put into it."""
    make_folder(place)
    try:
        yield place
    finally:
        with suppress(OSError):
            place.rmdir()


def _train(
    config: TrainConfig,
    callbacks: TrainingCallbacks,
    reserve: Callable[[Dataset], AbstractContextManager[Path]],
    checkpoint: Checkpoint | None = None,
) -> tuple[Path, Metrics]:
    import torch

    from edgecls.imaging.opencv import single_threaded

    fabric = launch(config.precision, config.deterministic)
    dataset = open_dataset(config.data, config.seed)
    with reserve(dataset) if fabric.is_global_zero else nullcontext() as place:
        if place is None:
            callbacks = TrainingCallbacks()
        elif config.tensorboard:
            callbacks = TensorBoardLog(callbacks, place)
        torch.manual_seed(config.seed + fabric.global_rank)
        trainer = Trainer(config, dataset, callbacks, fabric, checkpoint)
        try:
            with deferred_signals() as interruption, single_threaded():
                trainer.fit(place, interruption)
        except UsageError:
            if place:
                (place / CHECKPOINT_FILE).unlink(missing_ok=True)  # what cannot go on is not worth keeping
            raise
        except KeyboardInterrupt:
            if place and (place / CHECKPOINT_FILE).exists():
                callbacks.stopped(place)
            raise
        with new_folder(place) if place else nullcontext() as folder:
            metrics = trainer.finish(folder)
        written: Path = fabric.broadcast(place)
    return written, metrics


class Trainer:
    """Network, optimizer and data of one training."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        callbacks: TrainingCallbacks,
        fabric: Fabric,
        checkpoint: Checkpoint | None,
    ):

        self.config, self.dataset, self.callbacks, self.fabric = config, dataset, callbacks, fabric
        if config.batch_size % (fabric.world_size * config.accumulate):
            raise UsageError(
                f"`batch_size` {config.batch_size} must be a multiple of the {fabric.world_size} processes times the "
                f"{config.accumulate} pieces that each computes it in"
            )
        size = config.size_px or models.usual_size_px(config.arch, dataset.source.default_size_px)
        self.preprocess = models.usual_preprocess(config.arch, size)
        self.card = _card(config, dataset, self.preprocess)
        self.network = network = models.create(config.arch, len(dataset.classes))
        self.head = models.find(config.arch).head
        if checkpoint:
            checkpoint.require_same_images(dataset)
            done = f"{len(checkpoint.history)} epochs"
            self.start = InitialWeights(True, f"weights: those after {done}, where the training was ended")
        else:
            self.start = start(network, config.arch, config.weights, dataset)
        if config.freeze != "none" and not self.start.pretrained:
            raise UsageError("`freeze` keeps weights that were learned before, and there are none; give `weights`")
        _set_dropout(network, config)
        self.epochs = config.epochs or _default_epochs(self.start, dataset)
        if fabric.world_size > 1:
            share_batch_norms(network)
        self.module = models.channels_last(models.deployable(network, self.preprocess).to(fabric.device))
        self.frozen: FrozenFeatures | None = None
        self.batches: TrainingBatches | FrozenFeatures = self._batches()
        models.visit_batch_norms(network, _fitting_momentum(len(self.batches)))
        self.blocks = optimize.blocks(network, self.head)
        optimize.frozen_blocks(config.freeze, len(self.blocks), 1, self.epochs)
        self.best: dict[str, torch.Tensor] = {}
        self.history: list[Epoch] = []
        self.losses: list[float] = []
        self._configure_optimizer()
        if checkpoint:
            self._restore(checkpoint)

    def _batches(self) -> TrainingBatches | FrozenFeatures:
        """Augmented images, or, where nothing in front of the last layer changes, what comes out of it, once."""
        config, dataset, fabric = self.config, self.dataset, self.fabric
        shared = (config.batch_size, config.seed, fabric.global_rank, fabric.world_size)
        images = TrainingBatches(dataset, self.preprocess, _augmentation(config, dataset), *shared)
        varied = (config.augment, config.policy, config.erase, config.mixup, config.cutmix, config.teacher)
        if config.freeze != "backbone" or any(varied):
            return images
        backbone = Backbone(self.module, self.network, self.head.removesuffix("."))
        if not backbone.ends_with_head(golden_images(dataset, self.preprocess)[:2]):
            return images
        order = Order(len(dataset.splits["train"]), *shared)
        mirror = config.mirror and dataset.source.horizontal_flip_safe
        self.callbacks.remark("the backbone is frozen: its features are computed once, without augmentation")
        self.frozen = FrozenFeatures(backbone, dataset, self.preprocess, mirror, order, config.seed)
        return self.frozen

    def _configure_optimizer(self) -> None:
        import torch
        from torch.optim.swa_utils import AveragedModel

        config, fabric, network = self.config, self.fabric, self.network
        factor = optimize.LR_FACTOR.get(config.optimizer, 1.0) * (0.25 if self.start.pretrained else 1.0)
        self.plain_optimizer = optimizer = optimize.optimizer_for(
            config.optimizer,
            network,
            config.lr or models.find(config.arch).lr * factor,
            config.weight_decay,
            self.blocks,
            config.layer_decay,
        )
        self.learner, self.optimizer = fabric.setup(self._trainable_module(network), optimizer)
        steps = self.epochs * len(self.batches)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: optimize.schedule_for(config.schedule, step, steps, [e.val_loss for e in self.history]),
        )
        weights = None
        if config.balance:
            labels = labels_of(self.dataset.splits["train"])
            weights = optimize.balanced_weights(labels, len(self.dataset.classes)).to(fabric.device)
        self.loss = optimize.loss_for(config.loss, config.label_smoothing, weights)
        self.teacher = Teacher(config.teacher, self.dataset.classes, fabric.device) if config.teacher else None
        self.average = AveragedModel(network, avg_fn=_decaying(config.ema), use_buffers=True) if config.ema else None

    def _trainable_module(self, network: torch.nn.Module) -> torch.nn.Module:
        return network.get_submodule(self.head.removesuffix(".")) if self.frozen else self.module

    def fit(self, place: Path | None, interruption: Interruption) -> None:
        """Train all epochs, with a checkpoint in the folder `place` after each; the best weights end up in the network.

        An interruption that waits ends it after the running step. Raises `UsageError` where the loss is no longer a
        number.
        """
        device = "NVIDIA GPU" if self.fabric.device.type == "cuda" else "CPU"
        history, steps = self.history, len(self.batches)
        done = len(history) * steps + len(self.losses)
        self.callbacks.started(self.dataset, self.start, self.epochs, steps, device, done)
        for number in range(len(history) + 1, self.epochs + 1):
            if self._is_out_of_patience():
                break
            epoch = self._epoch(number, place, interruption)
            if not history or epoch.merit >= max(each.merit for each in history):
                self.best = {name: tensor.detach().clone() for name, tensor in self._result().state_dict().items()}
            history.append(epoch)
            if number < self.epochs:
                self._write_checkpoint(place)
            self.callbacks.epoch(epoch)
            interruption.go()
        models.restore(self.network, self.best)

    def _result(self) -> torch.nn.Module:
        """The network that is judged and kept: the average of the past steps' where that was asked for."""
        network: torch.nn.Module = self.average.module if self.average else self.network
        return network

    def _is_out_of_patience(self) -> bool:
        """Whether the best epoch lies further back than the asked-for patience."""
        if self.config.patience is None or not self.history:
            return False
        best = max(self.history, key=lambda epoch: epoch.merit)
        return self.history[-1].epoch - best.epoch >= self.config.patience

    def _write_checkpoint(self, place: Path | None) -> None:
        if place is None:
            return
        import torch

        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "best": self.best,
            "optimizer": self.plain_optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "losses": self.losses,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if self.fabric.device.type == "cuda" else [],
        }
        settings = {**self.config.to_json(), "epochs": self.epochs}
        Checkpoint(settings, [asdict(epoch) for epoch in self.history], images_of(self.dataset), state).write(place)

    def _restore(self, checkpoint: Checkpoint) -> None:
        import torch

        state = checkpoint.state
        models.restore(self.network, state["network"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.best = state["best"]
        self.plain_optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = [Epoch(**epoch) for epoch in checkpoint.history]
        self.losses = state["losses"]
        if self.fabric.is_global_zero:  # the others keep drawing otherwise
            torch.set_rng_state(state["random"])
            if state["random_cuda"] and self.fabric.device.type == "cuda":
                torch.cuda.set_rng_state_all(state["random_cuda"])

    def _epoch(self, number: int, place: Path | None, interruption: Interruption) -> Epoch:
        begun, before = time.perf_counter(), len(self.losses)
        optimize.freeze(
            self.network,
            self.blocks,
            optimize.frozen_blocks(self.config.freeze, len(self.blocks), number, self.epochs),
        )
        self.module.train()
        optimize.hold_frozen(self.network)
        for inputs, targets in self.batches.epoch(number, skip=before):
            self.losses.append(self._step(inputs.to(self.fabric.device), targets.to(self.fabric.device), number))
            if interruption.wanted:
                self._write_checkpoint(place)
                interruption.go()
        trained = time.perf_counter()
        val_loss, val_top1 = self._validate()
        losses, self.losses = self.losses, []
        return Epoch(
            epoch=number,
            lr=float(self.schedule.get_last_lr()[-1]),
            train_loss=sum(losses) / len(losses),
            val_loss=val_loss,
            val_top1=val_top1,
            images_per_s=(len(losses) - before) * self.config.batch_size / (trained - begun),
            seconds=time.perf_counter() - begun,
        )

    def _step(self, inputs: torch.Tensor, targets: torch.Tensor, epoch: int) -> float:
        """One optimizer step; returns the batch's loss, over all processes."""
        self.optimizer.zero_grad()
        pieces = list(zip(inputs.chunk(self.config.accumulate), targets.chunk(self.config.accumulate), strict=True))
        value = 0.0
        for position, (images, wanted) in enumerate(pieces, start=1):
            with self.fabric.no_backward_sync(self.learner, enabled=position < len(pieces)):
                scores = self.learner(images)
                loss = self.loss(scores, wanted)
                if self.teacher:
                    loss = self.teacher.loss(images, scores, loss)
                loss = loss * (len(images) / len(inputs))
                self.fabric.backward(loss)
                value += float(loss.detach())
        if self.fabric.world_size > 1:
            value = float(self.fabric.all_reduce(loss.new_tensor(value), reduce_op="mean"))
        if not math.isfinite(value):
            raise UsageError(f"training diverged: the loss is NaN in epoch {epoch}; train with a smaller `lr`")
        self.fabric.clip_gradients(self.learner, self.optimizer, max_norm=self.config.clip, error_if_nonfinite=False)
        self.optimizer.step()
        self.schedule.step()
        if self.average:
            self.average.update_parameters(self.network)
        self.callbacks.batch(epoch, value)
        return value

    def _validate(self) -> tuple[float, float]:
        import torch
        from torch.nn.functional import cross_entropy

        scores, labels = self._val_scores(), labels_of(self.dataset.splits["val"])
        loss = cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels))
        return float(loss), measure(scores, labels).top1

    def _val_scores(self) -> NDArray[float32]:
        if self.frozen:
            return self.frozen.val_scores(self._trainable_module(self._result()))
        samples, fabric = self.dataset.splits["val"], self.fabric
        share = samples[fabric.global_rank :: fabric.world_size]
        scores = scores_of(self._session(self._result()), prepared(self.dataset.source, share, self.preprocess))
        return gathered(fabric, scores, len(samples))

    def _session(self, network: torch.nn.Module) -> TorchSession:
        same = network is self.network
        module = self.module if same else models.channels_last(models.deployable(network, self.preprocess))
        return TorchSession(self.card, module.to(self.fabric.device).eval())

    def finish(self, folder: Path | None) -> Metrics:
        """Evaluate on the test split, fit the temperature on the validation split, and write the run to `folder`."""
        session, source = self._session(self.network), self.dataset.source
        test, val = self.dataset.splits["test"], self.dataset.splits["val"]
        scores = scores_of(session, prepared(source, test, self.preprocess))
        metrics = measure(scores, labels_of(test))
        if folder is None:
            return metrics
        val_scores = scores_of(session, prepared(source, val, self.preprocess))
        confidence = Confidence(temperature=round(fit_temperature(val_scores, labels_of(val)), 4))
        models.write_weights(self.network, folder / MODEL_FILE)
        images = golden_images(self.dataset, self.preprocess)
        Golden(images, session.infer(images)).write(folder)
        write_text(folder / EVALUATION_FILE, json.dumps(metrics.to_json(self.dataset.classes), indent=2) + "\n")
        quality = Quality(split="test", images=metrics.images, top1=metrics.top1, macro_f1=metrics.macro_f1)
        write_card(with_files(replace(self.card, quality=quality, confidence=confidence), folder, [MODEL_FILE]), folder)
        write_history(self.history, folder)
        self.dataset.write(folder)
        replace(self.config, epochs=self.epochs).write(folder)
        if isinstance(self.batches, TrainingBatches):
            write_preview(next(self.batches.epoch(1))[0], folder)
        return metrics


def _default_epochs(start: InitialWeights, dataset: Dataset) -> int:
    if start.pretrained or not dataset.source.photographs:
        return 10
    return 30


def _augmentation(config: TrainConfig, dataset: Dataset) -> Augmentation:
    chosen = PRESETS[config.augment or dataset.source.default_augment]
    changes = {
        name: value for name in ("policy", "erase", "mixup", "cutmix") if (value := getattr(config, name)) is not None
    }
    mirror = chosen.mirror and config.mirror and dataset.source.horizontal_flip_safe
    return replace(chosen, mirror=mirror, **changes)


def _set_dropout(network: torch.nn.Module, config: TrainConfig) -> None:
    import torch

    if config.dropout is None:
        return
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Dropout)]
    if not layers:
        raise UsageError(f"{config.arch} has no dropout to set; leave `dropout` out")
    for layer in layers:
        layer.p = config.dropout


def _decaying(decay: float) -> Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]:
    """An exponential average that follows faster while it is young, so that it forgets the first weights."""

    def average(averaged: torch.Tensor, current: torch.Tensor, steps: Any) -> torch.Tensor:
        if not averaged.is_floating_point():
            return current
        young = (1 + int(steps)) / (10 + int(steps))
        return averaged.lerp(current, 1 - min(decay, young))

    return average


def _fitting_momentum(steps_per_epoch: int) -> Callable[[Any], None]:
    """Make running statistics settle within an epoch.

    Torchvision's MobileNetV3 has momentum 0.01: after the few steps of a small data set its statistics still hold their
    initial values and evaluation sits at chance while the training loss looks fine.
    """

    def raise_momentum(layer: Any) -> None:
        if layer.momentum is not None:
            layer.momentum = max(layer.momentum, min(0.3, 4 / steps_per_epoch))

    return raise_momentum


def _card(config: TrainConfig, dataset: Dataset, preprocess: Preprocess) -> Card:
    lineage = machine.new_lineage(dataset.source.name)
    return Card(config.arch, dataset.classes, preprocess, target=REFERENCE.name, lineage=lineage)
