"""Quantization-aware fine-tuning: the run's weights learn to do with 8 bits what they did in float.

Inputs and weights of every layer are rounded as the exported graph will round them; gradients pass straight through the
rounding (Jacob et al. 2018, arXiv:1712.05877), and the run's own float scores are what is learned (Hinton et al. 2015,
arXiv:1503.02531), so no label is needed. Only the float weights are kept: the recipe quantizes them afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.data.dataset import open_recorded
from edgecls.errors import UsageError
from edgecls.models import write_weights
from edgecls.models.torch_backend import open_module
from edgecls.models.vision import no_cache_folder
from edgecls.runtime.store import Artifact
from edgecls.training.augment import Augmentation
from edgecls.training.batches import TrainingBatches

if TYPE_CHECKING:
    import torch

LR = 1e-5
"""Small: the weights must not leave the function that they were trained to."""
BATCH_SIZE = 32
RANGE_MOMENTUM = 0.05


@no_cache_folder()
def fine_tune(run: Artifact, epochs: int, out: Path, on_progress: Callable[[str], None] = lambda _: None) -> None:
    """Write fine-tuned weights of a torch run as safetensors to `out`.

    Raises `DataError` where the run's images are gone and `UsageError` for a run that is no torch module.
    """
    import torch
    from torch.nn.functional import kl_div, log_softmax, softmax

    weights = run.path / run.card.model_file
    if weights.suffix != ".safetensors":
        raise UsageError("only networks that edgecls holds in torch can be fine-tuned; this run is an imported graph")
    dataset = open_recorded(run.path)
    augmentation = Augmentation(mirror=dataset.source.horizontal_flip_safe)
    batches = TrainingBatches(dataset, run.card.preprocess, augmentation, BATCH_SIZE, dataset.seed)
    teacher, student = open_module(weights, run.card), open_module(weights, run.card)
    network: Any = student.network
    release = _simulate_int8(network)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR, weight_decay=0.0)
    steps = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.random.fork_rng([]):  # whoever calls this goes on with random numbers of their own
        torch.manual_seed(dataset.seed)
        step = 0
        for epoch in range(1, epochs + 1):
            for inputs, _ in batches.epoch(epoch):
                with torch.no_grad():
                    wanted = softmax(teacher(inputs), dim=1)
                loss = kl_div(log_softmax(student(inputs), dim=1), wanted, reduction="batchmean")
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(student.parameters(), max_norm=1.0)
                optimizer.step()
                schedule.step()
                step += 1
                on_progress(f"fine-tuning with int8 simulated: step {step} of {steps}")
    release()
    write_weights(network, out)


def _simulate_int8(network: torch.nn.Module) -> Callable[[], None]:
    """Round inputs and weights of all convolutions and linear layers; returns what undoes it.

    Batch norm stays in evaluation mode: its scale then folds into the weights, whose channels have scales of their own.
    """
    from torch import nn
    from torch.nn.utils import parametrize

    hooks = []
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _rounded_weight())
        hooks.append(layer.register_forward_pre_hook(_rounded_input()))

    def release() -> None:
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        for hook in hooks:
            hook.remove()

    return release


def _rounded_weight() -> torch.nn.Module:
    import torch
    from torch import nn

    class Rounded(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            scale = weight.detach().abs().amax(dim=tuple(range(1, weight.ndim))).clamp(min=1e-8) / 127
            zero = torch.zeros_like(scale, dtype=torch.int32)
            return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)

    return Rounded()


def _rounded_input() -> Callable[[Any, Any], Any]:
    """A forward hook with a running range of its own."""
    import torch

    low, high = torch.zeros(()), torch.zeros(())
    seen = False

    def rounded(_layer: Any, inputs: Any) -> Any:
        nonlocal low, high, seen
        extremes = inputs[0].detach().aminmax()
        momentum = RANGE_MOMENTUM if seen else 1.0
        low, high, seen = (
            low.lerp(extremes.min.clamp(max=0), momentum),
            high.lerp(extremes.max.clamp(min=0), momentum),
            True,
        )
        scale = ((high - low) / 255).clamp(min=1e-8)
        zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
        return (torch.fake_quantize_per_tensor_affine(inputs[0], scale, zero, 0, 255), *inputs[1:])

    return rounded
