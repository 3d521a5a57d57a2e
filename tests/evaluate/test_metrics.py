from __future__ import annotations

import numpy as np
import pytest

from edgecls.evaluate.metrics import agreement, measure

LABELS = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 1, 0])
SCORES = np.eye(3, dtype=np.float32)[PREDICTED]


def test_figures_of_a_small_case_worked_out_by_hand():
    metrics = measure(SCORES, LABELS)
    assert metrics.top1 == pytest.approx(4 / 6)
    assert metrics.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert metrics.precision == pytest.approx((2 / 3, 2 / 3, 0))
    assert metrics.recall == pytest.approx((2 / 3, 1, 0))
    assert metrics.f1 == pytest.approx((2 / 3, 0.8, 0))
    assert metrics.macro_f1 == pytest.approx((2 / 3 + 0.8) / 3)


def test_the_figures_are_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 6, 200)
    scores = generator.normal(size=(200, 6)).astype(np.float32)
    metrics, predicted = measure(scores, labels), scores.argmax(axis=1)
    precision, recall, f1, _ = sklearn.precision_recall_fscore_support(labels, predicted, zero_division=0)
    assert metrics.precision == pytest.approx(precision)
    assert metrics.recall == pytest.approx(recall)
    assert metrics.f1 == pytest.approx(f1)
    assert (metrics.confusion == sklearn.confusion_matrix(labels, predicted)).all()


def test_the_record_names_the_classes():
    record = measure(SCORES, LABELS).to_json(["cat", "dog", "owl"])
    assert record["classes"]["dog"] == {
        "precision": pytest.approx(2 / 3),
        "recall": 1,
        "f1": pytest.approx(0.8),
        "images": 2,
    }
    assert record["confusion"][2] == [1, 0, 0]


def test_agreement_counts_equal_answers():
    other = SCORES.copy()
    other[0] = [0, 0, 1]
    assert agreement(other, SCORES) == pytest.approx(5 / 6)
