"""Does an artifact do here what its parent did where it was made? Asked of its golden inputs."""

from __future__ import annotations

import math
from pathlib import Path

from edgecls import backends
from edgecls.artifact.card import Quality
from edgecls.artifact.golden import Golden
from edgecls.backends import Session
from edgecls.errors import VerificationError
from edgecls.runtime.pipeline import scores_of
from edgecls.runtime.scores import agreement
from edgecls.runtime.store import Artifact, find

FLOAT_TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 0.2}
"""Largest allowed score difference of float artifacts, relative to the parent's largest score."""
UNLIKELY = 1e-3
GOLDEN_MARGIN = 2.0
"""Replayed elsewhere, scores may differ from the parent's by this many times the difference measured at export."""


def open_or_fallback(bundle: Artifact) -> tuple[Session, str]:
    """A session on the bundle's graph and the name of the runtime that gives the answers."""
    backend = bundle.backend
    if backend.available() is not None and backend.fallback:
        fallback = backends.find(backend.fallback)
        return fallback.open(bundle.path / bundle.card.model_file, bundle.card), f"{fallback.package} as fallback"
    return bundle.open(), backend.package


def _below_claim(claimed: Quality, measured: Quality) -> bool:
    """Whether so few answers agree that the card's claim cannot be true.

    The chance of as few or fewer agreements (binomial), were each as likely as in the claim's own images (Laplace's
    rule of succession, so that a claim of 100 % leaves room), is below one in a thousand.
    """
    if claimed.agreement is None or not claimed.images or measured.agreement is None or not measured.images:
        return False
    likely = (claimed.agreement * claimed.images + 1) / (claimed.images + 2)
    agreed, count = round(measured.agreement * measured.images), measured.images
    chance = sum(math.comb(count, k) * likely**k * (1 - likely) ** (count - k) for k in range(agreed + 1))
    return chance < UNLIKELY


def verify(model: Artifact | str | Path) -> Quality:
    """Run an artifact's golden inputs on this machine and compare with the parent's recorded scores.

    Returns what was measured. Raises `VerificationError` where the scores differ by more
    than was measured at export allows, where a clear decision of the parent changes, or where fewer answers agree than
    the card claims.
    """
    import numpy as np

    bundle = find(model)
    golden = Golden.read(bundle.path if bundle.path.is_dir() else bundle.path.parent, bundle.card)
    session, runtime = open_or_fallback(bundle)
    with session:
        scores = scores_of(session, golden.images)
    if scores.shape != golden.scores.shape:
        raise VerificationError(f"{bundle.path} gives scores {scores.shape}, its golden file has {golden.scores.shape}")
    difference = float(np.abs(scores - golden.scores).max())
    scale = float(np.abs(golden.scores).max())
    measured = bundle.card.quality.max_score_difference or 0.0
    allowed = max(GOLDEN_MARGIN * measured, FLOAT_TOLERANCE.get(bundle.card.precision, 3e-2) * scale)
    quality = Quality(
        split="golden",
        images=len(scores),
        agreement=agreement(scores, golden.scores),
        max_score_difference=difference,
        verified_with=runtime,
    )
    best = np.sort(golden.scores, axis=1)
    clear = best[:, -1] - best[:, -2] > 2 * allowed
    changed = int((clear & (scores.argmax(axis=1) != golden.scores.argmax(axis=1))).sum())
    if not difference <= allowed or changed or _below_claim(bundle.card.quality, quality):
        raise VerificationError(
            f"{bundle.path} fails here: scores differ by up to {difference:.3g} ({allowed:.3g} allowed), "
            f"{quality.agreement:.0%} of {len(scores)} golden answers agree; build it again on this machine"
        )
    return quality
