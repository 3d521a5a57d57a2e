"""Structured pruning: whole channels of small weights go, with everything that belongs to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecls import models
from edgecls.errors import ArtifactError, BackendError, MissingExtraError, UsageError, first_line
from edgecls.models.vision import no_cache_folder

if TYPE_CHECKING:
    import torch

ROUND_TO = 8
"""Widths stay multiples of this: narrower vectors save no time."""
LARGEST_LAYER = 1 << 24
"""Parameters of one layer. The channels behind VGG's 25,088 features are traced one by one, for many minutes."""


@no_cache_folder()
def prune(network: torch.nn.Module, arch: str, size_px: int, share: float) -> torch.nn.Module:
    """The network without that share of each layer's channels, those with the smallest norms (Fang et al. 2023,
    arXiv:2301.12900); `network` itself is changed. The last layer keeps its classes.

    What is returned was rebuilt as every other command rebuilds it. Raises `MissingExtraError` without torch-pruning
    and `UsageError` for a network that cannot be pruned, with the reason.
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingExtraError("torch-pruning", "shrink", "pruning") from error
    import torch

    if reason := _reason_against(network):
        raise UsageError(f"{arch} cannot be pruned: {reason}")
    head = models.find(arch).head.removesuffix(".")
    example = torch.zeros(1, 3, size_px, size_px)
    network.eval()
    try:
        classes = network(example).shape[1]
        torch_pruning.pruner.BasePruner(
            network,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=share,
            ignored_layers=[network.get_submodule(head)],
            round_to=ROUND_TO,
        ).step()
        rebuilt = _rebuilt(network, arch, classes)
        with torch.no_grad():
            noise = torch.rand(2, 3, size_px, size_px)
            same = torch.allclose(network(noise), rebuilt(noise), rtol=1e-3, atol=1e-4)
    except (ArtifactError, BackendError):
        raise
    except Exception as error:
        # Whatever its graph of dependencies, or the network with channels missing, stumbles over.
        raise UsageError(f"{arch} cannot be pruned: {first_line(error)}") from error
    if not same:
        raise UsageError(f"{arch} cannot be pruned: it is more than its layers' weights")
    return rebuilt


def _rebuilt(network: torch.nn.Module, arch: str, classes: int) -> torch.nn.Module:
    """The pruned network, made of its architecture and its weights alone."""
    arch = models.unpruned(arch)
    rebuilt = models.create(arch, classes)
    models.load_weights(rebuilt, arch + models.PRUNED, network.state_dict(), "the pruned network")
    return rebuilt.eval()


def _reason_against(network: torch.nn.Module) -> str | None:
    """Why a network cannot be pruned so that its weights alone say how, as far as its layers tell."""
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    for name, layer in network.named_modules():
        own = list(layer.parameters(recurse=False))
        if own and not isinstance(layer, (nn.Conv2d, nn.Linear, _BatchNorm)):
            return f"{name or 'the network'} is a {type(layer).__name__}, whose width its weights do not tell"
        if isinstance(layer, nn.Conv2d) and layer.groups > 1 and not _is_depthwise(layer):
            return f"{name} is a convolution of {layer.groups} groups, which are not cut apart"
        if any(parameter.numel() > LARGEST_LAYER for parameter in own):
            return f"{name} has so many parameters that following its channels takes too long"
    shuffled = any(type(layer).__module__.endswith("shufflenetv2") for layer in network.modules())
    return "it shuffles its channels" if shuffled else None


def _is_depthwise(layer: torch.nn.Conv2d) -> bool:
    return layer.groups == layer.in_channels == layer.out_channels
