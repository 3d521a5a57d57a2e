"""A model's answers on labelled images, through its own runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.data.dataset import Source
from edgecls.data.parallel import ordered_map
from edgecls.data.splits import Sample
from edgecls.errors import DataError
from edgecls.evaluate.detail import Evaluation
from edgecls.evaluate.inference import labels_of, scores_of
from edgecls.report.images import UNLABELLED, images_for
from edgecls.runs import Artefact

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray


def evaluate_artefact(
    artefact: Artefact, data: Path | None
) -> tuple[Source, Sequence[Sample], NDArray[float32], NDArray[int64]]:
    """The images of a folder (or the run's test split), the model's scores (N, C) for them, and their labels (N,).

    Raises `DataError` where there are none or they carry no classes.
    """
    source, samples = images_for(artefact, data)
    if any(sample.label == UNLABELLED for sample in samples):
        raise DataError(f"{data} holds images without classes; put each class's images into a folder of its name")
    inputs = ordered_map(lambda sample: artefact.card.preprocess(source.read(sample.key)), samples)
    with artefact.open() as session:
        scores = scores_of(session, inputs)
    return source, samples, scores, labels_of(samples)


def to_json(artefact: Artefact, evaluation: Evaluation, samples: Sequence[Sample]) -> dict[str, Any]:
    """Plain values: the model, all figures, and every mistake by its file."""
    classes = artefact.card.classes
    mistakes = [
        {
            "path": samples[each.position].key,
            "true": classes[each.truth],
            "given": classes[each.answer],
            "confidence": each.confidence,
        }
        for each in evaluation.mistakes
    ]
    return {
        "model": str(artefact.place),
        "name": artefact.card.name,
        **evaluation.to_json(classes),
        "mistakes": mistakes,
    }
