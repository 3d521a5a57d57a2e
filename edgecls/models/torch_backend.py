"""Torch: the parent that every bundle is measured against. Not for devices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.artifact.card import Card
from edgecls.backends.base import Backend, OnProgress, Parallelism, Session
from edgecls.errors import ArtifactError
from edgecls.models import channels_last, create, deployable, load_weights, read_weights

if TYPE_CHECKING:
    import torch
    from numpy import float32, uint8
    from numpy.typing import NDArray

MODEL_FILE = "model.safetensors"


class TorchSession(Session):
    """A torch module that takes raw images, in the memory layout that its device computes fastest in."""

    def __init__(self, card: Card, module: torch.nn.Module, threads: int | None = None):
        import torch

        super().__init__(card)
        self._module = module
        self._device = next(iter(module.parameters())).device
        self._threads_before = torch.get_num_threads()
        if threads:
            torch.set_num_threads(threads)

    def _infer(self, images: NDArray[uint8]) -> NDArray[float32]:
        import torch

        with torch.inference_mode():
            return self._module(torch.from_numpy(images).to(self._device)).cpu().numpy()

    def _close(self) -> None:
        import torch

        torch.set_num_threads(self._threads_before)  # the number is the whole process'


class TorchBackend(Backend):
    """Runs: `model.safetensors` and the architecture's code."""

    name = "torch"
    package = "torch"
    extra = "train"
    exportable = False
    survives_fork = False

    def _open(self, file: Path, card: Card, parallelism: Parallelism, on_progress: OnProgress) -> Session:  # noqa: ARG002
        return TorchSession(card, open_module(file, card), parallelism.threads)


def open_module(file: Path, card: Card, half: bool = False) -> torch.nn.Module:
    """The run's network with normalization inside: (N, h, w, 3) uint8 in, (N, C) float32 out, in evaluation mode.

    With `half` the network computes in float16. Raises `ArtifactError` where the weights do not fit the card.
    """
    network = create(card.arch, len(card.classes))
    if not load_weights(network, card.arch, read_weights(file), str(file)):
        raise ArtifactError(f"{file} has another number of classes than its card ({len(card.classes)})")
    return channels_last(deployable(network, card.preprocess, half))


BACKEND = TorchBackend()
