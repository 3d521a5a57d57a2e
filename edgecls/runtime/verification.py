"""Does an artifact do here what its parent did where it was made? Asked of its golden inputs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls import backends
from edgecls.artifact.card import Card, Quality
from edgecls.artifact.golden import Golden
from edgecls.backends import LOW_LATENCY, Backend, OnProgress, Parallelism, Session
from edgecls.backends.base import PROCESSORS
from edgecls.errors import VerificationError
from edgecls.runtime import machine
from edgecls.runtime.scores import agreement
from edgecls.runtime.store import Artifact, find

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 0.2, "int8": 3e-2}
"""Of score differences relative to the parent's largest score, however small the difference was at export."""
UNKNOWN_TOLERANCE = 0.25
"""The same for int8 of which no difference was measured at export."""
EXACT = "exact integer semantics"
"""How a card says that integers were computed without the kernels of any processor."""
UNLIKELY = 1e-3
MARGIN = 2.0
"""Replayed elsewhere, scores may differ from the parent's by this many times the difference measured at export."""


def open_or_fallback(
    bundle: Artifact,
    parallelism: Parallelism = LOW_LATENCY,
    on_progress: OnProgress = lambda _: None,
    cached: bool = False,
) -> tuple[Session, str]:
    """A session on the bundle's graph and the name of the runtime that gives the answers.

    Where the bundle's own runtime cannot run, int8 is computed exactly: this processor's kernels are not the device's.
    """
    backend = bundle.backend
    if backend.available() is None or not backend.fallback:
        return bundle.open(parallelism, on_progress, cached), backend.package
    fallback, file = backends.find(backend.fallback), bundle.path / bundle.card.model_file
    if bundle.card.precision == "int8":
        return fallback.open_exact(file, bundle.card), f"{fallback.package} as fallback, {EXACT}"
    return fallback.open(file, bundle.card), f"{fallback.package} as fallback"


def open_as_meant(bundle: Artifact, graph: Path) -> tuple[Session, str]:
    """The same, for a bundle that may be meant for a device that is not here; `graph` is what it was built from.

    Then int8 is computed exactly: on x86 without VNNI, for one, kernels saturate that are right on the device.
    """
    device, backend = bundle.card.device, backends.of_every_install()
    if is_for_here(bundle.backend, device):
        return open_or_fallback(bundle)
    if bundle.card.precision == "int8":
        return backend.open_exact(graph, bundle.card), f"{backend.package}, {EXACT}"
    if device in PROCESSORS:
        return open_or_fallback(bundle)  # whose float kernels differ in the last digit only
    return backend.open(graph, bundle.card), f"{backend.package} as fallback"


def is_for_here(backend: Backend, device: str | None) -> bool:
    """Whether this machine has the kind of processor, or the device, that something is built for; None is any."""
    if device in PROCESSORS:
        return device == machine.int8_kind(machine.this_machine())
    return backend.available() is not None or backend.has_device(device or None)


def _below_claim(claimed: Quality, measured: Quality) -> bool:
    """Whether so few answers agree that the card's claim cannot be true.

    The chance of as few or fewer agreements (binomial), were each as likely as in the claim's own images (Laplace's
    rule of succession, so that a claim of 100 % leaves room), is below one in a thousand.
    """
    if claimed.split == "unlabelled":  # of a run without images, whose golden inputs may be patches of colour
        return False
    if claimed.agreement is None or not claimed.images or measured.agreement is None or not measured.images:
        return False
    likely = (claimed.agreement * claimed.images + 1) / (claimed.images + 2)
    agreed, count = round(measured.agreement * measured.images), measured.images
    chance = sum(math.comb(count, k) * likely**k * (1 - likely) ** (count - k) for k in range(agreed + 1))
    return chance < UNLIKELY


def compared(scores: NDArray[float32], parent: NDArray[float32], split: str, runtime: str | None = None) -> Quality:
    """How far scores (N, C) and answers lie from the parent's for the same images, which are of `split`."""
    import numpy as np

    differences = np.abs(scores - parent)
    return Quality(
        split=split,
        images=len(scores),
        agreement=agreement(scores, parent),
        max_score_difference=float(differences.max()),
        rms_score_difference=float(np.sqrt(np.square(differences, dtype=np.float64).mean())),
        verified_with=runtime,
    )


def verify(
    model: Artifact | str | Path,
    parallelism: Parallelism = LOW_LATENCY,
    on_progress: OnProgress = lambda _: None,
) -> Quality:
    """Run an artifact's golden inputs on this machine and compare with the parent's recorded scores.

    Returns what was measured; `on_progress` hears what the runtime builds first. Raises `VerificationError` where the
    scores differ by more than was measured at export allows, where a clear decision of the parent changes, or where
    fewer answers agree than the card claims.
    """
    import numpy as np

    bundle = find(model)
    golden = Golden.read(bundle.path if bundle.path.is_dir() else bundle.path.parent, bundle.card)
    session, runtime = open_or_fallback(bundle, parallelism, on_progress, cached=True)
    with session:
        scores = np.concatenate([session.infer(image[None]) for image in golden.images])
    if scores.shape != golden.scores.shape:
        raise VerificationError(f"{bundle.path} gives scores {scores.shape}, its golden file has {golden.scores.shape}")
    measured = compared(scores, golden.scores, "golden", runtime)
    if reason := _failure(bundle.card, measured, scores, golden.scores):
        agreed = f"{measured.agreement:.0%} of {len(scores)} golden answers agree"
        raise VerificationError(f"{bundle.path} fails here: {reason}, {agreed}; build it again on this machine")
    return measured


def _failure(card: Card, measured: Quality, scores: NDArray[float32], parent: NDArray[float32]) -> str | None:
    """What golden inputs show to be wrong, in words; None where nothing is."""
    import numpy as np

    claimed = card.quality
    precision = card.precision
    if claimed.verified_with != measured.verified_with and precision == "fp32":
        precision = "fp16"  # measured in another runtime than the one at hand, which may compute in less
    unknown = precision == "int8" and claimed.max_score_difference is None
    tolerance = (UNKNOWN_TOLERANCE if unknown else TOLERANCE[precision]) * float(np.abs(parent).max())
    allowed = max(MARGIN * (claimed.max_score_difference or 0.0), tolerance)
    if not (measured.max_score_difference or 0.0) <= allowed:  # also where it is no number
        return f"scores differ by up to {measured.max_score_difference:.3g} ({allowed:.3g} allowed)"
    if claimed.rms_score_difference is not None:
        allowed_rms = max(MARGIN * claimed.rms_score_difference, TOLERANCE[precision] / 2 * float(np.abs(parent).max()))
        if (measured.rms_score_difference or 0.0) > allowed_rms:
            return f"scores differ by {measured.rms_score_difference:.3g} (root mean square; {allowed_rms:.3g} allowed)"
    best = np.sort(parent, axis=1)
    clear = best[:, -1] - best[:, -2] > 2 * allowed
    if changed := int((clear & (scores.argmax(axis=1) != parent.argmax(axis=1))).sum()):
        return f"{changed} clear answers changed"
    return "the card claims more" if _below_claim(claimed, measured) else None
