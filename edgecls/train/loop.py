"""The training loop: one explicit function from a data set to a finished run."""

from __future__ import annotations

import csv
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls import env, models, runs
from edgecls.backends.torch import MODEL_FILE, TorchSession
from edgecls.card import Card, Confidence, Golden, Quality, with_files, write_card
from edgecls.data.dataset import Dataset, open_dataset
from edgecls.errors import OutputError, UsageError
from edgecls.evaluate.confidence import fit_temperature
from edgecls.evaluate.inference import golden_images, labels_of, prepared, scores_of
from edgecls.evaluate.metrics import Metrics, measure
from edgecls.preprocess import Preprocess
from edgecls.storage import make_folder, new_folder, write_text
from edgecls.train.augment import Augmentation, TrainingBatches
from edgecls.train.checkpoint import CHECKPOINT_FILE, Checkpoint, images_of, read_checkpoint
from edgecls.train.optimize import (
    FREEZES,
    LOSSES,
    LR_FACTOR,
    OPTIMIZERS,
    SCHEDULES,
    balanced_weights,
    freeze,
    hold_frozen,
    loss_for,
    optimizer_for,
    schedule_for,
)
from edgecls.train.weights import StartingPoint, start

if TYPE_CHECKING:
    import torch
    from numpy import uint8
    from numpy.typing import NDArray

HISTORY_FILE = "metrics.csv"
EVALUATION_FILE = "evaluation.json"
MIN_SIZE_PX = 32


@dataclass(frozen=True)
class TrainConfig:
    """What a training run is asked for; None means the default that suits the data and the weights.

    `balance` gives every class the same say in the loss, `freeze` says what does not learn, and `patience` ends the
    training after so many epochs without a better one.
    """

    data: str | None = None
    arch: str = models.DEFAULT_ARCH
    weights: str = "auto"
    epochs: int | None = None
    batch_size: int = 32
    lr: float | None = None
    size_px: int | None = None
    seed: int = 0
    mirror: bool = True
    out: Path | None = None
    optimizer: str = "adamw"
    schedule: str = "one-cycle"
    weight_decay: float = 0.02
    loss: str = "cross-entropy"
    label_smoothing: float = 0.1
    balance: bool = False
    freeze: str = "none"
    patience: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "out": str(self.out) if self.out else None}

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        models.find(self.arch)
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"--epochs must be at least 1, not {self.epochs}")
        if self.batch_size < 2:
            raise UsageError(f"--batch-size must be at least 2 (batch norm needs a batch), not {self.batch_size}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise UsageError(f"--lr must be above 0, not {self.lr}")
        if self.size_px is not None and not MIN_SIZE_PX <= self.size_px <= 2048:
            raise UsageError(f"--size must be between {MIN_SIZE_PX} and 2048 pixels, not {self.size_px}")
        for name, value, known in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("loss", self.loss, LOSSES),
            ("freeze", self.freeze, FREEZES),
        ):
            if value not in known:
                raise UsageError(f"--{name} takes {', '.join(known)}, not {value!r}")
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"--label-smoothing is a share, at least 0 and below 1, not {self.label_smoothing:g}")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"--weight-decay must be at least 0, not {self.weight_decay:g}")
        if self.patience is not None and self.patience < 1:
            raise UsageError(f"--patience is a number of epochs, at least 1, not {self.patience}")
        if self.out is not None and self.out.exists():
            raise OutputError(f"{self.out} exists already; choose another --out or remove it")


@dataclass(frozen=True)
class Epoch:
    """One line of the history; `val_top1` is a fraction."""

    epoch: int
    lr: float
    train_loss: float
    val_loss: float
    val_top1: float
    images_per_s: float
    seconds: float


class Watcher:
    """What a training tells about itself; the command line draws it. The base watches in silence."""

    def started(
        self, dataset: Dataset, start: StartingPoint, epochs: int, batches: int, device: str, done: int
    ) -> None:
        """Data and network are ready; `done` epochs of `epochs` were trained before."""

    def batch(self, epoch: int, loss: float) -> None:
        """One optimizer step was taken."""

    def epoch(self, epoch: Epoch) -> None:
        """One epoch was validated."""

    def stopped(self, place: Path) -> None:
        """The training was interrupted; `resume(place)` goes on."""


def resume(place: Path, watcher: Watcher | None = None) -> tuple[Path, Metrics]:
    """Go on with the training that was ended in the folder `place`, with the same result as if it had not been.

    Raises `ArtefactError` where there is none and `DataError` where its images have changed.
    """
    models.require_torch("training")
    checkpoint = read_checkpoint(place)
    config = TrainConfig(**{**checkpoint.settings, "out": place})
    for half_written in place.parent.glob(f".{place.name}.*"):  # SIGKILL while the finished run was being written
        shutil.rmtree(half_written, ignore_errors=True)
    return _train(config, watcher or Watcher(), lambda _: nullcontext(place), checkpoint)


