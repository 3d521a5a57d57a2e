"""What is minimized and how: losses, optimizers, schedules, and which parameters learn."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import torch
    from numpy import int64
    from numpy.typing import NDArray

    Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

LossName = Literal["cross-entropy", "focal", "bce"]
OptimizerName = Literal["adamw", "adam", "sgd", "rmsprop"]
ScheduleName = Literal["one-cycle", "cosine", "step", "constant"]
Freeze = Literal["none", "backbone"]
LOSSES: tuple[str, ...] = get_args(LossName)
OPTIMIZERS: tuple[str, ...] = get_args(OptimizerName)
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)
FREEZES: tuple[str, ...] = get_args(Freeze)

FOCAL_GAMMA = 2.0
"""As Lin et al. 2017 found best (arXiv:1708.02002)."""
MOMENTUM = 0.9
LR_FACTOR = {"adamw": 1.0, "adam": 1.0, "rmsprop": 0.5, "sgd": 25.0}
"""The peak learning rate that suits an optimizer, as a multiple of AdamW's."""
WARMUP_FRACTION = 0.2
COSINE_WARMUP_FRACTION = 0.05


def loss_for(name: str, smoothing: float, class_weights: torch.Tensor | None) -> Loss:
    """The loss of scores (N, C) against labels (N,), a mean over the images.

    `smoothing` is the share of each label that is spread over all classes, `class_weights` (C,) weigh the images by
    their class. "focal" turns to what is still wrong; "bce" asks about each class by itself and sums over the classes.
    """
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

    def weights_of(labels: torch.Tensor) -> torch.Tensor | float:
        return 1.0 if class_weights is None else class_weights[labels]

    def cross(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return cross_entropy(scores, labels, weight=class_weights, label_smoothing=smoothing)

    def focal(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = cross_entropy(scores, labels, reduction="none", label_smoothing=smoothing)
        probability = scores.softmax(dim=1).gather(1, labels[:, None])[:, 0]
        return (weights_of(labels) * (1 - probability) ** FOCAL_GAMMA * losses).mean()

    def bce(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        classes = scores.shape[1]
        targets = one_hot(labels, classes).to(scores.dtype) * (1 - smoothing) + smoothing / classes
        losses = binary_cross_entropy_with_logits(scores, targets, reduction="none").sum(dim=1)
        return (weights_of(labels) * losses).mean()

    return {"cross-entropy": cross, "focal": focal, "bce": bce}[name]


def balanced_weights(labels: NDArray[int64], classes: int) -> torch.Tensor:
    """Class weights (C,) that give each class the same say, 1 on average over images (scikit-learn's "balanced")."""
    import numpy as np
    import torch

    counts = np.bincount(labels, minlength=classes)
    weights = len(labels) / (max(int((counts > 0).sum()), 1) * np.maximum(counts, 1))
    return torch.from_numpy(weights.astype(np.float32))


def freeze(network: torch.nn.Module, what: str, head: str) -> None:
    """Stop everything from learning but the last layer, whose parameters' names begin with `head`."""
    if what == "none":
        return
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(head))


def hold_frozen(network: torch.nn.Module) -> None:
    """Keep batch norms whose parameters are frozen from following the batches."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            affine = [parameter for parameter in (module.weight, module.bias) if parameter is not None]
            if affine and not any(parameter.requires_grad for parameter in affine):
                module.eval()


def optimizer_for(name: str, network: torch.nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """An optimizer of what learns; norms and biases are not decayed (He et al. 2018, arXiv:1812.01187)."""
    import torch

    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in learning if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in learning if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM, nesterov=True)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr, momentum=MOMENTUM)
    return {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name](groups, lr=lr, fused=True)


def schedule_for(name: str, step: int, steps: int) -> float:
    """The learning rate of a step as a fraction of the peak."""
    if name == "one-cycle":
        return one_cycle(step, steps)
    rise = max(1, round(COSINE_WARMUP_FRACTION * steps))
    if step < rise:
        return (step + 1) / rise
    if name == "cosine":
        return _cosine((step - rise + 1) / (steps - rise + 1))
    return 0.1 ** (3 * step // steps) if name == "step" else 1.0


def one_cycle(step: int, steps: int) -> float:
    """Up in a straight line over a fifth of the steps, then down along a cosine to zero."""
    rise = max(1, round(WARMUP_FRACTION * steps))
    if step < rise:
        return (step + 1) / rise
    return _cosine((step - rise + 1) / (steps - rise + 1))


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
