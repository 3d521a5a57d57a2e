"""What is minimized and how: losses, optimizers, schedules, and which parameters learn how fast."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgecls.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    import torch

    Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

OPTIMIZERS = ("adamw", "adam", "sgd", "rmsprop")
TIMM = "timm/"
"""Prefix of optimizers that the timm library builds."""

FOCAL_GAMMA = 2.0
"""As Lin et al. 2017 found best (arXiv:1708.02002)."""
MOMENTUM = 0.9
LR_FACTOR = {"adamw": 1.0, "adam": 1.0, "rmsprop": 0.5, "sgd": 25.0}
"""The peak learning rate that suits an optimizer, as a multiple of AdamW's."""
WARMUP_FRACTION = 0.2
COSINE_WARMUP_FRACTION = 0.05
PLATEAU_EPOCHS = 2
PLATEAU_FACTOR = 0.3
UNFROZEN_FRACTION = 0.5
"""The share of the epochs after which a network that is unfrozen gradually learns as a whole."""


def loss_for(name: str, smoothing: float, class_weights: torch.Tensor | None) -> Loss:
    """The loss of scores (N, C) against labels (N,) or shares of the classes (N, C), a mean over the images.

    `smoothing` is the share of each label that is spread over all classes, `class_weights` (C,) weigh the images by
    their class. "focal" turns to what is still wrong; "bce" asks about each class by itself and sums over the classes.
    """
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

    def shares(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return targets if targets.ndim == 2 else one_hot(targets, scores.shape[1]).to(scores.dtype)

    def weights_of(targets: torch.Tensor) -> torch.Tensor | float:
        return 1.0 if class_weights is None else targets @ class_weights

    def cross(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(scores, targets, weight=class_weights, label_smoothing=smoothing)

    def focal(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        targets = shares(scores, targets)
        losses = cross_entropy(scores, targets, reduction="none", label_smoothing=smoothing)
        probability = (scores.softmax(dim=1) * targets).sum(dim=1)
        return (weights_of(targets) * (1 - probability) ** FOCAL_GAMMA * losses).mean()

    def bce(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        targets = shares(scores, targets)
        smooth = targets * (1 - smoothing) + smoothing / scores.shape[1]
        losses = binary_cross_entropy_with_logits(scores, smooth, reduction="none").sum(dim=1)
        return (weights_of(targets) * losses).mean()

    return {"cross-entropy": cross, "focal": focal, "bce": bce}[name]


def blocks(network: torch.nn.Module, head: str) -> list[list[str]]:
    """The names of a network's parameters in blocks from front to back; the last layer, `head`, is the last block.

    A block is a numbered part of a whole (features.3, layer1.0, blocks.2), or a part that is numbered itself (block1).
    """
    blocks_of: dict[str, list[str]] = {}
    for name, _ in network.named_parameters():
        if not name.startswith(head):
            parts = name.split(".")
            numbered = len(parts) > 2 and parts[1].isdecimal() and not (len(parts) == 3 and parts[0][-1].isdecimal())
            blocks_of.setdefault(".".join(parts[: 2 if numbered else 1]), []).append(name)
    return [*blocks_of.values(), [name for name, _ in network.named_parameters() if name.startswith(head)]]


def frozen_blocks(what: str, count: int, epoch: int, epochs: int) -> int:
    """How many of `count` blocks do not learn in an epoch (counted from 1). Raises `UsageError` for too many."""
    if what == "none":
        return 0
    if what == "backbone":
        return count - 1
    if what == "gradual":
        steps = max(1, math.ceil(UNFROZEN_FRACTION * epochs))
        return max(0, math.ceil((count - 1) * (1 - (epoch - 1) / steps)))
    if int(what) >= count:
        raise UsageError(f"`freeze` {what}: this network has {count} blocks, and the last one has to learn")
    return int(what)


def freeze(network: torch.nn.Module, groups: Sequence[Sequence[str]], frozen: int) -> None:
    """Stop the first `frozen` of these blocks from learning, and let the others learn."""
    parameters = dict(network.named_parameters())
    for index, names in enumerate(groups):
        for name in names:
            parameters[name].requires_grad_(index >= frozen)


def hold_frozen(network: torch.nn.Module) -> None:
    """Keep batch norms whose parameters are frozen from following the batches."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            affine = [parameter for parameter in (module.weight, module.bias) if parameter is not None]
            if affine and not any(parameter.requires_grad for parameter in affine):
                module.eval()


def check_optimizer(name: str) -> None:
    """Raise `UsageError` for an optimizer that there is not, `MissingExtraError` where timm is not installed."""
    if name.startswith(TIMM):
        if name.removeprefix(TIMM) not in _timm_optimizers().list_optimizers():
            raise UsageError(f"`optimizer`: timm has no {name.removeprefix(TIMM)!r}; lamb and lion are two that it has")
    elif name not in OPTIMIZERS:
        raise UsageError(f"`optimizer` takes {', '.join(OPTIMIZERS)} or {TIMM}NAME, not {name!r}")


def _timm_optimizers() -> Any:
    from edgecls.models.vision import import_torchvision

    import_torchvision()
    try:
        import timm.optim
    except ImportError as error:
        raise MissingExtraError("timm", "timm", f"an optimizer named {TIMM}NAME") from error
    return timm.optim


def optimizer_for(
    name: str, network: torch.nn.Module, lr: float, weight_decay: float, groups: Sequence[Sequence[str]], decay: float
) -> torch.optim.Optimizer:
    """An optimizer of all parameters; norms and biases are not decayed (He et al. 2018, arXiv:1812.01187).

    Of the blocks in `groups` the last one learns at `lr`, each other one at `decay` times the rate of the one behind it
    (discriminative fine-tuning, Howard and Ruder 2018, arXiv:1801.06146).
    """
    import torch

    parameters = dict(network.named_parameters())
    settings: list[dict[str, Any]] = []
    for index, names in enumerate(groups):
        rate = lr * decay ** (len(groups) - 1 - index)
        members = [parameters[name] for name in names]
        settings += [
            {"params": [p for p in members if p.ndim > 1], "weight_decay": weight_decay, "lr": rate},
            {"params": [p for p in members if p.ndim <= 1], "weight_decay": 0.0, "lr": rate},
        ]
    if decay == 1.0:  # two groups are faster than two for each block
        settings = [
            {**settings[kind], "params": [p for group in settings[kind::2] for p in group["params"]]} for kind in (0, 1)
        ]
    settings = [group for group in settings if group["params"]]
    if name.startswith(TIMM):
        made: torch.optim.Optimizer = _timm_optimizers().create_optimizer_v2(
            settings, name.removeprefix(TIMM), lr=lr, weight_decay=0.0
        )
        return made
    if name == "sgd":
        return torch.optim.SGD(settings, lr=lr, momentum=MOMENTUM, nesterov=True)
    if name == "rmsprop":
        return torch.optim.RMSprop(settings, lr=lr, momentum=MOMENTUM)
    return {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[name](settings, lr=lr, fused=True)


def schedule_for(name: str, step: int, steps: int, val_losses: Sequence[float] = ()) -> float:
    """The learning rate of a step as a fraction of the peak; "plateau" goes by the validation losses so far."""
    if name == "one-cycle":
        return one_cycle(step, steps)
    rise = max(1, round(COSINE_WARMUP_FRACTION * steps))
    if step < rise:
        return (step + 1) / rise
    if name == "cosine":
        return _cosine((step - rise + 1) / (steps - rise + 1))
    if name == "plateau":
        return PLATEAU_FACTOR ** plateaus(val_losses)
    return 0.1 ** (3 * step // steps) if name == "step" else 1.0


def plateaus(losses: Sequence[float]) -> int:
    """How often these losses went for `PLATEAU_EPOCHS` epochs without a new minimum, counted anew after each time."""
    count, waited, best = 0, 0, math.inf
    for loss in losses:
        waited = 0 if loss < best else waited + 1
        best = min(best, loss)
        if waited == PLATEAU_EPOCHS:
            count, waited = count + 1, 0
    return count


def one_cycle(step: int, steps: int) -> float:
    """Up in a straight line over a fifth of the steps, then down along a cosine to zero."""
    rise = max(1, round(WARMUP_FRACTION * steps))
    if step < rise:
        return (step + 1) / rise
    return _cosine((step - rise + 1) / (steps - rise + 1))


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