def train(config: TrainConfig, watcher: Watcher | None = None) -> tuple[Path, Metrics]:
    """Train, evaluate on the test split and write the run; returns its folder and the test metrics.

    The epoch with the best validation accuracy is kept. After each epoch a checkpoint stands in the run's folder, from
    which `resume` goes on; a training that is interrupted before leaves nothing behind.
    """
    models.require_torch("training")
    config.check()

    def reserve(dataset: Dataset) -> AbstractContextManager[Path]:
        return _taken(config.out) if config.out else runs.new_run(dataset.source.name, config.arch)

    return _train(config, watcher or Watcher(), reserve)


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
    watcher: Watcher,
    reserve: Callable[[Dataset], AbstractContextManager[Path]],
    checkpoint: Checkpoint | None = None,
) -> tuple[Path, Metrics]:
    import torch

    from edgecls.opencv import cv2

    cv2.setNumThreads(1)  # images are read and varied in parallel already; a second level of threads costs a fifth
    dataset = open_dataset(config.data, config.seed)
    with reserve(dataset) as place:
        torch.manual_seed(config.seed)
        trainer = Trainer(config, dataset, watcher, checkpoint)
        try:
            trainer.fit(place)
        except UsageError:
            (place / CHECKPOINT_FILE).unlink(missing_ok=True)  # what cannot go on is not worth keeping
            raise
        except KeyboardInterrupt:
            if (place / CHECKPOINT_FILE).exists():
                watcher.stopped(place)
            raise
        with new_folder(place) as folder:
            metrics = trainer.finish(folder)
            _write_history(trainer.history, folder)
            dataset.write(folder)
    return place, metrics


