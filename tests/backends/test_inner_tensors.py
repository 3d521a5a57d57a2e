"""What sessions give of the inside of a network: embeddings and feature maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgecls
from edgecls.artifact.card import Card
from edgecls.artifact.golden import Golden
from edgecls.backends.inner_tensors import find_inner_tensors, with_outputs
from edgecls.backends.onnxruntime import _create
from edgecls.errors import ArtifactError, UsageError
from edgecls.exporting.graph import float_graph
from edgecls.imaging.preprocess import Preprocess
from edgecls.models import create
from edgecls.models.weights import write_weights
from edgecls.runtime.store import Artifact
from tests.conftest import VARIANTS

BOTH = ("embedding", "feature_map")
TOLERANCE = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.2, "int8": 0.5}
"""Of embeddings between 0 and about 5."""


@pytest.fixture(params=[("torch", "fp32"), *VARIANTS], ids=lambda case: "-".join(case))
def artifact(request: pytest.FixtureRequest, trained: Artifact, bundle: Callable[[str, str], Artifact]) -> Artifact:
    target, precision = request.param
    artifact = trained if target == "torch" else bundle(target, precision)
    if reason := artifact.backend.available():
        pytest.skip(f"{target} cannot run here: {reason}")
    if not artifact.backend.gives_inner_tensors:
        pytest.skip(f"{target} gives scores alone")
    return artifact


def test_embeddings_and_feature_maps_are_those_of_the_parent(artifact: Artifact, trained: Artifact):
    images = Golden.read(artifact.path).images
    with artifact.open(tensors=BOTH) as session, trained.open(tensors=BOTH) as parent:
        scores, embedding, feature_map = session.infer_all(images)
        _, expected, expected_map = parent.infer_all(images)
    assert embedding.shape == (16, 256)
    assert {each.dtype for each in (scores, embedding, feature_map)} == {np.dtype(np.float32)}
    assert abs(embedding - expected).mean() < TOLERANCE[artifact.card.precision]
    assert feature_map.shape == expected_map.shape == (16, 256, 2, 2)


def test_scores_are_the_same_with_and_without(artifact: Artifact):
    images = Golden.read(artifact.path).images
    with artifact.open(tensors=("embedding",)) as session, artifact.open() as plain:
        np.testing.assert_allclose(session.infer_all(images)[0], plain.infer(images), atol=2e-2)
        np.testing.assert_allclose(session.infer(images[:1]), plain.infer(images[:1]), atol=2e-2)
        np.testing.assert_array_equal(session.start(images).results()[1], session.infer_all(images)[1])


def test_a_session_without_them_gives_scores_alone(artifact: Artifact):
    with artifact.open() as session:
        assert len(session.infer_all(Golden.read(artifact.path).images)) == 1


def test_a_loaded_model_embeds_images_that_look_alike_close_together(artifact: Artifact):
    first, *others = Golden.read(artifact.path).images
    with edgecls.load(artifact.path, tensors=("embedding",)) as model:
        prediction, embedding = model.embed(first[:, :, ::-1].copy())
        assert prediction.label in model.card.classes
        _, brighter = model.embed(np.clip(first[:, :, ::-1].astype(int) + 4, 0, 255).astype(np.uint8))
        distances = [np.linalg.norm(embedding - model.embed(image[:, :, ::-1].copy())[1]) for image in others]
    assert np.linalg.norm(embedding - brighter) < min(distances)


def test_a_model_without_embeddings_says_how_to_get_them(trained: Artifact, bundle: Callable[[str, str], Artifact]):
    artifact = bundle("onnx", "fp32")
    with edgecls.load(artifact.path) as model, pytest.raises(UsageError, match=r'tensors=\("embedding",\)'):
        model.embed(np.zeros((32, 32, 3), np.uint8))
    older = Artifact(artifact.path, replace(artifact.card, inner_tensors={}))
    with pytest.raises(UsageError, match="names no embedding of its simple_cnn; export the run again"):
        older.open(tensors=("embedding",))


@pytest.mark.parametrize("wrong", [{"depth": "x"}, {"embedding": 3}, {"embedding": ""}], ids=str)
def test_a_card_with_other_tensors_is_refused(trained: Artifact, wrong: dict[str, object]):
    record = {**trained.card.to_json(), "inner_tensors": wrong}
    with pytest.raises(ArtifactError, match="inner_tensors"):
        Card.from_json(record, "card.json")


@pytest.mark.parametrize(
    ("arch", "embedding", "feature_map"),
    [
        ("mobilenet_v2", (1, 1280), (1, 1280, 2, 2)),
        ("mobilenet_v3_small", (1, 1024), (1, 576, 2, 2)),
        ("resnet18", (1, 512), (1, 512, 2, 2)),
        ("squeezenet1_1", (1, 512, 3, 3), (1, 512, 3, 3)),
        ("efficientnet_b0", (1, 1280), (1, 1280, 2, 2)),
        ("shufflenet_v2_x0_5", (1, 1024), (1, 1024, 2, 2)),
        ("vgg11", (1, 4096), (1, 512, 7, 7)),
    ],
)
def test_the_inside_of_each_family_is_found(
    arch: str, embedding: tuple[int, ...], feature_map: tuple[int, ...], tmp_path: Path
):
    card = Card(arch, ("a", "b"), Preprocess(64, 64), target="torch")
    write_weights(create(arch, 2), tmp_path / "model.safetensors")
    float_graph(tmp_path / "model.safetensors", card, tmp_path / "model.onnx")
    names = find_inner_tensors(tmp_path / "model.onnx")
    session = _create(with_outputs((tmp_path / "model.onnx").read_bytes(), names.values()), threads=1)
    outputs = session.run(list(names.values()), {"image": np.zeros((1, 64, 64, 3), np.uint8)})
    assert {kind: output.shape for kind, output in zip(names, outputs, strict=True)} == {
        "embedding": embedding, "feature_map": feature_map,
    }  # fmt: skip
