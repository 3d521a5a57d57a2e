"""Models that say what they were not trained for."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgecls
from edgecls.artifact.card import write_card
from edgecls.artifact.golden import Golden
from edgecls.artifact.reference import REFERENCE_FILE
from edgecls.errors import UsageError
from edgecls.imaging.opencv import cv2
from edgecls.runtime.store import Artifact
from tests.schemas import assert_described

Bundle = Callable[[str, str], Artifact]


@pytest.fixture(params=["onnx", "openvino"])
def artifact(request: pytest.FixtureRequest, bundle: Bundle) -> Artifact:
    return bundle(request.param, "int8")


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 48, 3), np.uint8)


def test_noise_is_unknown_and_digits_are_not(artifact: Artifact):
    golden = Golden.read(artifact.path).images
    with edgecls.load(artifact.path, unknown=True) as model:
        strange = [model.predict(noise(seed)) for seed in range(20)]
        known = [model.predict(image[:, :, ::-1].copy()) for image in golden]
    assert all(each.unknown and each.label == "unknown" and not each.unsure for each in strange)
    assert min(each.novelty for each in strange) > 1
    assert sum(each.unknown for each in known) <= 1
    assert all(0 <= each.index < 10 for each in strange)


def test_nothing_is_unknown_unless_asked_for(artifact: Artifact):
    with edgecls.load(artifact.path) as model:
        prediction = model.predict(noise(0))
    assert not prediction.unknown
    assert prediction.novelty is None
    assert prediction.label in artifact.card.classes


def test_a_larger_share_of_false_refusals_finds_more(artifact: Artifact):
    golden = Golden.read(artifact.path).images
    novelties = []
    for share in (0.01, 0.3):
        with edgecls.load(artifact.path, unknown=True, false_refusals=share) as model:
            novelties.append([model.predict(image[:, :, ::-1].copy()).novelty for image in golden])
    assert all(wide > strict for strict, wide in zip(*novelties, strict=True) if strict > 0)


def test_answers_stay_those_of_the_plain_model(artifact: Artifact):
    images = [image[:, :, ::-1].copy() for image in Golden.read(artifact.path).images]
    with edgecls.load(artifact.path, unknown=True) as model, edgecls.load(artifact.path) as plain:
        for found, expected in zip(model.predict(images), plain.predict(images), strict=True):
            np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=2e-2)


def test_its_compiled_graph_is_taken_from_the_cache(artifact: Artifact):
    images = Golden.read(artifact.path).images
    with artifact.open(tensors=("embedding",), cached=True) as first:
        expected = first.infer_all(images[:1])
    with artifact.open(tensors=("embedding",), cached=True) as second, artifact.open(cached=True) as plain:
        for found, wanted in zip(second.infer_all(images[:1]), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-4)
        assert len(plain.infer_all(images[:1])) == 1


def test_an_older_bundle_says_what_to_do(artifact: Artifact, copy_of: Callable[[Artifact], Path]):
    path = copy_of(artifact)
    (path / REFERENCE_FILE).unlink()
    with edgecls.load(path) as model:
        assert not model.predict(noise(0)).unknown
    with pytest.raises(UsageError, match="export the run again"):
        edgecls.load(path, unknown=True)
    with pytest.raises(UsageError, match="between 0 and 1"):
        edgecls.load(artifact.path, unknown=True, false_refusals=1.5)


def test_a_pickled_model_still_tells(artifact: Artifact):
    with edgecls.load(artifact.path, unknown=True) as model, pickle.loads(pickle.dumps(model)) as again:
        assert again.predict(noise(0)).unknown


def test_predict_says_it_on_the_command_line(artifact: Artifact, cli: Callable, tmp_path: Path):
    cv2.imwrite(str(tmp_path / "noise.png"), noise(0))
    cv2.imwrite(str(tmp_path / "digit.png"), Golden.read(artifact.path).images[0][:, :, ::-1])
    printed = cli("predict", tmp_path, "--model", artifact.path, "--unknown", "--json")
    digit, strange = (json.loads(line) for line in printed.stdout.splitlines())
    for row in (digit, strange):
        assert_described("prediction", row)
    assert strange["label"] == "unknown"
    assert strange["unknown"] is True
    assert strange["nearest"] == strange["top"][0]["label"]
    assert strange["nearest"] in artifact.card.classes
    assert strange["novelty"] > 1 >= digit["novelty"]
    assert "nearest" not in digit
    assert "unknown" not in digit
    assert "unknown (nearest " in cli("predict", tmp_path / "noise.png", "--model", artifact.path, "--unknown").stdout
    plain = json.loads(cli("predict", tmp_path / "noise.png", "--model", artifact.path, "--json").stdout)
    assert plain["label"] in artifact.card.classes


def test_a_class_called_unknown_is_told_apart_by_the_flag(artifact: Artifact, copy_of: Callable[[Artifact], Path]):
    path = copy_of(artifact)
    write_card(replace(artifact.card, classes=("unknown", *artifact.card.classes[1:])), path)
    images = Golden.read(path).images
    zero = int(Golden.read(path).scores.argmax(axis=1).tolist().index(0))
    with edgecls.load(path, unknown=True, check=False) as model:
        named, strange = model.predict(images[zero][:, :, ::-1].copy()), model.predict(noise(0))
    assert (named.label, named.unknown) == ("unknown", False)
    assert (strange.label, strange.unknown) == ("unknown", True)
