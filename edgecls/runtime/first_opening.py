"""A bundle proves itself the first time that it is opened on a machine; that it did is remembered outside of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress

from edgecls import processor
from edgecls.artifact.golden import GOLDEN_FILE
from edgecls.backends import LOW_LATENCY, OnProgress, Parallelism
from edgecls.cache import Entry
from edgecls.errors import EdgeclsError, VerificationError
from edgecls.files import sha256, shortened
from edgecls.runtime.machine import gpu_driver, int8_kind, this_machine
from edgecls.runtime.store import BUNDLES_FOLDER, Artifact, candidates
from edgecls.runtime.verification import verify

logger = logging.getLogger(__name__)

RULES = 1
"""Version of what `verify` asks for: proofs of an older one count no longer."""


def require_verified(
    bundle: Artifact, parallelism: Parallelism = LOW_LATENCY, on_progress: OnProgress = lambda _: None
) -> None:
    """Verify a bundle unless that was done on this machine before: same files, same processor, same runtime.

    A run is its own measure, and a model file that came alone, or a folder without golden inputs, carries nothing to
    verify it by; of the latter the log tells. What cannot run here is not verified either. Raises `VerificationError`
    with the reason, and with the bundle of the same run that is right here, where there is one; and as opening does.
    """
    if bundle.is_run or not bundle.path.is_dir() or not bundle.card.lineage.files or bundle.backend.available():
        return
    if not (bundle.path / GOLDEN_FILE).exists():
        logger.warning("%s has no %s: nothing tells whether it is right on this machine", bundle.path, GOLDEN_FILE)
        return
    proof = _proof(bundle)
    if proof and proof.read() is not None:
        return
    try:
        verify(bundle, parallelism, on_progress)
    except VerificationError as error:
        way_round = "; `no_check` opens it all the same"
        raise VerificationError(f"{error}{_why(bundle)}{way_round}{_instead(bundle)}") from error
    if proof:
        proof.write(b"")


def unusable_reason(artifact: Artifact) -> str | None:
    """Why an artifact gives no answers, or wrong ones, on this machine; None where it is right here."""
    try:
        require_verified(artifact)
    except EdgeclsError as error:
        return str(error)
    return artifact.backend.available()


def first_verified(
    artifacts: Sequence[Artifact],
    parallelism: Parallelism = LOW_LATENCY,
    on_progress: OnProgress = lambda _: None,
) -> Artifact:
    """The first that is right on this machine; the log tells of those before. Raises as `require_verified` does."""
    for artifact in artifacts[:-1]:
        try:
            require_verified(artifact, parallelism, on_progress)
        except EdgeclsError as error:
            logger.warning("a bundle of the run is not used: %s", error)
        else:
            return artifact
    require_verified(artifacts[-1], parallelism, on_progress)
    return artifacts[-1]


def _proof(bundle: Artifact) -> Entry | None:
    """Where it is remembered that a bundle is right here, for these files and claims, this runtime and processor.

    None where processors or devices cannot be told apart: then it is verified at each opening.
    """
    card, known = bundle.card, processor.fingerprint()
    if known is None or (card.device in ("GPU", "NPU")):
        return None
    claim = card.quality
    return Entry.of(
        "verified",
        RULES,
        *card.lineage.files.values(),
        sha256(bundle.path / GOLDEN_FILE),
        (claim.agreement, claim.images, claim.max_score_difference, claim.rms_score_difference),
        bundle.backend.version(),
        known,
        this_machine().gpu,
        gpu_driver(),
    )


def _why(bundle: Artifact) -> str:
    """What is known to make a bundle wrong on another processor than its own."""
    recipe = bundle.card.lineage.recipe or {}
    saturates = int8_kind(this_machine()) == "x86" and recipe.get("reduce_range") is False
    if bundle.card.precision != "int8" or not saturates:
        return ""
    return "; it was made for processors with VNNI, and on this one, which has none, sums of 8-bit products saturate"


def _instead(bundle: Artifact) -> str:
    """Which bundle of the same run to use in place of one."""
    folder = bundle.path.resolve().parent
    if folder.name != BUNDLES_FOLDER:
        return ""
    with suppress(EdgeclsError):
        for other in candidates(folder.parent):
            if not other.is_run and other.path.name != bundle.path.name:
                with suppress(EdgeclsError):
                    verify(other)
                    return f". Right here is {shortened(other.path)}"
    return ""
