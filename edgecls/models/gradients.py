"""Explanations of runs by gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecls.errors import UsageError
from edgecls.models.torch_backend import TorchSession, observed, open_module
from edgecls.runtime.classifier import Classifier
from edgecls.runtime.explanation import Explainer, Outputs
from edgecls.runtime.store import Artifact

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray


class GradientExplainer(Explainer):
    """HiResCAM (Draelos and Carin 2020, https://arxiv.org/abs/2011.08891): the last feature map times the gradient of
    the class's score, summed over channels. Unlike Grad-CAM it shows nothing that the score does not depend on.
    """

    name = "HiResCAM"

    def __init__(self, run: Artifact):
        self._module = open_module(run.path / run.card.model_file, run.card)
        super().__init__(Classifier(run.card, TorchSession(run.card, self._module), run.path))

    def _places(self, pixels: NDArray[uint8], outputs: Outputs, index: int) -> NDArray[float32]:  # noqa: ARG002
        """Raises `UsageError` for a network without feature maps."""
        import torch

        with torch.enable_grad(), observed(self._module, self.classifier.card.arch) as inside:
            score = self._module(torch.from_numpy(pixels[None]))[0, index]
            if "feature_map" not in inside:
                raise UsageError(f"{self.classifier.card.arch} has no feature maps to explain by; explain a bundle")
            feature_map = inside["feature_map"]
            [gradient] = torch.autograd.grad(score, feature_map)
        return (feature_map * gradient)[0].sum(0).detach().numpy()
