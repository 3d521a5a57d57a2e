"""What was computed of single images, kept on this machine: the next time only new images are computed."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls import __version__, models
from edgecls.cache import Entry
from edgecls.concurrency import chunked
from edgecls.evaluation.kept_scores import ALSO_COMPUTING
from edgecls.runtime import machine
from edgecls.runtime.pipeline import BATCH

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

    from edgecls.runtime.store import Artifact


def kept_rows(
    entry: Entry, digests: Sequence[str], compute: Callable[[Sequence[int]], NDArray[float32]]
) -> NDArray[float32]:
    """One row of figures (N, D) for each image with these SHA-256; `compute` gives those at some positions.

    Rows of other images stay kept as long as the entry does not grow to twice of what was asked for.
    """
    import numpy as np

    known = _read(entry)
    missing = [position for position, digest in enumerate(digests) if digest not in known]
    if missing:
        known.update(zip((digests[position] for position in missing), compute(missing), strict=True))
        names = list(known) if len(known) <= 2 * len(digests) else list(dict.fromkeys(digests))
        content = io.BytesIO()
        np.savez(content, digests=np.array(names), rows=np.stack([known[name] for name in names]))
        entry.write(content.getvalue())
    return np.stack([known[digest] for digest in digests]) if len(digests) else np.empty((0, 0), np.float32)


def _read(entry: Entry) -> dict[str, NDArray[float32]]:
    import numpy as np

    if (content := entry.read()) is None:
        return {}
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(zip(arrays["digests"].tolist(), arrays["rows"], strict=True))


def embeddings_of(
    run: Artifact, digests: Sequence[str], read: Callable[[Sequence[int]], Iterable[NDArray[uint8]]]
) -> NDArray[float32]:
    """What a run's last layer takes in (N, D) for images with these SHA-256.

    `read` gives the raw inputs (h, w, 3) at some positions. Kept for the very weights in front of the last layer, which
    a run that only learned the last layer anew shares with its parent.
    """
    import numpy as np

    def compute(positions: Sequence[int]) -> NDArray[float32]:
        with run.open(tensors=("embedding",)) as session:
            batches = [session.infer_all(np.stack(batch))[1] for batch in chunked(read(positions), BATCH)]
        return np.concatenate(batches)

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
