"""Builds what a training works with from its settings and its data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgecls import models
from edgecls.artifact.card import Card
from edgecls.data.dataset import Dataset
from edgecls.errors import UsageError
from edgecls.evaluation.inference import golden_images, labels_of
from edgecls.models.torch_backend import BACKEND as REFERENCE
from edgecls.runtime import machine
from edgecls.training import balance as balancing
from edgecls.training import optimize
from edgecls.training.augment import PRESETS, Augmentation
from edgecls.training.balance import Balance, Counts
from edgecls.training.batches import Order, TrainingBatches
from edgecls.training.checkpoint import Checkpoint, restore
from edgecls.training.config import TrainConfig
from edgecls.training.features import Backbone, FrozenFeatures
from edgecls.training.history import TrainingCallbacks
from edgecls.training.parallel import share_batch_norms
from edgecls.training.setup import Model, Optimization, Progress, TrainingSetup
from edgecls.training.teacher import Teacher
from edgecls.training.weights import InitialWeights, start

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric

    from edgecls.training.batches import Draw


def prepare(
    config: TrainConfig,
    dataset: Dataset,
    callbacks: TrainingCallbacks,
    fabric: Fabric,
    checkpoint: Checkpoint | None = None,
) -> TrainingSetup:
    """A training at its beginning, or where the checkpoint was written.

    Raises `UsageError` for settings that do not fit the network or each other, and `DataError` where the images are not
    the checkpoint's.
    """
    if config.batch_size % (fabric.world_size * config.accumulate):
        raise UsageError(
            f"`batch_size` {config.batch_size} must be a multiple of the {fabric.world_size} processes times the "
            f"{config.accumulate} pieces that each computes it in"
        )
    counts = Counts.of(dataset)
    balance, merit = balancing.resolved(config.balance, config.select_by, counts)
    for line in counts.remarks(balance, merit, config.folds):
        callbacks.remark(line)
    model = _model(config, dataset, fabric, checkpoint)
    epochs = config.epochs or _default_epochs(model.initial, dataset)
    draw = balancing.drawing(labels_of(dataset.splits["train"]), counts.images, balance)
    batches = _batches(config, dataset, fabric, model, callbacks, draw)
    models.visit_batch_norms(model.network, _fitting_momentum(len(batches)))
    optimize.frozen_blocks(config.freeze, len(model.blocks), 1, epochs)
    progress = Progress()
    trained = model.network.get_submodule(model.head) if isinstance(batches, FrozenFeatures) else model.module
    loss = _loss(config, balance, counts, fabric)
    optimization = _optimization(config, dataset, fabric, model, trained, epochs * len(batches), progress, loss)
    setup = TrainingSetup(config, dataset, fabric, epochs, merit, model, batches, optimization, progress)
    if checkpoint:
        restore(setup, checkpoint)
    return setup


def _model(config: TrainConfig, dataset: Dataset, fabric: Fabric, checkpoint: Checkpoint | None) -> Model:
    size = config.size_px or models.usual_size_px(config.arch, dataset.source.default_size_px)
    preprocess = models.usual_preprocess(config.arch, size)
    lineage = machine.new_lineage(dataset.source.name)
    card = Card(config.arch, dataset.classes, preprocess, target=REFERENCE.name, lineage=lineage)
    network = models.create(config.arch, len(dataset.classes))
    head = models.find(config.arch).head
    if checkpoint:
        checkpoint.require_same_images(dataset)
        if models.find(config.arch).pruned:
            models.fit_layers(network, checkpoint.state["network"], head)
        models.restore(network, checkpoint.state["network"])  # which features of a frozen backbone are computed with
        done = f"{len(checkpoint.history)} epochs"
        initial = InitialWeights(True, f"weights: those after {done}, where the training was ended")
    else:
        initial = start(network, config.arch, config.weights, dataset)
    if config.freeze != "none" and not initial.pretrained:
        raise UsageError("`freeze` keeps weights that were learned before, and there are none; give `weights`")
    _set_dropout(network, config)
    if fabric.world_size > 1:
        share_batch_norms(network)
    module = models.channels_last(models.deployable(network, preprocess).to(fabric.device))
    return Model(card, network, module, head.removesuffix("."), optimize.blocks(network, head), initial)


def _set_dropout(network: torch.nn.Module, config: TrainConfig) -> None:
    import torch

    if config.dropout is None:
        return
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Dropout)]
    if not layers:
        raise UsageError(f"{config.arch} has no dropout to set; leave `dropout` out")
    for layer in layers:
        layer.p = config.dropout


def _default_epochs(start: InitialWeights, dataset: Dataset) -> int:
    if start.pretrained or not dataset.source.photographs:
        return 10
    return 30


def _batches(
    config: TrainConfig,
    dataset: Dataset,
    fabric: Fabric,
    model: Model,
    callbacks: TrainingCallbacks,
    draw: Draw | None,
) -> TrainingBatches | FrozenFeatures:
    """Augmented images, or, where nothing in front of the last layer changes, what comes out of it, once."""
    preprocess = model.card.preprocess
    shared = (config.batch_size, config.seed, fabric.global_rank, fabric.world_size)
    images = TrainingBatches(dataset, preprocess, _augmentation(config, dataset), *shared, config.cache, draw)
    varied = (config.augment, config.policy, config.erase, config.mixup, config.cutmix, config.teacher)
    if config.freeze != "backbone" or any(varied):
        return images
    backbone = Backbone(model.module, model.network, model.head)
    if not backbone.ends_with_head(golden_images(dataset, preprocess)[:2]):
        return images
    order = Order(len(dataset.splits["train"]), *shared, draw)
    mirror = config.mirror and dataset.source.horizontal_flip_safe
    callbacks.remark("the backbone is frozen: its features are computed once, without augmentation")
    return FrozenFeatures(backbone, dataset, preprocess, mirror, order, config.seed)


def _augmentation(config: TrainConfig, dataset: Dataset) -> Augmentation:
    chosen = PRESETS[config.augment or dataset.source.default_augment]
    changes = {
        name: value for name in ("policy", "erase", "mixup", "cutmix") if (value := getattr(config, name)) is not None
    }
    mirror = chosen.mirror and config.mirror and dataset.source.horizontal_flip_safe
    return replace(chosen, mirror=mirror, **changes)


def _fitting_momentum(steps_per_epoch: int) -> Callable[[Any], None]:
    """Make running statistics settle within an epoch.

    Torchvision's MobileNetV3 has momentum 0.01: after the few steps of a small data set its statistics still hold their
    initial values and evaluation sits at chance while the training loss looks fine.
    """

    def raise_momentum(layer: Any) -> None:
        if layer.momentum is not None:
            layer.momentum = max(layer.momentum, min(0.3, 4 / steps_per_epoch))

    return raise_momentum


def _optimization(
    config: TrainConfig,
    dataset: Dataset,
    fabric: Fabric,
    model: Model,
    trained: torch.nn.Module,
    steps: int,
    progress: Progress,
    loss: optimize.Loss,
) -> Optimization:
    """`trained` is what the batches go into; the schedule spans `steps` and may go by the validation losses so far."""
    import torch
    from torch.optim.swa_utils import AveragedModel

    factor = optimize.LR_FACTOR.get(config.optimizer, 1.0) * (0.25 if model.initial.pretrained else 1.0)
    lr = config.lr or models.find(config.arch).lr * factor
    plain_optimizer = optimize.optimizer_for(
        config.optimizer, model.network, lr, config.weight_decay, model.blocks, config.layer_decay
    )
    learner, optimizer = fabric.setup(trained, plain_optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        plain_optimizer,
        lambda step: optimize.schedule_for(config.schedule, step, steps, [e.val_loss for e in progress.history]),
    )
    teacher = Teacher(config.teacher, dataset.classes, fabric.device) if config.teacher else None
    average = AveragedModel(model.network, avg_fn=_decaying(config.ema), use_buffers=True) if config.ema else None
    return Optimization(learner, optimizer, plain_optimizer, schedule, loss, teacher, average)


def _loss(config: TrainConfig, balance: Balance, counts: Counts, fabric: Fabric) -> optimize.Loss:
    """What is minimized, with what balances the classes in it."""
    import torch

    weights = None
    if balance == "weights":
        weights = torch.from_numpy(balancing.effective_weights(counts.images)).float().to(fabric.device)
    loss = optimize.loss_for(config.loss, config.label_smoothing, weights)
    if balance == "logit-adjustment":
        loss = balancing.adjusted(loss, torch.from_numpy(balancing.log_priors(counts.images)).to(fabric.device))
    return loss


def _decaying(decay: float) -> Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]:
    """An exponential average that follows faster while it is young, so that it forgets the first weights."""

    def average(averaged: torch.Tensor, current: torch.Tensor, steps: Any) -> torch.Tensor:
        if not averaged.is_floating_point():
            return current
        young = (1 + int(steps)) / (10 + int(steps))
        return averaged.lerp(current, 1 - min(decay, young))

    return average
