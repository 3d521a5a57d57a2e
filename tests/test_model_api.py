"""Bare exported files run in OpenVINO Model API from their own `model_info`, with the same answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import edgecls
from edgecls.data.dataset import open_recorded
from edgecls.runtime.store import Artifact

model_api = pytest.importorskip("model_api.models", reason="openvino-model-api is not installed")


@pytest.mark.parametrize("target", ["onnx", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_bare_file_gives_the_same_top1(bundle: Callable[[str, str], Artifact], trained: Artifact, target, precision):
    artifact = bundle(target, precision)
    file = artifact.path / artifact.card.model_file
    dataset = open_recorded(trained.path)
    images = [dataset.read(sample) for sample in dataset.splits["test"][:80]]
    theirs = model_api.ClassificationModel.create_model(str(file))
    their_labels = [theirs(image).top_labels[0].name for image in images]
    with edgecls.load(file) as ours:
        our_labels = [prediction.label for prediction in ours.predict_many(images)]
    assert their_labels == our_labels
    assert len(set(our_labels)) > 5


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_class_order_and_names_travel_inside_the_file(bundle: Callable[[str, str], Artifact], suffix: str):
    artifact = bundle("onnx" if suffix == ".onnx" else "openvino", "fp32")
    theirs = model_api.ClassificationModel.create_model(str(Path(artifact.path / f"model{suffix}")))
    assert theirs.params.labels == list(artifact.card.classes)
