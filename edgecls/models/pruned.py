"""Pruned networks: an architecture whose layers are as wide as its weights say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def fit_layers(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], head: str) -> None:
    """Make each convolution, norm and linear layer of a network as narrow as its tensors in `weights`.

    What the layers hold is cut off, not replaced. The last layer, whose names begin with `head`, keeps its classes.
    Tensors that are wider than the layer, or differ in more than channels, change nothing: whoever loads them says so.
    """
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    for name, layer in network.named_modules():
        weight = weights.get(f"{name}.weight")
        own = getattr(layer, "weight", None)
        if weight is None or own is None or not _is_narrower(weight, own):
            continue
        outputs = own.shape[0] if f"{name}." == head else weight.shape[0]
        if isinstance(layer, nn.Conv2d):
            _fit_convolution(layer, outputs, weight.shape[1])
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = outputs, weight.shape[1]
            _cut(layer, "weight", outputs, weight.shape[1])
            _cut(layer, "bias", outputs)
        elif isinstance(layer, _BatchNorm):
            layer.num_features = outputs
            for tensor in ("weight", "bias", "running_mean", "running_var"):
                _cut(layer, tensor, outputs)


def _is_narrower(weight: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether a tensor is one of fewer channels, in and out, and otherwise alike."""
    if weight.dim() != own.dim() or weight.shape == own.shape or weight.shape[2:] != own.shape[2:]:
        return False
    return all(0 < narrow <= wide for narrow, wide in zip(weight.shape[:2], own.shape[:2], strict=True))


def _fit_convolution(layer: Any, outputs: int, inputs: int) -> None:
    """Depthwise convolutions stay so; of other groups it is not known which channels went."""
    if layer.groups == 1:
        layer.in_channels = inputs
    elif layer.groups == layer.in_channels == layer.out_channels:
        layer.groups = layer.in_channels = outputs
    else:
        return
    layer.out_channels = outputs
    _cut(layer, "weight", outputs, inputs)
    _cut(layer, "bias", outputs)


def _cut(layer: Any, name: str, outputs: int, inputs: int | None = None) -> None:
    """Keep the first channels of a parameter or buffer, where the layer has it."""
    from torch import nn

    tensor = getattr(layer, name)
    if tensor is None:
        return
    kept = tensor.detach()[:outputs] if inputs is None else tensor.detach()[:outputs, :inputs]
    setattr(layer, name, nn.Parameter(kept.clone()) if isinstance(tensor, nn.Parameter) else kept.clone())
