"""Which weights a training starts from, and a line that says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecls.data.dataset import Dataset
from edgecls.errors import ArtifactError, BackendError, UsageError
from edgecls.files import expanded, require_regular, shortened
from edgecls.models import TIMM, find, imagenet_weights, load_weights, packaged_weights, read_weights_for

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class InitialWeights:
    """Whether the network starts from weights learned before, and the line for people."""

    pretrained: bool
    line: str


def start(network: torch.nn.Module, arch: str, weights: str, dataset: Dataset) -> InitialWeights:
    """Load what `weights` asks for into the network: "auto", "none", "imagenet", or a file or run.

    Raises `BackendError` where ImageNet weights are asked for and cannot be fetched, `ArtifactError` for a file that
    does not fit.
    """
    if find(arch).pruned and weights in ("auto", "none", "imagenet"):
        raise UsageError(f"{arch} is as wide as its weights say; give `weights` the pruned run or its file")
    if weights == "none":
        return InitialWeights(False, "weights: none, training from scratch as asked")
    if weights == "auto":
        return _automatic(network, arch, dataset)
    if weights == "imagenet":
        tensors, name = imagenet_weights(arch)
        load_weights(network, arch, tensors, name)
        return InitialWeights(True, f"weights: {name}")
    path = expanded(weights)
    if not path.exists() and "/" not in weights and "." not in weights:
        raise UsageError(f"`weights` takes auto, none, imagenet or a file; {weights!r} is none of them")
    file = path / "model.safetensors" if path.is_dir() else path
    try:
        require_regular(file)
    except OSError as error:
        raise ArtifactError(f"cannot read the weights {shortened(file)}: {error.strerror}") from error
    remarks: list[str] = []
    whole = load_weights(network, arch, read_weights_for(network, arch, file, remarks.append), str(file))
    line = f"weights: {file}{'' if whole else ' (a new last layer for these classes)'}"
    return InitialWeights(True, "; ".join([line, *remarks]))


def _automatic(network: torch.nn.Module, arch: str, dataset: Dataset) -> InitialWeights:
    if not dataset.source.photographs:
        return InitialWeights(False, "weights: none, the embedded digits are far from photographs and quick to learn")
    packaged = packaged_weights(arch)
    if packaged is None and find(arch).weights is None:
        where = "imagenet fetches timm's, and a file is taken" if arch.startswith(TIMM) else "takes a file"
        return InitialWeights(False, f"weights: none are at hand for {arch}; `weights` {where}")
    try:
        tensors, name = packaged or imagenet_weights(arch)
    except BackendError as error:
        return InitialWeights(False, f"weights: none, training from scratch because {error}")
    load_weights(network, arch, tensors, name)
    return InitialWeights(True, f"weights: {name}, because they were at hand and photographs resemble ImageNet's")
