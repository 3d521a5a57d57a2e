"""A run's scores, kept beside it image by image: every export, evaluation and comparison asks for the same ones."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls import __version__
from edgecls.artifact.arrays import read_arrays
from edgecls.artifact.card import check_files
from edgecls.errors import OutputError
from edgecls.files import make_folder, write_bytes
from edgecls.runtime import machine
from edgecls.runtime.pipeline import scores_of
from edgecls.runtime.store import Artifact

if TYPE_CHECKING:
    from numpy import bytes_, float32, uint8
    from numpy.typing import NDArray

CACHE_FOLDER = "cache"
ALSO_COMPUTING = ("timm", "pillow", "pillow-heif")
"""Packages that networks and pictures come from, besides those that `machine.versions` lists."""
MAX_BYTES = 64 * 2**20
"""Of scores that are kept; beyond it those of the last call only, or none."""


def kept_scores(
    run: Artifact, digests: Sequence[str], read: Callable[[Sequence[int]], Iterable[NDArray[uint8]]]
) -> NDArray[float32]:
    """Scores (N, C) of a run for images with these SHA-256, computed where they are not kept yet.

    `read` gives the raw inputs (h, w, 3) at some of the N positions. What is kept holds for the very weights,
    preprocessing, images and installed packages; a file that is damaged or another's counts as none. Where the run's
    folder cannot be written to, nothing is kept. Raises `ArtifactError` where the run's files are missing or changed,
    and where scores are computed, whatever opening the run and `read` raise.
    """
    import numpy as np

    check_files(run.card, run.path)
    path = run.path / CACHE_FOLDER / f"scores-{_conditions(run)}.npz"
    kept = _read(path, len(run.card.classes))
    missing = [position for position, digest in enumerate(digests) if digest not in kept]
    if missing:
        with run.open() as session:
            computed = scores_of(session, read(missing))
        kept.update(zip((digests[position] for position in missing), computed, strict=True))
        _write(path, kept, digests)
    return np.array([kept[digest] for digest in digests], np.float32).reshape(len(digests), len(run.card.classes))


def _conditions(run: Artifact) -> str:
    """A digest of all but the images that the scores depend on."""
    card = run.card
    packages = machine.versions((*machine.PACKAGES, *ALSO_COMPUTING))
    record = [card.arch, dict(card.lineage.files), card.preprocess.to_json(), packages, __version__]
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:32]


def _read(path: Path, classes: int) -> dict[str, NDArray[float32]]:
    """The scores in a file by the images' digests; none where it is not whole."""
    import numpy as np

    try:
        digests, scores, stored = read_arrays(path, "digests", "scores", "checksum")
    except (OSError, ValueError):
        return {}
    checksum = str(stored)
    known = digests.dtype.kind == "S" and scores.dtype == np.float32 and scores.shape == (len(digests), classes)
    if not known or checksum != _checksum(path, digests, scores):
        return {}
    return dict(zip((digest.decode() for digest in digests), scores, strict=True))


def _write(path: Path, kept: dict[str, NDArray[float32]], asked: Sequence[str]) -> None:
    """Write the scores in place of what was kept under other conditions."""
    import numpy as np

    for names in (list(kept), list(dict.fromkeys(asked))):
        scores = np.array([kept[name] for name in names], np.float32)
        if scores.nbytes <= MAX_BYTES:
            break
    else:
        return
    digests, content = np.array([name.encode() for name in names]), io.BytesIO()
    np.savez(content, digests=digests, scores=scores, checksum=_checksum(path, digests, scores))
    with suppress(OutputError, OSError):
        make_folder(path.parent)
        for old in path.parent.glob("scores-*.npz"):
            if old != path:
                old.unlink()
        write_bytes(path, content.getvalue())


def _checksum(path: Path, digests: NDArray[bytes_], scores: NDArray[float32]) -> str:
    """SHA-256 of what a file holds and of its name, so that one that was renamed counts for nothing."""
    digest = hashlib.sha256(path.name.encode())
    digest.update(b"\n".join(digests))
    digest.update(scores.tobytes())
    return digest.hexdigest()
