"""A run's embeddings, kept on this machine for the weights that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls import __version__, models
from edgecls.cache import Entry
from edgecls.evaluation.kept_rows import kept_rows
from edgecls.evaluation.kept_scores import ALSO_COMPUTING
from edgecls.runtime import machine
from edgecls.runtime.pipeline import outputs_of

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

    from edgecls.runtime.store import Artifact


def embeddings_of(
    run: Artifact, digests: Sequence[str], read: Callable[[Sequence[int]], Iterable[NDArray[uint8]]]
) -> NDArray[float32]:
    """What a run's last layer takes in (N, D) for images with these SHA-256.

    `read` gives the raw inputs (h, w, 3) at some positions. Kept for the very weights in front of the last layer, which
    a run that only learned the last layer anew shares with its parent.
    """

    def compute(positions: Sequence[int]) -> NDArray[float32]:
        with run.open(tensors=("embedding",)) as session:
            return outputs_of(session, read(positions))[1]

    return kept_rows(Entry.of("embeddings", *_conditions(run)), digests, compute)


def _conditions(run: Artifact) -> list[str]:
    """All but the images that embeddings depend on."""
    card, head = run.card, models.find(run.card.arch).head
    digest = hashlib.sha256()
    for name, tensor in sorted(models.read_weights(Path(run.path / card.model_file)).items()):
        if not name.startswith(head):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    packages = machine.versions((*machine.PACKAGES, *ALSO_COMPUTING))
    return [card.arch, digest.hexdigest(), json.dumps(card.preprocess.to_json()), json.dumps(packages), __version__]
