"""Everything that scores and labels tell, checked against scikit-learn and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as reference

from edgecls.evaluation.detail import evaluate_scores
from edgecls.runtime.scores import softmax

CLASSES = ("a", "b", "c", "d", "e", "f", "g")


@pytest.fixture(scope="module")
def answers() -> tuple[np.ndarray, np.ndarray]:
    """Scores (300, 7) that are right more often than not, and labels; the last class has no images."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 6, 300)
    scores = generator.normal(size=(300, 7)).astype(np.float32)
    scores[np.arange(300), labels] += 1.5
    return scores, labels


def test_figures_are_scikit_learns(answers):
    scores, labels = answers
    found, predicted, present = evaluate_scores(scores, labels), scores.argmax(1), list(range(6))
    assert found.metrics.top1 == reference.accuracy_score(labels, predicted)
    assert found.top5 == pytest.approx(reference.top_k_accuracy_score(labels, scores, k=5, labels=range(7)))
    assert found.log_loss == pytest.approx(reference.log_loss(labels, softmax(scores), labels=range(7)), rel=1e-4)
    for name, averages in (("macro", found.macro), ("weighted", found.weighted)):
        expected = reference.precision_recall_fscore_support(
            labels, predicted, labels=present, average=name, zero_division=0
        )
        assert (averages.precision, averages.recall, averages.f1) == pytest.approx(expected[:3])
    probability = softmax(scores)[:, 2]
    assert found.curves[2].roc_auc == pytest.approx(reference.roc_auc_score(labels == 2, probability))


def test_a_class_without_images_has_no_curves(answers):
    found = evaluate_scores(*answers)
    assert (found.curves[6].roc, found.curves[6].roc_auc) == (None, None)
    record = json.loads(json.dumps(found.to_json(CLASSES)))
    assert record["classes"]["g"]["roc_auc"] is None
    assert record["classes"]["a"]["average_precision"] > 0.3
    assert record["macro_f1"] == record["macro"]["f1"] == found.macro.f1


def test_intervals_hold_the_figure_narrow_with_images_and_repeat_with_their_seed(answers):
    scores, labels = answers
    found = evaluate_scores(scores, labels)
    assert found.top1_interval[0] < found.metrics.top1 < found.top1_interval[1]
    assert found.macro_f1_interval[0] < found.macro.f1 < found.macro_f1_interval[1]
    few = evaluate_scores(scores[:40], labels[:40])
    width, wider = (interval[1] - interval[0] for interval in (found.top1_interval, few.top1_interval))
    assert wider > 1.5 * width
    assert (
        evaluate_scores(scores, labels).top1_interval
        == found.top1_interval
        != evaluate_scores(scores, labels, 1).top1_interval
    )


def test_mistakes_come_with_the_most_confident_first(answers):
    scores, labels = answers
    found = evaluate_scores(scores, labels)
    assert len(found.mistakes) == round((1 - found.metrics.top1) * 300)
    confidences = [mistake.confidence for mistake in found.mistakes]
    assert confidences == sorted(confidences, reverse=True)
    first = found.mistakes[0]
    assert (first.truth, first.predicted) == (labels[first.position], scores[first.position].argmax())


def test_confused_pairs_are_counted(answers):
    found = evaluate_scores(*answers)
    truth, answer, images = found.confused[0]
    assert images == found.metrics.confusion[truth, answer] == max(pair[2] for pair in found.confused)
    assert sum(pair[2] for pair in found.confused) == len(found.mistakes)


def test_reliability_bins_hold_every_image(answers):
    found = evaluate_scores(*answers)
    assert sum(images for _, _, images in found.reliability) == 300
    gap = sum(abs(confidence - accuracy) * images for confidence, accuracy, images in found.reliability) / 300
    assert gap == pytest.approx(found.calibration_error, abs=1e-6)