class Trainer:
    """Network, optimizer and data of one training."""

    def __init__(self, config: TrainConfig, dataset: Dataset, watcher: Watcher, checkpoint: Checkpoint | None = None):
        import torch

        size = config.size_px or dataset.source.default_size_px
        self.config, self.dataset, self.watcher = config, dataset, watcher
        self.preprocess = Preprocess(height_px=size, width_px=size)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = models.create(config.arch, len(dataset.classes))
        if checkpoint:
            checkpoint.require_same_images(dataset)
            done = len(checkpoint.history)
            self.start = StartingPoint(True, f"weights: those after epoch {done}, where the training was ended")
        else:
            self.start = start(network, config.arch, config.weights, dataset)
        self.epochs = config.epochs or _default_epochs(self.start, dataset)
        augmentation = _augmentation(config, dataset)
        self.batches = TrainingBatches(dataset, self.preprocess, augmentation, config.batch_size, config.seed)
        models.visit_batch_norms(network, _fitting_momentum(len(self.batches)))
        self.network = network
        self.module = models.channels_last(models.deployable(network, self.preprocess).to(self.device))
        self.card = _card(config, dataset, self.preprocess)
        architecture = models.find(config.arch)
        if config.freeze != "none" and not self.start.pretrained:
            raise UsageError("--freeze keeps weights that were learned before, and there are none; give --weights")
        freeze(network, config.freeze, architecture.head)
        suits = architecture.lr * LR_FACTOR[config.optimizer] * (0.25 if self.start.pretrained else 1.0)
        self.optimizer = optimizer_for(config.optimizer, network, config.lr or suits, config.weight_decay)
        weights = None
        if config.balance:
            weights = balanced_weights(labels_of(dataset.splits["train"]), len(dataset.classes)).to(self.device)
        self.loss = loss_for(config.loss, config.label_smoothing, weights)
        steps = self.epochs * len(self.batches)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: schedule_for(config.schedule, step, steps)
        )
        self.best: dict[str, torch.Tensor] = {}
        self.history: list[Epoch] = []
        if checkpoint:
            self._restore(checkpoint)

    def fit(self, place: Path) -> None:
        """Train all epochs, with a checkpoint in the folder `place` after each; the best weights end up in the network.

        Raises `UsageError` where the loss is no longer a number.
        """
        device = "NVIDIA GPU" if self.device.type == "cuda" else "processor"
        history = self.history
        self.watcher.started(self.dataset, self.start, self.epochs, len(self.batches), device, len(history))
        for number in range(len(history) + 1, self.epochs + 1):
            if self._is_out_of_patience():
                break
            epoch = self._epoch(number)
            if not math.isfinite(epoch.train_loss):
                raise UsageError(f"the loss is no longer a number in epoch {number}; train with a smaller --lr")
            if not history or (epoch.val_top1, -epoch.val_loss) >= max((e.val_top1, -e.val_loss) for e in history):
                self.best = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
            history.append(epoch)
            if number < self.epochs:
                self._checkpoint().write(place)
            self.watcher.epoch(epoch)
        self.network.load_state_dict(self.best)

    def _is_out_of_patience(self) -> bool:
        """Whether the best epoch lies further back than the asked-for patience."""
        if self.config.patience is None or not self.history:
            return False
        best = max(self.history, key=lambda epoch: (epoch.val_top1, -epoch.val_loss))
        return self.history[-1].epoch - best.epoch >= self.config.patience

    def _checkpoint(self) -> Checkpoint:
        import torch

        state = {
            "network": self.network.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }
        settings = {**self.config.to_json(), "epochs": self.epochs}
        return Checkpoint(settings, [asdict(epoch) for epoch in self.history], images_of(self.dataset), state)

    def _restore(self, checkpoint: Checkpoint) -> None:
        import torch

        state = checkpoint.state
        self.network.load_state_dict(state["network"])
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = [Epoch(**epoch) for epoch in checkpoint.history]
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])

    def _epoch(self, number: int) -> Epoch:
        begun = time.perf_counter()
        self.module.train()
        hold_frozen(self.network)
        losses = [self._step(images, labels, number) for images, labels in self.batches.epoch(number)]
        trained = time.perf_counter()
        val_loss, val_top1 = self._validate()
        return Epoch(
            epoch=number,
            lr=float(self.schedule.get_last_lr()[0]),
            train_loss=sum(losses) / len(losses),
            val_loss=val_loss,
            val_top1=val_top1,
            images_per_s=len(losses) * self.config.batch_size / (trained - begun),
            seconds=time.perf_counter() - begun,
        )

    def _step(self, images: NDArray[uint8], labels: Any, epoch: int) -> float:
        import torch

        scores = self.module(torch.from_numpy(images).to(self.device))
        loss = self.loss(scores, torch.from_numpy(labels).to(self.device))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), max_norm=5.0)
        self.optimizer.step()
        self.schedule.step()
        value = float(loss.detach())
        self.watcher.batch(epoch, value)
        return value

    def _validate(self) -> tuple[float, float]:
        import torch
        from torch.nn.functional import cross_entropy

        samples = self.dataset.splits["val"]
        scores = scores_of(self._session(), prepared(self.dataset.source, samples, self.preprocess))
        labels = labels_of(samples)
        loss = cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels))
        return float(loss), measure(scores, labels).top1

    def _session(self) -> TorchSession:
        self.module.eval()
        return TorchSession(self.card, self.module)

    def finish(self, folder: Path) -> Metrics:
        """Evaluate on the test split, fit the temperature on the validation split, and write the run to `folder`."""
        import json

        session, test = self._session(), self.dataset.splits["test"]
        scores = scores_of(session, prepared(self.dataset.source, test, self.preprocess))
        metrics = measure(scores, labels_of(test))
        val = self.dataset.splits["val"]
        val_scores = scores_of(session, prepared(self.dataset.source, val, self.preprocess))
        confidence = Confidence(temperature=round(fit_temperature(val_scores, labels_of(val)), 4))
        models.write_weights(self.network, folder / MODEL_FILE)
        images = golden_images(self.dataset, self.preprocess)
        Golden(images, session.infer(images)).write(folder)
        write_text(folder / EVALUATION_FILE, json.dumps(metrics.to_json(self.dataset.classes), indent=2) + "\n")
        quality = Quality(split="test", images=metrics.images, top1=metrics.top1, macro_f1=metrics.macro_f1)
        write_card(with_files(replace(self.card, quality=quality, confidence=confidence), folder, [MODEL_FILE]), folder)
        return metrics


def _default_epochs(start: StartingPoint, dataset: Dataset) -> int:
    if start.pretrained or not dataset.source.photographs:
        return 10
    return 30


def _augmentation(config: TrainConfig, dataset: Dataset) -> Augmentation:
    if not dataset.source.mirrored_is_same_class:
        return Augmentation(area=(0.85, 1.1), aspect=1.1, rotate_deg=6, mirror=False, contrast=0.1, brightness=10)
    return Augmentation(mirror=config.mirror)


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
    lineage = env.new_lineage(dataset.source.name)
    return Card(config.arch, dataset.classes, preprocess, target="torch", lineage=lineage)


def _write_history(history: list[Epoch], folder: Path) -> None:
    with (folder / HISTORY_FILE).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Epoch)])
        writer.writeheader()
        writer.writerows({name: _rounded(value) for name, value in asdict(epoch).items()} for epoch in history)


def _rounded(value: float) -> float | str:
    return value if isinstance(value, int) else f"{value:.6g}"


def read_history(run: Path) -> list[Epoch]:
    """The epochs of a run, from its `metrics.csv`."""
    with (run / HISTORY_FILE).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [Epoch(int(row["epoch"]), *(float(row[field.name]) for field in fields(Epoch)[1:])) for row in rows]
