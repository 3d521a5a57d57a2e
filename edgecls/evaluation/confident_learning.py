"""Labels that are likely wrong, by confident learning (Northcutt et al. 2021, arXiv:1911.00068).

No network is trained: a logistic regression on features gives each image probabilities by a model that has not seen it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from edgecls.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from numpy import float32, float64, int64
    from numpy.typing import NDArray

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of regularization (C) on standardized features: 2,000 images of 1,280 features want the first, 200
of 5 the last.
"""
MIN_PROBABILITY = 1e-12
MAX_ITERATIONS = 300


def out_of_fold(
    features: NDArray[float32],
    labels: NDArray[int64],
    groups: Sequence[Hashable] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> NDArray[float64]:
    """Probabilities (N, C) for features (N, D) with labels (N,), each by a model that has not seen the image's group.

    Folds are stratified, and no more than the rarest class has groups; of the `STRENGTHS` the one with the least loss
    on images not seen is taken. Raises `DataError` for fewer than two classes, or two groups in a class.
    """
    import numpy as np

    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train", "looking for wrong labels") from error
    places: dict[Hashable, int] = {}
    members = np.array(
        [places.setdefault(group, len(places)) for group in (range(len(labels)) if groups is None else groups)]
    )
    present = np.unique(labels)
    least = min((len(np.unique(members[labels == label])) for label in present), default=0)
    if len(present) < 2 or least < 2:
        raise DataError(
            "wrong labels are found by comparison: each class needs two groups of images, and there must be two"
        )
    divider = StratifiedGroupKFold(min(folds, least), shuffle=True, random_state=seed)
    parts = list(divider.split(features, labels, members))
    judged = [_judged(features, labels, parts, strength) for strength in STRENGTHS]
    return min(judged, key=lambda probabilities: _loss(probabilities, labels))


def _judged(features: NDArray[float32], labels: NDArray[int64], parts: Sequence[Any], strength: float) -> Any:
    """Probabilities (N, C) of a logistic regression on standardized features, for each part by one of the others."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probabilities = np.zeros((len(labels), int(labels.max()) + 1))
    for seen, held_out in parts:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=MAX_ITERATIONS))
        model.fit(features[seen], labels[seen])
        probabilities[np.ix_(held_out, model[-1].classes_)] = model.predict_proba(features[held_out])
    return probabilities


def _loss(probabilities: NDArray[float64], labels: NDArray[int64]) -> float:
    """Cross-entropy, whose least belongs to the strength that gives the most honest probabilities."""
    import numpy as np

    return float(-np.log(np.maximum(self_confidence(probabilities, labels), MIN_PROBABILITY)).mean())


def self_confidence(probabilities: NDArray[float64], labels: NDArray[int64]) -> NDArray[float64]:
    """The probability of each given label, (N,)."""
    import numpy as np

    result: NDArray[float64] = probabilities[np.arange(len(labels)), labels]
    return result


def estimated_errors(probabilities: NDArray[float64], labels: NDArray[int64]) -> int:
    """How many labels are likely wrong: the images off the diagonal of the confident joint.

    A class is confidently an image's where its probability reaches the mean that images of that label have; the most
    probable of these is taken for true.
    """
    import numpy as np

    thresholds = np.full(probabilities.shape[1], np.inf)
    for label in np.unique(labels):
        thresholds[label] = probabilities[labels == label, label].mean()
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    return int(np.sum((confident.max(axis=1) >= 0) & (confident.argmax(axis=1) != labels)))


def likely_wrong(probabilities: NDArray[float64], labels: NDArray[int64]) -> list[int]:
    """Positions of likely wrong labels, the most suspicious first: as many as are estimated, by self-confidence.

    With 5 % of the labels flipped, that finds more of them than the normalized margin does (`benchmarks/suspects.py`).
    """
    import numpy as np

    order = np.argsort(self_confidence(probabilities, labels), kind="stable")
    wrong = order[: estimated_errors(probabilities, labels)]
    result: list[int] = wrong[probabilities[wrong].argmax(axis=1) != labels[wrong]].tolist()
    return result
