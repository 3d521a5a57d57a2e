"""What a model was not trained for: told by a bundle's reference, in front of the answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.artifact.reference import FALSE_REFUSALS, Reference
from edgecls.errors import UsageError

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    from edgecls.artifact.card import Card
    from edgecls.artifact.terms import InnerTensor

UNKNOWN = "unknown"


@dataclass(frozen=True)
class UnknownDetector:
    """Compares images with a reference; `false_refusals` is the share of images like the reference's that it takes for
    unknown.
    """

    reference: Reference
    false_refusals: float = FALSE_REFUSALS

    @cached_property
    def threshold(self) -> float:
        """What strangeness an image is unknown above."""
        return self.reference.threshold(self.false_refusals)

    def novelty(self, logits: NDArray[float32], embedding: NDArray[float32] | None) -> float:
        """How strange an image with logits (C,) and an embedding (D,) is: 0 is usual, above 1 it is unknown."""
        usual = self.reference.usual_strangeness
        return (self.reference.strangeness(logits, embedding) - usual) / max(self.threshold - usual, 1e-9)


def detector_for(path: Path, card: Card, false_refusals: float = FALSE_REFUSALS) -> UnknownDetector:
    """The detector of the bundle at a path. Raises `UsageError` where that has no reference."""
    if not 0 < false_refusals < 1:
        raise UsageError(f"`false_refusals` is a share of images between 0 and 1, not {false_refusals}")
    reference = Reference.read(path, card) if path.is_dir() else None
    if reference is None:
        raise UsageError(f"{path} has no record of validation images to tell the unknown by; export the run again")
    return UnknownDetector(reference, false_refusals)


def tensors_with(detector: UnknownDetector | None, tensors: tuple[InnerTensor, ...]) -> tuple[InnerTensor, ...]:
    """The tensors that a session must give, those of the detector behind the others."""
    needs = detector is not None and detector.reference.measure == "distance" and "embedding" not in tensors
    return (*tensors, "embedding") if needs else tensors
