"""The reference of a bundle: recorded from the run's validation images, with the bundle's own session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecls.artifact.reference import FEWEST_IMAGES, MOST_IMAGES, Reference
from edgecls.errors import BackendError, UsageError
from edgecls.runtime.pipeline import outputs_of
from edgecls.runtime.scores import as_logits
from edgecls.runtime.verification import is_for_here, open_or_fallback

if TYPE_CHECKING:
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
        scores, *embeddings = outputs_of(session, images)
    return Reference.recorded(as_logits(scores, bundle.card.output), embeddings[0] if embeddings else None, labels)


def _with_embeddings(bundle: Artifact) -> Session | None:
    """A session of the bundle itself that gives embeddings; None where that cannot be had here."""
    if not bundle.is_runnable or not is_for_here(bundle.backend, bundle.card.device or None):
        return None
    try:
        return bundle.open(tensors=("embedding",))
    except (UsageError, BackendError):
        return None
