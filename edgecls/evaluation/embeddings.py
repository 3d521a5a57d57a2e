"""What a network sees in images, apart from the classes that it was trained for, kept on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls import __version__, models
from edgecls.cache import Entry
from edgecls.data.sources import Source
from edgecls.data.splits import Sample
from edgecls.evaluation.inference import PreparedImages
from edgecls.evaluation.kept_rows import kept_rows
from edgecls.evaluation.kept_scores import ALSO_COMPUTING
from edgecls.files import sha256
from edgecls.runtime import machine, store
from edgecls.runtime.pipeline import outputs_of
from edgecls.runtime.store import Artifact

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    from edgecls.backends import Session


def embeddings_on(
    model: Path | None, source: Source, samples: Sequence[Sample], on_progress: Callable[[int], None] = lambda _: None
) -> NDArray[float32]:
    """What the last layer of a model takes in, (N, D), by its fastest bundle that tells; see `store.candidates`.

    Raises `UsageError` where no bundle tells; otherwise as `embeddings_of`.
    """
    artifact = store.giving(("embedding",), store.candidates(model))[0]
    return embeddings_of(artifact, source, samples, on_progress)


def embeddings_of(
    artifact: Artifact,
    source: Source,
    samples: Sequence[Sample],
    on_progress: Callable[[int], None] = lambda _: None,
    session: Session | None = None,
    digests: Sequence[str] | None = None,
) -> NDArray[float32]:
    """The same by one artifact: only images that are new to this machine are computed.

    `session` is one of the artifact's that gives embeddings first of its tensors, where one is open already, and
    `digests` are the images' SHA-256, where these are known. `on_progress` hears how many images are done. Raises
    `ImageError`, and as `Artifact.open` does.
    """
    images = PreparedImages(source, [sample.key for sample in samples], artifact.card.preprocess, kept_bytes=0)

    def compute(positions: Sequence[int]) -> NDArray[float32]:
        known = len(images) - len(positions)
        with nullcontext(session) if session else artifact.open(tensors=("embedding",)) as opened:
            return outputs_of(opened, images.at(positions), lambda done: on_progress(known + done))[1]

    digests = images.digests(len(images)) if digests is None else digests
    return kept_rows(Entry.of("embeddings", *_conditions(artifact)), digests, compute)


def _conditions(artifact: Artifact) -> list[object]:
    """All but the images that embeddings depend on: of a run the weights in front of the last layer only, which one
    that learned its last layer anew shares with its parent.
    """
    card = artifact.card
    digests = list(card.lineage.files.values()) or [sha256(artifact.path)]
    if artifact.is_run and (file := artifact.path / card.model_file).suffix == ".safetensors":
        head, digest = models.find(card.arch).head, hashlib.sha256()
        for name, tensor in sorted(models.read_weights(file).items()):
            if not name.startswith(head):
                digest.update(name.encode())
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        digests = [digest.hexdigest()]
    packages = machine.versions((*machine.PACKAGES, *ALSO_COMPUTING))
    return [card.arch, card.target, *digests, card.preprocess.to_json(), packages, __version__]
