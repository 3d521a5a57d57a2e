"""The last layer of a run's network, apart from the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgecls.adapting.head import Head
from edgecls.models.architectures import find

if TYPE_CHECKING:
    import torch


def last_layer(arch: str, tensors: Mapping[str, torch.Tensor]) -> Head | None:
    """The last layer among a network's weights; None where it is no linear one."""
    prefix = find(arch).head
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if own.keys() != {"weight", "bias"}:
        return None
    return Head(own["weight"].float().flatten(1).numpy(), own["bias"].float().numpy())
