"""Everything that scores and labels tell about a classifier, beyond the figures of `metrics`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgecls.errors import MissingExtraError
from edgecls.evaluation.metrics import Metrics, calibration_error, measure, reliability
from edgecls.runtime.scores import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy import float32, float64, int64
    from numpy.typing import NDArray

BOOTSTRAP_ROUNDS = 1000
TOP_K = 5


@dataclass(frozen=True)
class Averages:
    """Precision, recall and F1 of all classes together, fractions."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Curves:
    """One class against the rest: ROC and precision-recall with their areas; None where the images allow none."""

    roc: tuple[NDArray[float64], NDArray[float64]] | None
    precision_recall: tuple[NDArray[float64], NDArray[float64]] | None
    roc_auc: float | None
    average_precision: float | None


@dataclass(frozen=True)
class Mistake:
    """A wrong answer: the sample's position, the true and the predicted class, and the confidence in it."""

    position: int
    truth: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class Evaluation:
    """Figures over a labelled set of images; fractions in 0..1, intervals of 95 %.

    `macro` averages over the classes that have images, `weighted` weighs them by these. `reliability` holds the mean
    confidence, the accuracy and the number of images of each filled bin. `mistakes` are sorted, the most confident
    first, and `confused` are (true, predicted, images), the most frequent first.
    """

    metrics: Metrics
    top5: float
    top1_interval: tuple[float, float]
    macro_f1_interval: tuple[float, float]
    macro: Averages
    weighted: Averages
    calibration_error: float
    log_loss: float
    reliability: tuple[tuple[float, float, int], ...]
    curves: tuple[Curves, ...]
    mistakes: tuple[Mistake, ...]
    confused: tuple[tuple[int, int, int], ...]

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """Plain values, classes by name; the curves as their areas."""
        record = self.metrics.to_json(classes)
        for name, curves in zip(classes, self.curves, strict=True):
            record["classes"][name] |= {"roc_auc": curves.roc_auc, "average_precision": curves.average_precision}
        return {
            **record,
            "macro_f1": self.macro.f1,
            "top1_interval": list(self.top1_interval),
            "top5": self.top5,
            "macro_f1_interval": list(self.macro_f1_interval),
            "macro": vars(self.macro),
            "weighted": vars(self.weighted),
            "calibration_error": self.calibration_error,
            "log_loss": self.log_loss,
            "reliability": [
                {"confidence": confidence, "accuracy": accuracy, "images": images}
                for confidence, accuracy, images in self.reliability
            ],
            "confused": [
                {"true": classes[truth], "predicted": classes[predicted], "images": images}
                for truth, predicted, images in self.confused
            ],
        }


def evaluate_scores(scores: NDArray[float32], labels: NDArray[int64], seed: int = 0) -> Evaluation:
    """Evaluate scores (N, C) against labels (N,). Raises `MissingExtraError` where scikit-learn is missing."""
    import numpy as np

    metrics, probabilities = measure(scores, labels), softmax(scores)
    counts = metrics.confusion.sum(axis=1)
    top1_interval, macro_f1_interval = bootstrap(scores, labels, seed)
    ranks = (scores > scores[np.arange(len(labels)), labels][:, None]).sum(axis=1)
    return Evaluation(
        metrics=metrics,
        top5=float((ranks < TOP_K).mean()),
        top1_interval=top1_interval,
        macro_f1_interval=macro_f1_interval,
        macro=macro_averages(metrics),
        weighted=_averaged(metrics, counts / max(counts.sum(), 1)),
        calibration_error=calibration_error(scores, labels),
        log_loss=float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean()),
        reliability=reliability(scores, labels),
        curves=tuple(_curves(labels == index, probabilities[:, index]) for index in range(scores.shape[1])),
        mistakes=_mistakes(probabilities, labels),
        confused=_confused(metrics.confusion),
    )


def macro_averages(metrics: Metrics) -> Averages:
    """Unweighted means over the classes that have images."""
    present = metrics.confusion.sum(axis=1) > 0
    return _averaged(metrics, present / max(present.sum(), 1))


def _averaged(metrics: Metrics, weights: NDArray[Any]) -> Averages:
    import numpy as np

    return Averages(*(float(np.dot(weights, values)) for values in (metrics.precision, metrics.recall, metrics.f1)))


def bootstrap(
    scores: NDArray[float32], labels: NDArray[int64], seed: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The percentile intervals of top-1 and macro F1 over images drawn with replacement (Efron 1979)."""
    import numpy as np

    generator, count = np.random.default_rng(seed), len(labels)
    draws = (generator.integers(0, count, count) for _ in range(BOOTSTRAP_ROUNDS))
    resampled = [measure(scores[draw], labels[draw]) for draw in draws]
    top1 = np.percentile([metrics.top1 for metrics in resampled], (2.5, 97.5))
    macro_f1 = np.percentile([macro_averages(metrics).f1 for metrics in resampled], (2.5, 97.5))
    return (float(top1[0]), float(top1[1])), (float(macro_f1[0]), float(macro_f1[1]))


def _curves(truth: NDArray[Any], probability: NDArray[float32]) -> Curves:
    try:
        from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train", "evaluating") from error
    if truth.all() or not truth.any():
        return Curves(None, None, None, None)
    false_rate, true_rate, _ = roc_curve(truth, probability)
    precision, recall, _ = precision_recall_curve(truth, probability)
    areas = float(roc_auc_score(truth, probability)), float(average_precision_score(truth, probability))
    return Curves((false_rate, true_rate), (recall, precision), *areas)


def _mistakes(probabilities: NDArray[float32], labels: NDArray[int64]) -> tuple[Mistake, ...]:
    predicted = probabilities.argmax(axis=1)
    wrong = (predicted != labels).nonzero()[0]
    mistakes = [
        Mistake(int(i), int(labels[i]), int(predicted[i]), float(probabilities[i, predicted[i]]))
        for i in wrong.tolist()
    ]
    return tuple(sorted(mistakes, key=lambda mistake: -mistake.confidence))


def _confused(confusion: NDArray[int64]) -> tuple[tuple[int, int, int], ...]:
    pairs = [
        (truth, predicted, int(confusion[truth, predicted]))
        for truth, predicted in zip(*confusion.nonzero(), strict=True)
        if truth != predicted
    ]
    most_first = sorted(pairs, key=lambda pair: -pair[2])
    return tuple((int(truth), int(predicted), images) for truth, predicted, images in most_first)
