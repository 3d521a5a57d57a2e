"""What a training works with: network, batches, optimizer, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgecls import models
from edgecls.artifact.card import Card
from edgecls.data.dataset import Dataset
from edgecls.models.torch_backend import TorchSession
from edgecls.training.balance import Merit
from edgecls.training.batches import TrainingBatches
from edgecls.training.config import TrainConfig
from edgecls.training.features import FrozenFeatures
from edgecls.training.history import Epoch
from edgecls.training.teacher import Teacher
from edgecls.training.weights import InitialWeights

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric

    from edgecls.training.optimize import Loss


@dataclass(frozen=True)
class Model:
    """The network that learns, and `module`, which is the network with its preprocessing in front.

    `head` is the name of the last layer, `blocks` are the names of the parameters from front to back.
    """

    card: Card
    network: torch.nn.Module
    module: torch.nn.Module
    head: str
    blocks: list[list[str]]
    initial: InitialWeights

    def session(self, network: torch.nn.Module) -> TorchSession:
        """A session of the network, or of an average of it."""
        module = self.module
        if network is not self.network:
            module = models.channels_last(models.deployable(network, self.card.preprocess))
        return TorchSession(self.card, module.to(next(network.parameters()).device).eval())


@dataclass(frozen=True)
class Optimization:
    """What an optimizer step takes. `learner` and `optimizer` are Fabric's, `plain_optimizer` is torch's own."""

    learner: torch.nn.Module
    optimizer: torch.optim.Optimizer
    plain_optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    loss: Loss
    teacher: Teacher | None
    average: torch.optim.swa_utils.AveragedModel | None


@dataclass
class Progress:
    """The epochs so far, the losses of the steps since, and the weights of the best epoch."""

    history: list[Epoch] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    best: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingSetup:
    """One training; see `prepare`. `merit` is the figure by which the epoch is chosen."""

    config: TrainConfig
    dataset: Dataset
    fabric: Fabric
    epochs: int
    merit: Merit
    model: Model
    batches: TrainingBatches | FrozenFeatures
    optimization: Optimization
    progress: Progress

    @property
    def result(self) -> torch.nn.Module:
        """The network that is judged and kept: the average of the past steps' where that was asked for."""
        average = self.optimization.average
        network: torch.nn.Module = average.module if average else self.model.network
        return network
