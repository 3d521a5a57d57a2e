"""Confidence that means what it says, and the answer "unsure"."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from edgecls.artifact.card import Confidence, read_card, write_card
from edgecls.artifact.golden import Golden
from edgecls.artifact.measurements import keep_confidence
from edgecls.errors import ArtifactError
from edgecls.evaluation.confidence import MIN_ANSWERED, answered, fit_class_thresholds, fit_temperature, fit_threshold
from edgecls.evaluation.metrics import calibration_error
from edgecls.runtime import store
from edgecls.runtime.classifier import load
from edgecls.runtime.scores import scaled, softmax
from edgecls.runtime.store import Artifact


@pytest.fixture(scope="module")
def honest() -> tuple[np.ndarray, np.ndarray]:
    """Logits (4000, 5) whose softmax is exactly how often each class is true."""
    generator = np.random.default_rng(0)
    scores = generator.normal(scale=2.0, size=(4000, 5)).astype(np.float32)
    labels = np.array([generator.choice(5, p=row / row.sum()) for row in softmax(scores).astype(float)])
    return scores, labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_of_boastful_and_timid_networks_is_found(honest, temperature: float):
    scores, labels = honest
    found = fit_temperature(scores * temperature, labels)
    assert found == pytest.approx(temperature, rel=0.08)
    before = calibration_error(scores * temperature, labels)
    after = calibration_error(scaled(scores * temperature, found), labels)
    assert after < 0.03
    assert after <= before + 0.005


def test_no_mistake_and_no_image_leave_the_scores_alone():
    scores = np.eye(3, dtype=np.float32)
    assert fit_temperature(scores, np.arange(3)) == 1.0
    assert fit_temperature(scores[:0], np.arange(0)) == 1.0


def test_the_threshold_gives_the_wanted_precision_and_no_more_silence_than_needed(honest):
    scores, labels = honest
    threshold = fit_threshold(scores, labels, 0.95)
    share, right = answered(scores, labels, threshold)
    assert right >= 0.95
    assert answered(scores, labels, threshold - 0.05)[0] > share
    assert answered(scores, labels, threshold - 0.05)[1] < right
    assert fit_threshold(scores, labels, 0.2) == 0.0


def test_a_class_that_is_often_mistaken_gets_a_higher_threshold_than_others(honest):
    scores, labels = honest
    mistaken = labels.copy()
    third = np.flatnonzero((scores.argmax(axis=1) == 2) & (labels == 2))
    mistaken[third[::3]] = 3
    own = fit_class_thresholds(scores, mistaken, 0.8)
    assert set(own) == {0, 1, 2, 3, 4}
    assert own[2] > max(own[index] for index in (0, 1, 3, 4)) + 0.1
    least = np.array([own[index] for index in range(5)])
    predicted, confidence = scores.argmax(axis=1), softmax(scores).max(axis=1)
    for index in (0, 1, 3, 4):
        answers = (predicted == index) & (confidence >= least[index])
        assert (mistaken[answers] == index).mean() >= 0.8
    assert answered(scores, mistaken, least)[1] >= 0.8


def test_classes_that_are_hardly_answered_or_never_right_are_told_apart():
    scores = np.zeros((40, 3), np.float32)
    scores[: MIN_ANSWERED - 1, 0] = scores[MIN_ANSWERED - 1 : 25, 1] = scores[25:, 2] = 3
    labels = np.where(scores.argmax(axis=1) == 1, 0, scores.argmax(axis=1))
    assert fit_class_thresholds(scores, labels, 0.9) == {1: 1.0, 2: 0.0}


def test_an_unreachable_precision_gives_none(honest):
    scores, _ = honest
    assert fit_threshold(scores, (scores.argmax(1) + 1) % 5, 0.5) is None


def test_training_fits_a_temperature_that_bundles_inherit(trained: Artifact, bundle: Callable[[str, str], Artifact]):
    temperature = trained.card.confidence.temperature
    assert 0.05 < temperature < 20
    assert temperature != 1.0
    assert bundle("onnx", "fp32").card.confidence == trained.card.confidence


def test_below_the_threshold_the_answer_is_unsure(
    bundle: Callable[[str, str], Artifact], copy_of: Callable[[Artifact], Path]
):
    path = copy_of(bundle("onnx", "fp32"))
    card = read_card(path)
    scores = Golden.read(path).scores
    with load(path) as model:
        plain = [model.decide(row) for row in scores]
    threshold = float(np.median([prediction.score for prediction in plain]))
    write_card(replace(card, confidence=replace(card.confidence, threshold=threshold)), path)
    with load(path) as model:
        careful = [model.decide(row) for row in scores]
    assert not any(prediction.unsure for prediction in plain)
    assert any(prediction.unsure for prediction in careful)
    for before, after in zip(plain, careful, strict=True):
        assert after.label == ("unsure" if after.unsure else before.label)
        assert (after.index, after.score, after.ranking) == (before.index, before.score, before.ranking)
        assert after.unsure == (after.score < threshold)


def test_a_class_may_have_a_threshold_of_its_own(
    bundle: Callable[[str, str], Artifact], copy_of: Callable[[Artifact], Path]
):
    path = copy_of(bundle("onnx", "fp32"))
    scores = Golden.read(path).scores
    keep_confidence(path, Confidence(thresholds={"zero": 1.0}))
    with load(path) as model:
        found = [model.decide(row) for row in scores]
    zeros = [prediction.unsure for prediction in found if prediction.ranking[0][0] == "zero"]
    assert zeros
    assert all(zeros)
    assert not any(prediction.unsure for prediction in found if prediction.ranking[0][0] != "zero")


def test_the_threshold_of_an_unknown_class_is_refused(
    bundle: Callable[[str, str], Artifact], copy_of: Callable[[Artifact], Path]
):
    path = copy_of(bundle("onnx", "fp32"))
    keep_confidence(path, Confidence(thresholds={"nobody": 0.5}))
    with pytest.raises(ArtifactError, match=r"measurements.json: confidence.thresholds names 'nobody'"):
        load(path)


def test_a_card_without_confidence_is_read(trained: Artifact):
    record = trained.card.to_json()
    del record["confidence"]
    assert type(trained.card).from_json(record, "old").confidence == Confidence()


class TestCommand:
    def test_precision_is_fitted_and_kept_and_predict_says_unsure(
        self, cli: Callable[..., Result], bundle: Callable[[str, str], Artifact], copy_of, digit_images: Path,
        trained: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ):  # fmt: skip
        monkeypatch.chdir(tmp_path)
        run = copy_of(trained)
        result = cli("evaluate", run, "--precision", "0.999")
        assert result.exit_code == 0, result.output
        assert "fitted on 269 validation images" in result.output
        assert "above the threshold" in result.output
        assert "its bundles" not in result.output  # there are none
        threshold = store.find(run).card.confidence.threshold
        assert read_card(run) == trained.card
        assert 0 < threshold < 1
        assert f"below a confidence of {threshold:.1%}" in cli("info", run).output
        keep_confidence(run, Confidence(50.0, 0.9))
        assert "unsure (nearest " in cli("predict", digit_images, "--model", run).output
        assert '"label": "unsure"' in cli("predict", digit_images, "--model", run, "--json").output

    def test_thresholds_of_classes_are_fitted_kept_and_told(
        self, cli: Callable[..., Result], bundle: Callable[[str, str], Artifact], copy_of, trained: Artifact,
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ):  # fmt: skip
        monkeypatch.chdir(tmp_path)
        run = copy_of(trained)
        result = cli("evaluate", run, "--precision", "0.999", "--class-thresholds")
        assert result.exit_code == 0, result.output
        assert "classes with a threshold of their own: zero " in result.output
        assert "above the thresholds of the classes: " in result.output
        thresholds = store.find(run).card.confidence.thresholds
        assert set(thresholds) == set(trained.card.classes)  # 26 or so validation images of each
        assert read_card(run) == trained.card
        assert "zero below " in cli("info", run).output
        shutil.copytree(bundle("onnx", "fp32").path, run / "bundles" / "onnx-fp32", dirs_exist_ok=True)
        again = cli("evaluate", run, "--precision", "0.9")
        assert "its bundles (onnx-fp32) keep what they were exported with" in again.output
        assert "bundles/NAME --precision 0.9\n" in again.output
        assert store.find(run).card.confidence.thresholds == {}

    def test_what_cannot_be_is_one_line(
        self, cli: Callable[..., Result], bundle: Callable[[str, str], Artifact], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):  # fmt: skip
        monkeypatch.chdir(tmp_path)
        path = bundle("onnx", "fp32").path
        for arguments, code, words in (
            ((path, "--precision", "99"), 2, "--precision"),
            ((path / "model.onnx", "--precision", "0.9"), 2, "give the bundle's folder"),
            ((path, "--class-thresholds"), 2, "--class-thresholds needs --precision"),
        ):
            result = cli("evaluate", *arguments)
            assert (result.exit_code, len(result.stderr.splitlines())) == (code, 1), result.stderr
            assert words in result.stderr
