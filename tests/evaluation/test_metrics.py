from __future__ import annotations

import numpy as np
import pytest

from edgecls.errors import BackendError
from edgecls.evaluation.metrics import calibration_error, drop, measure, paired_interval, wilson
from edgecls.runtime.scores import agreement, as_logits, softmax

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


def test_the_drop_counts_only_images_on_which_one_is_right_and_the_other_wrong():
    labels = np.zeros(100, np.int64)
    parent, child = np.zeros((100, 2), np.float32), np.zeros((100, 2), np.float32)
    parent[:, 0], child[:, 0] = 1, 1
    child[:5, 1] = 2  # five lost
    parent[5:7, 1] = 2  # two won
    lost = drop(child, parent, labels)
    assert lost.points == pytest.approx(3.0)
    assert (lost.low_points, lost.high_points) == tuple(100 * end for end in paired_interval(93, 5, 2, 100))


@pytest.mark.parametrize("wanted", [0.01, 0.05])
@pytest.mark.parametrize(("count", "agreeing"), [(100, 0.9), (300, 0.97), (1000, 0.98)])
def test_the_paired_interval_holds_the_true_drop_as_often_as_it_says(count: int, agreeing: float, wanted: float):
    """Drawn from a known population, 95 of 100 intervals hold the truth, as Newcombe reports for his method 10."""
    generator = np.random.default_rng(count)
    differing = 1 - agreeing
    lost = min((differing + wanted) / 2, differing)
    shares = [0.9 * agreeing, lost, differing - lost, 0.1 * agreeing]
    truth = shares[1] - shares[2]
    inside = 0
    for both, first, second, _ in generator.multinomial(count, shares, 2000):
        low, high = paired_interval(int(both), int(first), int(second), count)
        inside += low <= truth <= high
    assert 0.93 <= inside / 2000 <= 0.995


def test_the_paired_interval_of_many_images_is_the_textbooks():
    """McNemar's standard error, where there are enough images for it (Agresti, section 11.1)."""
    count, lost, won = 50_000, 900, 600
    half = 1.96 * np.sqrt((lost + won) / count - ((lost - won) / count) ** 2) / np.sqrt(count)
    low, high = paired_interval(40_000, lost, won, count)
    assert ((high - low) / 2, (high + low) / 2) == pytest.approx((half, (lost - won) / count), rel=0.05)


def test_the_paired_interval_is_the_other_way_round_for_the_other_model():
    low, high = paired_interval(250, 7, 3, 300)
    assert paired_interval(250, 3, 7, 300) == pytest.approx((-high, -low))


def test_few_images_leave_room_though_none_differs():
    low, high = paired_interval(16, 0, 0, 16)
    assert low < -0.1
    assert high > 0.1
    assert paired_interval(0, 0, 0, 0) == (0.0, 0.0)
    assert paired_interval(0, 5, 0, 5) == pytest.approx((1 - 0.434, 1.0), abs=0.2)


def test_wilson_intervals_match_the_published_values():
    """Brown, Cai and DasGupta 2001: 0 of 10 gives [0, 0.278]; symmetric at one half."""
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3)


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    scores = np.log(np.tile(np.float32([0.8, 0.2]), (10, 1)))
    labels = np.array([0] * 6 + [1] * 4)
    assert calibration_error(scores, labels) == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize("off", [1.0, 0.86, 0.996, 1.05])
def test_probabilities_stay_what_they_are_though_rounding_moves_their_sum(off: float):
    probabilities = np.float32([0.7, 0.2, 0.1, 0.0])
    found = softmax(as_logits(off * probabilities, "probabilities"))
    np.testing.assert_allclose(found, probabilities, atol=1e-5)


def test_logits_that_look_like_probabilities_are_logits_all_the_same():
    assert softmax(as_logits(np.float32([1.0, 0.0]), "logits"))[0] == pytest.approx(0.731, abs=1e-3)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("output", ["logits", "probabilities"])
def test_scores_that_are_no_numbers_are_no_answer(wrong: float, output: str):
    with pytest.raises(BackendError, match="not finite"):
        as_logits(np.float32([wrong, 0.5]), output)


def test_large_scores_do_not_overflow():
    np.testing.assert_allclose(softmax(np.float32([1000.0, 1000.0])), [0.5, 0.5])
