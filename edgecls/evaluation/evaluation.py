"""A model measured on labelled images, through its own runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.artifact.card import Confidence
from edgecls.artifact.measurements import keep_confidence
from edgecls.data.dataset import open_recorded
from edgecls.data.sources import Source
from edgecls.data.splits import Sample
from edgecls.errors import DataError, UsageError, VerificationError
from edgecls.evaluation.confidence import answered, fit_class_thresholds, fit_temperature, fit_threshold
from edgecls.evaluation.config import EvaluateConfig
from edgecls.evaluation.cross_validation import CrossValidation, cross_validation_of
from edgecls.evaluation.detail import Evaluation, evaluate_scores
from edgecls.evaluation.images import UNLABELLED, images_for, run_of
from edgecls.evaluation.inference import labels_of, scores_on
from edgecls.evaluation.slices import Slice, cuts_of, evaluate_slices
from edgecls.runtime.scores import scaled
from edgecls.runtime.store import Artifact, find, latest_run

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray


@dataclass(frozen=True)
class EvaluationReport:
    """A model's figures on labelled images: `scores` (N, C) are scaled, `labels` (N,) the positions of true classes.

    `answered` is the share of images above the model's threshold, and the share of right answers among them; None where
    it has no threshold. `fitted_on` is the number of images that the threshold was fitted on, if it was. `slices` are
    those that were asked for, the worst first, `remarks` what to know of them, and `folds` the run's cross-validation.
    """

    artifact: Artifact
    figures: Evaluation
    source: Source
    samples: Sequence[Sample]
    scores: NDArray[float32]
    labels: NDArray[int64]
    fitted_on: int | None = None
    slices: tuple[Slice, ...] = ()
    remarks: tuple[str, ...] = ()
    folds: CrossValidation | None = None

    @property
    def answered(self) -> tuple[float, float | None] | None:
        """See the class."""
        import numpy as np

        card = self.artifact.card
        least = np.array([card.confidence.threshold_of(name) for name in card.classes], np.float32)
        return answered(self.scores, self.labels, least) if least.any() else None

    def to_json(self) -> dict[str, Any]:
        """Plain values: the model, all figures, and every mistake by its file."""
        classes = self.artifact.card.classes
        mistakes = [
            {
                "path": self.samples[each.position].key,
                "true": classes[each.truth],
                "predicted": classes[each.predicted],
                "confidence": each.confidence,
            }
            for each in self.figures.mistakes
        ]
        return {
            "model": str(self.artifact.path),
            "name": self.artifact.card.name,
            **self.figures.to_json(classes),
            "mistakes": mistakes,
            "slices": [each.to_json() for each in self.slices],
            "cross_validation": self.folds.to_json() if self.folds else None,
        }

    def require(self, config: EvaluateConfig) -> None:
        """Raise `VerificationError` where the model is less accurate than asked for."""
        top1 = self.figures.metrics.top1
        if config.min_top1 is not None and top1 < config.min_top1:
            raise VerificationError(f"top-1 is {top1:.2%}, at least {config.min_top1:.2%} was asked for")


def evaluate(
    config: EvaluateConfig | None = None, on_progress: Callable[[str], None] = lambda _: None
) -> EvaluationReport:
    """Measure a model on labelled images; with `precision` its confidence is fitted first and kept beside its card.

    `on_progress` hears each step's name. Raises `DataError` where there are no images or they carry no classes.
    """
    config = EvaluateConfig.checked(config)
    artifact = find(latest_run() if config.model is None else config.model)
    source, samples = _labelled_images(artifact, config.data)  # without any, nothing is fitted and kept either
    cuts, remarks = cuts_of(config.data, samples, config.by) if config.by else ([], [])
    fitted_on = None
    if config.precision is not None:
        on_progress("fitting the confidence")
        artifact, fitted_on = _fitted(artifact, config.precision, config.class_thresholds)
    on_progress("classifying")
    scores, labels = _scores(artifact, source, samples), labels_of(samples)
    on_progress(f"evaluating {len(samples)} answers")
    figures, slices = evaluate_scores(scores, labels, config.seed), evaluate_slices(cuts, scores, labels, config.seed)
    folds = cross_validation_of(artifact.path) if artifact.is_run and config.data is None else None
    return EvaluationReport(
        artifact, figures, source, samples, scores, labels, fitted_on, slices, tuple(remarks), folds
    )


def _fitted(artifact: Artifact, precision: float, each_class: bool) -> tuple[Artifact, int]:
    """The artifact with the confidence that its validation images call for, kept beside its card; their number."""
    if not artifact.path.is_dir():
        raise UsageError("`precision` is kept beside the card; give the bundle's folder, not the model file")
    confidence, images = fit_confidence(artifact, precision, each_class)
    keep_confidence(artifact.path, confidence)
    return Artifact(artifact.path, replace(artifact.card, confidence=confidence)), images


def evaluate_artifact(
    artifact: Artifact, data: Path | None
) -> tuple[Source, Sequence[Sample], NDArray[float32], NDArray[int64]]:
    """The images of a folder (or the run's test split), the model's scaled scores (N, C) for them, and labels (N,).

    Raises `DataError` where there are none or they carry no classes.
    """
    source, samples = _labelled_images(artifact, data)
    return source, samples, _scores(artifact, source, samples), labels_of(samples)


def _labelled_images(artifact: Artifact, data: Path | None) -> tuple[Source, Sequence[Sample]]:
    source, samples = images_for(artifact, data)
    if any(sample.label == UNLABELLED for sample in samples):
        raise DataError(f"{data} holds images without classes; put each class's images into a folder of its name")
    return source, samples


def _scores(artifact: Artifact, source: Source, samples: Sequence[Sample]) -> NDArray[float32]:
    return scaled(scores_on(artifact, source, samples), artifact.card.confidence.temperature)


def fit_confidence(artifact: Artifact, precision: float, each_class: bool = False) -> tuple[Confidence, int]:
    """Temperature, and threshold for a wanted precision, fitted on the run's validation images; and their number.

    With `each_class` those classes that are answered often enough get a threshold of their own. Raises `DataError`
    where the run has no such images or no threshold makes answers right that often.
    """
    run = run_of(artifact)
    dataset = open_recorded(run.path)
    samples = dataset.splits["val"]
    if not samples:
        raise DataError(f"{run.path} has no validation images to fit on; train, or import, with data that has some")
    scores, labels = scores_on(artifact, dataset.source, samples), labels_of(samples)
    temperature = round(fit_temperature(scores, labels), 4)
    threshold = fit_threshold(scaled(scores, temperature), labels, precision)
    if threshold is None:
        raise DataError(
            f"no threshold makes {precision:.2%} of the answers on {len(samples)} validation images right; ask for less"
        )
    own = fit_class_thresholds(scaled(scores, temperature), labels, precision) if each_class else {}
    thresholds = {artifact.card.classes[index]: round(value, 4) for index, value in own.items()}
    return Confidence(temperature, round(threshold, 4), thresholds), len(samples)
