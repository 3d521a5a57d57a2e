"""Does an artifact do here what its parent did where it was made? Asked of its golden inputs."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from edgecls import backends, processor
from edgecls.artifact.card import Quality
from edgecls.artifact.golden import GOLDEN_FILE, Golden
from edgecls.backends import LOW_LATENCY, Backend, Parallelism, Session
from edgecls.backends.base import PROCESSORS
from edgecls.cache import Entry
from edgecls.errors import EdgeclsError, VerificationError
from edgecls.files import sha256, shortened
from edgecls.runtime import machine
from edgecls.runtime.machine import int8_kind, this_machine
from edgecls.runtime.scores import agreement
from edgecls.runtime.store import BUNDLES_FOLDER, Artifact, candidates, find

logger = logging.getLogger(__name__)

FLOAT_TOLERANCE = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 0.2}
"""Largest allowed score difference of float artifacts, relative to the parent's largest score."""
EXACT = "exact integer semantics"
"""How a card says that integers were computed without the kernels of any processor."""
UNLIKELY = 1e-3
GOLDEN_MARGIN = 2.0
"""Replayed elsewhere, scores may differ from the parent's by this many times the difference measured at export."""


def open_or_fallback(
    bundle: Artifact, parallelism: Parallelism = LOW_LATENCY, cached: bool = False
) -> tuple[Session, str]:
    """A session on the bundle's graph and the name of the runtime that gives the answers.

    Where the bundle's own runtime cannot run, int8 is computed exactly: this processor's kernels are not the device's.
    """
    backend = bundle.backend
    if backend.available() is None or not backend.fallback:
        return bundle.open(parallelism, cached=cached), backend.package
    fallback, file = backends.find(backend.fallback), bundle.path / bundle.card.model_file
    if bundle.card.precision == "int8":
        return fallback.open_exact(file, bundle.card), f"{fallback.package} as fallback, {EXACT}"
    return fallback.open(file, bundle.card), f"{fallback.package} as fallback"


def open_as_meant(bundle: Artifact, graph: Path) -> tuple[Session, str]:
    """The same, for a bundle that may be meant for a device that is not here; `graph` is what it was built from.

    Then int8 is computed exactly: on x86 without VNNI, for one, kernels saturate that are right on the device.
    """
    device, backend = bundle.card.runtime.device if bundle.card.runtime else "", backends.of_every_install()
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
    if claimed.agreement is None or not claimed.images or measured.agreement is None or not measured.images:
        return False
    likely = (claimed.agreement * claimed.images + 1) / (claimed.images + 2)
    agreed, count = round(measured.agreement * measured.images), measured.images
    chance = sum(math.comb(count, k) * likely**k * (1 - likely) ** (count - k) for k in range(agreed + 1))
    return chance < UNLIKELY


def verify(model: Artifact | str | Path, parallelism: Parallelism = LOW_LATENCY) -> Quality:
    """Run an artifact's golden inputs on this machine and compare with the parent's recorded scores.

    Returns what was measured, and remembers on this machine that the artifact is right here. Raises `VerificationError`
    where the scores differ by more than was measured at export allows, where a clear decision of the parent changes, or
    where fewer answers agree than the card claims.
    """
    bundle = find(model)
    quality = _replayed(bundle, parallelism)
    _proof(bundle).write(b"")
    return quality


def require_verified(bundle: Artifact, parallelism: Parallelism = LOW_LATENCY) -> None:
    """Verify a bundle unless that was done on this machine before: same files, same processor, same runtime.

    A run is its own measure, and a model file that came alone carries nothing to verify it by. Raises
    `VerificationError` with the reason, and with the bundle of the same run that is right here, where there is one.
    """
    alone = not bundle.path.is_dir() or not bundle.card.lineage.files
    if bundle.is_run or alone or bundle.backend.available() or _proof(bundle).read() is not None:
        return
    try:
        verify(bundle, parallelism)
    except VerificationError as error:
        raise VerificationError(f"{error}{_why(bundle)}{_instead(bundle)}") from error


def obstacle(artifact: Artifact) -> str | None:
    """Why an artifact gives no answers, or wrong ones, on this machine; None where it is right here."""
    try:
        require_verified(artifact)
    except VerificationError as error:
        return str(error)
    return artifact.backend.available()


def first_verified(artifacts: Sequence[Artifact], parallelism: Parallelism = LOW_LATENCY) -> Artifact:
    """The first that is right on this machine; the log tells of those before. Raises as `require_verified` does."""
    for artifact in artifacts[:-1]:
        try:
            require_verified(artifact, parallelism)
        except VerificationError as error:
            logger.warning("another bundle of the run is used: %s", error)
        else:
            return artifact
    require_verified(artifacts[-1], parallelism)
    return artifacts[-1]


def _proof(bundle: Artifact) -> Entry:
    """Where it is remembered that a bundle is right here, for these files and claims, this runtime and processor."""
    claim, golden = bundle.card.quality, bundle.path / GOLDEN_FILE
    return Entry.of(
        "verified",
        *bundle.card.lineage.files.values(),
        sha256(golden) if golden.is_file() else None,
        (claim.agreement, claim.images, claim.max_score_difference),
        bundle.backend.version(),
        processor.fingerprint(),
        this_machine().gpu,
    )


def _why(bundle: Artifact) -> str:
    """What is known to make a bundle wrong on another processor than its own."""
    recipe = bundle.card.lineage.recipe or {}
    saturates = int8_kind(this_machine()) == "x86" and recipe.get("reduce_range") is False
    if bundle.card.precision != "int8" or not saturates:
        return ""
    return "; it was made for processors with VNNI, and on this one, which has none, sums of 8-bit products saturate"


def _instead(bundle: Artifact) -> str:
    """Which bundle of the same run to use in its place."""
    if bundle.path.resolve().parent.name != BUNDLES_FOLDER:
        return ""
    for other in candidates(bundle.path.resolve().parent.parent):
        if not other.is_run and other.path.name != bundle.path.name:
            with suppress(EdgeclsError):
                verify(other)
                return f". Right here is {shortened(other.path)}"
    return ""


def _replayed(bundle: Artifact, parallelism: Parallelism) -> Quality:
    import numpy as np

    golden = Golden.read(bundle.path if bundle.path.is_dir() else bundle.path.parent, bundle.card)
    session, runtime = open_or_fallback(bundle, parallelism, cached=True)
    with session:
        scores = np.concatenate([session.infer(image[None]) for image in golden.images])
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
