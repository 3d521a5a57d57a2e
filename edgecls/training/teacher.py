"""Knowledge distillation: a network learns the answers of a larger one too (Hinton et al. 2015, arXiv:1503.02531)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.errors import UsageError
from edgecls.models.torch_backend import open_module
from edgecls.runtime import store

if TYPE_CHECKING:
    import torch

TEMPERATURE = 4.0
"""What softens both answers, so that what the teacher thinks of the wrong classes counts."""
SHARE = 0.5
"""The teacher's say in the loss."""


class Teacher:
    """A finished run of the same classes."""

    def __init__(self, path: str, classes: Sequence[str], device: torch.device):
        run = store.find_run(Path(path))
        if set(run.card.classes) != set(classes):
            odd = min(set(run.card.classes) ^ set(classes))
            raise UsageError(f"`teacher`: {path} knows other classes ({odd!r}, for one); it cannot teach these")
        weights = run.path / run.card.model_file
        if weights.suffix != ".safetensors":
            raise UsageError(f"`teacher`: {path} is an imported graph; only networks held in torch can teach")
        self._module = open_module(weights, run.card).to(device)
        self._size = run.card.preprocess.height_px, run.card.preprocess.width_px
        self._order = [run.card.classes.index(name) for name in classes]

    def loss(self, images: torch.Tensor, scores: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
        """The loss against the labels, blended with the distance of `scores` (N, C) from the teacher's.

        `images` (N, h, w, 3) are what the scores were given for; the teacher sees them at its own size.
        """
        import torch
        from torch.nn.functional import interpolate, kl_div, log_softmax, softmax

        with torch.no_grad():
            if tuple(images.shape[1:3]) != self._size:
                planes = images.permute(0, 3, 1, 2).float()
                images = interpolate(planes, self._size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
            taught = self._module(images)[:, self._order]
        distance = kl_div(
            log_softmax(scores / TEMPERATURE, dim=1), softmax(taught / TEMPERATURE, dim=1), reduction="batchmean"
        )
        return (1 - SHARE) * labelled + SHARE * TEMPERATURE**2 * distance
