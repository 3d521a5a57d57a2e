"""What an ONNX bundle remembers of its run's images, so that it can be adapted on a device."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls import models
from edgecls.adapting.head import Head
from edgecls.adapting.memory import MAX_IMAGES, Memory, short_digest
from edgecls.concurrency import ordered_map
from edgecls.data.dataset import Dataset, balanced, open_recorded
from edgecls.data.splits import Sample
from edgecls.errors import DataError
from edgecls.evaluation.inference import labels_of, prepared
from edgecls.models.last_layer import last_layer
from edgecls.runtime.pipeline import outputs_of
from edgecls.runtime.store import Artifact

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

TARGET = "onnx"
LEAST_OF_A_CLASS = 5
AGREEING = 0.9
"""Share of the images on which the run's last layer must answer as the bundle does; int8 changes some."""


def remember(run: Artifact, bundle: Artifact, folder: Path) -> None:
    """Write to `folder` what the bundle is to remember, in its own embeddings.

    Nothing is written for other targets, for networks that go on behind their last layer, and without the images.
    """
    head = _linear_head(run) if bundle.card.target == TARGET and "embedding" in bundle.card.inner_tensors else None
    if head is None:
        return
    try:
        dataset = open_recorded(run.path)
        parts = {name: _drawn(dataset.splits[name], dataset.seed) for name in ("train", "test")}
        embeddings: dict[str, NDArray[float32]] = {}
        for name, samples in parts.items():
            with bundle.open(tensors=("embedding",)) as session:
                scores, embeddings[name] = outputs_of(session, prepared(dataset.source, samples, run.card.preprocess))
            if head.weight.shape[1] != embeddings[name].shape[1]:
                return
            if (head.scores(embeddings[name]).argmax(axis=1) == scores.argmax(axis=1)).mean() < AGREEING:
                return
        known = _known(dataset)
    except (DataError, OSError):
        return
    train, test = ((embeddings[name], labels_of(samples)) for name, samples in parts.items())
    Memory(head, *train, *test, known, knows_all=True).write(folder)


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


def _linear_head(run: Artifact) -> Head | None:
    """The run's last layer as weights of its inputs; None where it is none, or the run was imported as a graph."""
    if not run.card.model_file.endswith(".safetensors"):
        return None
    return last_layer(run.card.arch, models.read_weights(run.path / run.card.model_file))
