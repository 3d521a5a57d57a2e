"""What a network sees in images, apart from the classes that it was trained for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.data.sources import Source
from edgecls.data.splits import Sample
from edgecls.evaluation.inference import prepared
from edgecls.runtime import store
from edgecls.runtime.pipeline import outputs_of

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    from edgecls.backends import Session


def embeddings_on(
    model: Path | None, source: Source, samples: Iterable[Sample], on_progress: Callable[[int], None] = lambda _: None
) -> NDArray[float32]:
    """What the last layer of a model takes in, (N, D), by its fastest bundle that tells; see `store.candidates`.

    `on_progress` hears how many images are done. Raises `UsageError` where no bundle tells, `ImageError`.
    """
    artifact = store.giving(("embedding",), store.candidates(model))[0]
    with artifact.open(tensors=("embedding",)) as session:
        return embeddings_of(session, source, samples, on_progress)


def embeddings_of(
    session: Session, source: Source, samples: Iterable[Sample], on_progress: Callable[[int], None] = lambda _: None
) -> NDArray[float32]:
    """The same by a session that gives embeddings first of its tensors."""
    return outputs_of(session, prepared(source, samples, session.card.preprocess), on_progress)[1]
