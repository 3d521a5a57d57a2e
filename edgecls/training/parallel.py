"""Where a training computes: device, precision and processes, through Lightning Fabric.

Started by torchrun, the processes train together: each takes its share of every batch, batch norms see the whole batch,
gradients are averaged. What is learned is then what one process would learn from the same batches, up to rounding;
only dropout draws differently.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgecls.errors import MissingExtraError, UsageError
from edgecls.logs import quiet
from edgecls.models.vision import no_cache_folder

if TYPE_CHECKING:
    import numpy as np
    import torch
    from lightning_fabric import Fabric
    from numpy.typing import NDArray

FABRIC_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


@contextmanager
def launched(precision: str, deterministic: bool) -> Iterator[Fabric]:
    """See `_launch`. Afterwards the process draws random numbers, chooses algorithms and logs as before."""
    import torch

    _require_fabric()
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with quiet("lightning_fabric"):
        fabric = _launch(precision, deterministic)
        devices = [fabric.device.index] if fabric.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.use_deterministic_algorithms(deterministic)
            try:
                yield fabric
            finally:
                torch.use_deterministic_algorithms(before, warn_only=warn_only)


def _require_fabric() -> None:
    try:
        with no_cache_folder():
            import lightning_fabric  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("lightning-fabric", "train", "training") from error


def _launch(precision: str, deterministic: bool) -> Fabric:
    """Join the processes that torchrun started, or be the only one.

    Raises `UsageError` for a precision that the device cannot train in.
    """
    import torch

    with no_cache_folder():
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
        from lightning_fabric.strategies import DDPStrategy
    gpu = torch.cuda.is_available()
    if precision == "auto":
        # A processor without matrix units for it computes bfloat16 slower than float32.
        precision = ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if gpu else "fp32"
    if precision == "fp16" and not gpu:
        raise UsageError("`precision` fp16 trains on a GPU only, and none was found; use fp32 or bf16")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what CUDA asks for to repeat itself
    processes, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    many = "TORCHELASTIC_RUN_ID" in os.environ and processes > 1
    fabric = Fabric(
        accelerator="cuda" if gpu else "cpu",
        devices=here if many else 1,
        num_nodes=processes // here if many else 1,
        strategy=DDPStrategy(find_unused_parameters=True) if many else "auto",
        precision=FABRIC_PRECISIONS[precision],
        plugins=TorchElasticEnvironment() if many else LightningEnvironment(),
    )
    fabric.launch()
    return fabric


def gathered(fabric: Fabric, scores: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Scores (count, C) in order, of which this process computed every n-th, beginning with its rank."""
    if fabric.world_size == 1:
        return scores
    import numpy as np
    import torch

    shares: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(shares, scores)
    together = np.empty((count, scores.shape[1]), scores.dtype)
    for rank, share in enumerate(shares):
        together[rank :: fabric.world_size] = share
    return together


def share_batch_norms(network: torch.nn.Module) -> None:
    """Make every batch norm take its mean and variance over the batches of all processes."""
    import torch
    from torch import nn

    if torch.cuda.is_available():
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _shared_batch_norm()


def _shared_batch_norm() -> type[torch.nn.BatchNorm2d]:
    """Torch's own `SyncBatchNorm` trains on GPUs only."""
    from torch import nn
    from torch.distributed import get_world_size
    from torch.distributed.nn import functional

    all_reduce: Any = functional.all_reduce

    class SharedBatchNorm(nn.BatchNorm2d):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            if not self.training:
                return super().forward(image)
            count = image.numel() // image.shape[1] * get_world_size()
            mean = all_reduce(image.sum(dim=(0, 2, 3))) / count
            centred = image - mean[:, None, None]
            variance = all_reduce(centred.square().sum(dim=(0, 2, 3))) / count
            self._follow(mean.detach(), variance.detach() * count / (count - 1))
            scale = (variance + self.eps).rsqrt() * (1.0 if self.weight is None else self.weight)
            shift = 0.0 if self.bias is None else self.bias[:, None, None]
            return centred * scale[:, None, None] + shift

        def _follow(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
            if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
                return
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance, share)

    return SharedBatchNorm
