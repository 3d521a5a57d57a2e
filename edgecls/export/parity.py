"""Does an artefact do what its parent does? Measured on held-out images, before an export is called done."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from edgecls import backends
from edgecls.backends import Session
from edgecls.card import Card, Golden, Quality
from edgecls.data.dataset import open_recorded, subset
from edgecls.errors import DataError, VerificationError
from edgecls.evaluate.inference import labels_of, prepared, scores_of
from edgecls.evaluate.metrics import agreement, drop, measure
from edgecls.export.calibration import Calibration
from edgecls.runs import Artefact

if TYPE_CHECKING:
    from numpy import float32, int64, uint8
    from numpy.typing import NDArray

MAX_IMAGES = 1000
FLOAT_TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 0.2}
"""Largest allowed score difference of float artefacts, relative to the parent's largest score."""
UNLIKELY = 1e-3
GOLDEN_MARGIN = 2.0
"""Replayed elsewhere, scores may differ from the parent's by this many times the difference measured at export."""


class HeldOut:
    """Held-out images of a run with the parent's scores.

    Without the data set these are the images that a calibration set has to spare, or else the run's golden inputs.
    """

    def __init__(self, run: Artefact, calibration: Calibration | None = None, limit: int = MAX_IMAGES):
        import numpy as np

        self.labels: NDArray[int64] | None = None
        self.images: NDArray[uint8]
        try:
            dataset = open_recorded(run.place)
            samples = subset(dataset, "test", limit)
            self.images = np.stack(list(prepared(dataset.source, samples, run.card.preprocess)))
            self.labels, self.split = labels_of(samples), "test"
        except DataError:
            if calibration and calibration.spare:
                spare = calibration.spare_images(run.card.preprocess, limit)
                self.images, self.split = np.stack(list(spare)), "unlabelled"
            else:
                self.images, self.split = Golden.read(run.place, run.card).images, "golden"
        with run.open() as session:
            self.parent_scores: NDArray[float32] = scores_of(session, self.images)


def measure_quality(bundle: Artefact, held_out: HeldOut) -> Quality:
    """Compare a bundle with its parent, through its own runtime or, where that cannot run, its stand-in.

    Raises `VerificationError` for scores that are no numbers.
    """
    import numpy as np

    session, runtime = open_or_stand_in(bundle)
    with session:
        scores = scores_of(session, held_out.images)
    if not np.isfinite(scores).all():
        raise VerificationError(f"{bundle.card.name} gives scores that are not finite numbers")
    quality = Quality(
        split=held_out.split,
        images=len(scores),
        agreement=agreement(scores, held_out.parent_scores),
        max_score_difference=float(np.abs(scores - held_out.parent_scores).max()),
        verified_with=runtime,
    )
    if held_out.labels is None:
        return quality
    metrics = measure(scores, held_out.labels)
    lost, interval = drop(scores, held_out.parent_scores, held_out.labels)
    return replace(
        quality, top1=metrics.top1, macro_f1=metrics.macro_f1, drop_points=lost, drop_interval_points=interval
    )


def require_faithful(card: Card, held_out: HeldOut) -> None:
    """Raise `VerificationError` where a float bundle's scores differ visibly from its parent's."""
    import numpy as np

    quality, scale = card.quality, float(np.abs(held_out.parent_scores).max())
    agreed, difference = quality.agreement or 0.0, quality.max_score_difference or 0.0
    if not difference <= FLOAT_TOLERANCE[card.precision] * scale or agreed < 0.99:
        raise VerificationError(
            f"{card.name} does not do what its parent does: {agreed:.2%} agreement over {quality.images} images, "
            f"scores differ by up to {difference:.3g}; nothing was written"
        )


def open_or_stand_in(bundle: Artefact) -> tuple[Session, str]:
    """A session on the bundle's graph and the name of the runtime that gives the answers."""
    backend = bundle.backend
    if backend.available() is not None and backend.stand_in:
        stand_in = backends.find(backend.stand_in)
        return stand_in.open(bundle.place / bundle.card.model_file, bundle.card), f"{stand_in.package} as stand-in"
    return bundle.open(), backend.package


def _below_claim(claimed: Quality, found: Quality) -> bool:
    """Whether so few answers agree that the card's claim cannot be true.

    The chance of as few or fewer agreements (binomial), were each as likely as in the claim's own images (Laplace's
    rule of succession, so that a claim of 100 % leaves room), is below one in a thousand.
    """
    if claimed.agreement is None or not claimed.images or found.agreement is None or not found.images:
        return False
    likely = (claimed.agreement * claimed.images + 1) / (claimed.images + 2)
    agreed, count = round(found.agreement * found.images), found.images
    chance = sum(math.comb(count, k) * likely**k * (1 - likely) ** (count - k) for k in range(agreed + 1))
    return chance < UNLIKELY


def replay_golden(bundle: Artefact) -> Quality:
    """Run the golden inputs on this machine and compare with the parent's recorded scores.

    Returns what was measured. Raises `VerificationError` where the scores differ by more
    than was measured at export allows, where a clear decision of the parent changes, or where fewer answers agree than
    the card claims.
    """
    import numpy as np

    golden = Golden.read(bundle.place if bundle.place.is_dir() else bundle.place.parent, bundle.card)
    session, runtime = open_or_stand_in(bundle)
    with session:
        scores = scores_of(session, golden.images)
    if scores.shape != golden.scores.shape:
        raise VerificationError(
            f"{bundle.place} gives scores {scores.shape}, its golden file has {golden.scores.shape}"
        )
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
            f"{bundle.place} fails here: scores differ by up to {difference:.3g} ({allowed:.3g} allowed), "
            f"{quality.agreement:.0%} of {len(scores)} golden answers agree; build it again on this machine"
        )
    return quality
