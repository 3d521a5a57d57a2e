"""Torch: the parent that every bundle is measured against. Not for devices."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.artifact.card import Card
from edgecls.artifact.terms import InnerTensor
from edgecls.backends.base import Backend, OnProgress, Parallelism, Session
from edgecls.errors import ArtifactError
from edgecls.models import channels_last, create, deployable, find, load_weights, read_weights

if TYPE_CHECKING:
    import torch
    from numpy import float32, uint8
    from numpy.typing import NDArray

MODEL_FILE = "model.safetensors"


class TorchSession(Session):
    """A torch module that takes raw images, in the memory layout that its device computes fastest in."""

    def __init__(
        self,
        card: Card,
        module: torch.nn.Module,
        threads: int | None = None,
        tensors: tuple[InnerTensor, ...] = (),
    ):
        import torch

        super().__init__(card)
        self.tensors = tensors
        self._module = module
        self._observing = threading.Lock()  # what hooks see belongs to one call
        self._device = next(iter(module.parameters())).device
        self._threads_before = torch.get_num_threads()
        if threads:
            torch.set_num_threads(threads)

    def _infer(self, images: NDArray[uint8]) -> NDArray[float32]:
        import torch

        with torch.inference_mode():
            return self._module(torch.from_numpy(images).to(self._device)).cpu().numpy()

    def _infer_all(self, images: NDArray[uint8]) -> tuple[NDArray[Any], ...]:
        if not self.tensors:
            return (self._infer(images),)
        with self._observing, observed(self._module, self.card.arch) as inside:
            scores = self._infer(images)
        return scores, *(inside[kind].cpu().numpy() for kind in self.tensors)

    def _start_all(self, images: NDArray[uint8]) -> Callable[[], tuple[NDArray[Any], ...]]:
        outputs = self._infer_all(images)
        return lambda: outputs

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
    gives_inner_tensors = True

    def _has_tensor(self, kind: InnerTensor, card: Card) -> bool:  # noqa: ARG002
        return True

    def _open_with(self, tensors: tuple[InnerTensor, ...], file: Path, card: Card, parallelism: Parallelism) -> Session:
        return TorchSession(card, open_module(file, card), parallelism.threads, tensors)

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


@contextmanager
def observed(module: torch.nn.Module, arch: str) -> Iterator[dict[str, torch.Tensor]]:
    """While it lasts, what a deployable module last computed inside: the "embedding" that its last layer took in, and
    the "feature_map", the last output of a layer before that with more than one place.
    """
    inside: dict[str, torch.Tensor] = {}
    head = module.get_submodule(f"network.{find(arch).head.removesuffix('.')}")

    def see(_layer: Any, _inputs: Any, output: Any) -> None:
        if getattr(output, "ndim", 0) == 4 and output.shape[2] * output.shape[3] > 1 and "embedding" not in inside:
            inside["feature_map"] = output

    def begin(_layer: Any, _inputs: Any) -> None:
        inside.clear()

    def see_embedding(_layer: Any, inputs: Any) -> None:
        inside["embedding"] = inputs[0]

    hooks = [module.register_forward_pre_hook(begin), head.register_forward_pre_hook(see_embedding)]
    hooks += [layer.register_forward_hook(see) for layer in module.modules()]
    try:
        yield inside
    finally:
        for hook in hooks:
            hook.remove()


BACKEND = TorchBackend()
