"""What stands around a network when it runs: normalization inside, and the memory layout that is fastest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgecls.imaging.preprocess import Preprocess

if TYPE_CHECKING:
    import torch


def deployable(network: torch.nn.Module, preprocess: Preprocess, half: bool = False) -> torch.nn.Module:
    """Wrap a network so that it takes raw images: (N, h, w, 3) uint8 RGB in, (N, C) float32 scores out.

    The cast stands before the transpose because TensorRT transposes no uint8. With `half` the network itself computes
    in float16 between two casts.
    """
    import torch
    from torch import nn

    class Normalize(nn.Module):
        """(x / 255 - mean) / std, written as one multiplication and one subtraction."""

        scale: torch.Tensor
        shift: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
            self.register_buffer("scale", 1 / (255 * std))
            self.register_buffer("shift", mean / std)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image * self.scale - self.shift

    class Deployable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.normalize = Normalize()
            self.network = network.half() if half else network

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            normalized = self.normalize(image.float().permute(0, 3, 1, 2))
            scores: torch.Tensor = self.network(normalized.half() if half else normalized)
            return scores.float() if half else scores

    return Deployable().eval()


def channels_last(module: torch.nn.Module) -> torch.nn.Module:
    """The module with its convolutions in the memory layout that processors and GPUs compute fastest in."""
    import torch

    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def visit_batch_norms(network: torch.nn.Module, visit: Callable[[Any], None]) -> None:
    """Call `visit` with every batch norm layer of the network."""
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in network.modules():
        if isinstance(module, _BatchNorm):
            visit(module)
