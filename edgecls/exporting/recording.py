"""What a bundle records of its run's images: its reference, and what it remembers to be adapted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls import models
from edgecls.adapting.head import Head
from edgecls.adapting.memory import MAX_IMAGES, Memory, short_digest
from edgecls.artifact.reference import FEWEST_IMAGES, MOST_IMAGES, Reference
from edgecls.concurrency import ordered_map
from edgecls.data.dataset import Dataset, balanced
from edgecls.data.splits import Sample
from edgecls.errors import BackendError, DataError, UsageError
from edgecls.evaluation.inference import labels_of
from edgecls.models.last_layer import last_layer
from edgecls.runtime.pipeline import outputs_of
from edgecls.runtime.scores import as_logits
from edgecls.runtime.store import Artifact
from edgecls.runtime.verification import is_for_here, open_or_fallback

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    from edgecls.backends import Session
    from edgecls.exporting.verification import Verifier

TARGET = "onnx"
LEAST_OF_A_CLASS = 5
AGREEING = 0.9
"""Share of the images on which the run's last layer must answer as the bundle does; int8 changes some."""


def record(run: Artifact, bundle: Artifact, verifier: Verifier, folder: Path) -> None:
    """Write to `folder` the bundle's `Reference`, from validation images, and its `Memory`.

    There is none where the images are gone, or where the bundle's runtime is here but not its device; no reference of
    few images. Where its runtime gives no embeddings, or cannot run here, the reference is made from scores alone.
    """
    if (validation := verifier.validation(MOST_IMAGES)) is None or (
        bundle.backend.available() is None and not bundle.is_runnable
    ):
        return
    (images, labels), head = validation, _linear_head(run, bundle)
    if len(labels) < FEWEST_IMAGES and head is None:
        return
    here = bundle.is_runnable and is_for_here(bundle.backend, bundle.card.device or None)
    with _with_embeddings(bundle, here or head is not None) or open_or_fallback(bundle)[0] as session:
        if len(labels) >= FEWEST_IMAGES:
            scores, *embeddings = outputs_of(session, images)
            inner = embeddings[0] if embeddings and here else None
            Reference.recorded(as_logits(scores, bundle.card.output), inner, labels).write(folder)
        if head and session.tensors and (memory := _memory(session, head, verifier)):
            memory.write(folder)


def _with_embeddings(bundle: Artifact, wanted: bool) -> Session | None:
    """A session of the bundle itself that gives embeddings; None where that cannot be had here, or is not wanted."""
    try:
        return bundle.open(tensors=("embedding",)) if wanted else None
    except (UsageError, BackendError):
        return None


def _linear_head(run: Artifact, bundle: Artifact) -> Head | None:
    """The run's last layer as weights of its inputs; None where it is none, or the run was imported as a graph, and for
    bundles that cannot be adapted.
    """
    adaptable = bundle.card.target == TARGET and "embedding" in bundle.card.inner_tensors
    if not adaptable or not run.card.model_file.endswith(".safetensors"):
        return None
    return last_layer(run.card.arch, models.read_weights(run.path / run.card.model_file))


def _memory(session: Session, head: Head, verifier: Verifier) -> Memory | None:
    """What is remembered, in the bundle's own embeddings; None for networks that go on behind their last layer."""
    parts: list[NDArray[float32]] = []
    try:
        dataset = verifier.dataset
        drawn = [_drawn(dataset.splits[name], dataset.seed) for name in ("train", "test")]
        for samples in drawn:
            scores, embeddings = outputs_of(session, verifier.prepared(samples))
            if head.weight.shape[1] != embeddings.shape[1]:
                return None
            if (head.scores(embeddings).argmax(axis=1) == scores.argmax(axis=1)).mean() < AGREEING:
                return None
            parts.append(embeddings)
        known = _known(dataset)
    except (DataError, OSError):
        return None
    (train, test), (train_labels, test_labels) = parts, map(labels_of, drawn)
    return Memory(head, train, train_labels, test, test_labels, known, knows_all=True)


def _known(dataset: Dataset) -> frozenset[int]:
    """The short digests of all images that the run has learned from or was judged by."""
    keys = (sample.key for samples in dataset.splits.values() for sample in samples)
    return frozenset(ordered_map(lambda key: short_digest(dataset.source.fingerprint(key)), keys))


def _drawn(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Some of the samples: each class with its share of them, for that is what the run learned, and some of each."""
    some = balanced(samples, LEAST_OF_A_CLASS * len({sample.label for sample in samples}), seed)[:MAX_IMAGES]
    taken = set(some)
    rest = [sample for sample in samples if sample not in taken]
    random.Random(seed).shuffle(rest)
    return some + rest[: MAX_IMAGES - len(some)]
