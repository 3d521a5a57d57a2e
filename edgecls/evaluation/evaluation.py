"""A model's answers on labelled images, through its own runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.artifact.card import Confidence
from edgecls.data.dataset import open_recorded
from edgecls.data.sources import Source
from edgecls.data.splits import Sample
from edgecls.errors import DataError
from edgecls.evaluation.confidence import fit_temperature, fit_threshold
from edgecls.evaluation.detail import Evaluation
from edgecls.evaluation.images import UNLABELLED, images_for, run_of
from edgecls.evaluation.inference import answers, labels_of
from edgecls.runtime.scores import scaled
from edgecls.runtime.store import Artifact

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray


def evaluate_artifact(
    artifact: Artifact, data: Path | None
) -> tuple[Source, Sequence[Sample], NDArray[float32], NDArray[int64]]:
    """The images of a folder (or the run's test split), the model's scaled scores (N, C) for them, and labels (N,).

    Raises `DataError` where there are none or they carry no classes.
    """
    source, samples = images_for(artifact, data)
    if any(sample.label == UNLABELLED for sample in samples):
        raise DataError(f"{data} holds images without classes; put each class's images into a folder of its name")
    scores = scaled(answers(artifact, source, samples), artifact.card.confidence.temperature)
    return source, samples, scores, labels_of(samples)


def fit_confidence(artifact: Artifact, precision: float) -> tuple[Confidence, int]:
    """Temperature, and threshold for a wanted precision, fitted on the run's validation images; and their number.

    Raises `DataError` where the run has none or no threshold makes answers right that often.
    """
    run = run_of(artifact)
    dataset = open_recorded(run.place)
    samples = dataset.splits["val"]
    if not samples:
        raise DataError(f"{run.place} has no validation images to fit on; train, or import, with data that has some")
    scores, labels = answers(artifact, dataset.source, samples), labels_of(samples)
    temperature = round(fit_temperature(scores, labels), 4)
    threshold = fit_threshold(scaled(scores, temperature), labels, precision)
    if threshold is None:
        raise DataError(
            f"no threshold makes {precision:.2%} of the answers on {len(samples)} validation images right; ask for less"
        )
    return Confidence(temperature, round(threshold, 4)), len(samples)


def to_json(artifact: Artifact, evaluation: Evaluation, samples: Sequence[Sample]) -> dict[str, Any]:
    """Plain values: the model, all figures, and every mistake by its file."""
    classes = artifact.card.classes
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
        "model": str(artifact.place),
        "name": artifact.card.name,
        **evaluation.to_json(classes),
        "mistakes": mistakes,
    }
