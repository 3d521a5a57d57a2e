"""The reference of a bundle: recorded from the run's validation images, with the bundle's own session."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgecls.artifact.reference import FEWEST_IMAGES, MOST_IMAGES, Reference
from edgecls.concurrency import chunked
from edgecls.errors import BackendError, UsageError
from edgecls.runtime.pipeline import BATCH
from edgecls.runtime.scores import as_logits
from edgecls.runtime.verification import is_for_here, open_or_fallback

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

    from edgecls.backends import Session
    from edgecls.exporting.verification import Verifier
    from edgecls.runtime.store import Artifact


def record_reference(bundle: Artifact, verifier: Verifier) -> Reference | None:
    """What a bundle answers to the run's validation images; None where these are gone or few, or where the bundle's
    runtime is here but not its device.

    Where its runtime gives no embeddings, or cannot run here, the reference is made from scores alone.
    """
    if bundle.backend.available() is None and not bundle.is_runnable:
        return None
    if (validation := verifier.validation(MOST_IMAGES)) is None or len(validation[1]) < FEWEST_IMAGES:
        return None
    images, labels = validation
    with _with_embeddings(bundle) or open_or_fallback(bundle)[0] as session:
        scores, embeddings = answered(session, images)
    return Reference.recorded(as_logits(scores, bundle.card.output), embeddings, labels)


def answered(session: Session, images: Iterable[NDArray[uint8]]) -> tuple[NDArray[float32], NDArray[float32] | None]:
    """Scores (N, C) and, where the session gives them, embeddings (N, D) of raw inputs (h, w, 3)."""
    import numpy as np

    outputs = [session.infer_all(np.stack(batch)) for batch in chunked(images, BATCH)]
    scores, *inner = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
    return scores, inner[0] if inner else None


def _with_embeddings(bundle: Artifact) -> Session | None:
    """A session of the bundle itself that gives embeddings; None where that cannot be had here."""
    if not bundle.is_runnable or not is_for_here(bundle.backend, bundle.card.device or None):
        return None
    try:
        return bundle.open(tensors=("embedding",))
    except (UsageError, BackendError):
        return None
