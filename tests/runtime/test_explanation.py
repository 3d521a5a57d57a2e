"""What a network looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgecls.artifact.card import HEAD_FILE, Card
from edgecls.artifact.golden import Golden
from edgecls.errors import UsageError
from edgecls.exporting.bundle import export
from edgecls.exporting.config import ExportConfig
from edgecls.exporting.graph import float_graph
from edgecls.exporting.head import write_head
from edgecls.imaging.opencv import cv2
from edgecls.imaging.preprocess import Preprocess
from edgecls.models import create
from edgecls.models.gradients import GradientExplainer
from edgecls.models.weights import write_weights
from edgecls.runtime.explanation import Explainer, open_explainer
from edgecls.runtime.scores import softmax
from edgecls.runtime.store import Artifact

METHODS = ("class activation map", "occlusion", "HiResCAM")


@pytest.fixture(scope="module")
def explainable(trained: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("explainable") / "bundle"
    return export(ExportConfig(run=trained.path, target="onnx", explain=True, out=out))


@pytest.fixture(params=METHODS)
def explainer(
    request: pytest.FixtureRequest,
    trained: Artifact,
    explainable: Artifact,
    bundle: Callable[[str, str], Artifact],
) -> Iterator[Explainer]:
    made = {
        "class activation map": lambda: open_explainer(explainable),
        "occlusion": lambda: open_explainer(bundle("onnx", "fp32")),
        "HiResCAM": lambda: GradientExplainer(trained),
    }
    with made[request.param]() as explainer:
        assert explainer.name == request.param
        yield explainer


def pictures(artifact: Artifact) -> list[np.ndarray]:
    return [image[:, :, ::-1].copy() for image in Golden.read(artifact.path).images]


def test_heat_is_from_0_to_1_at_each_pixel_that_the_network_sees(explainer: Explainer, trained: Artifact):
    image = cv2.resize(pictures(trained)[0], (48, 32))  # wider than the network's input
    explanation = explainer.explain(image)
    assert explanation.label == explanation.prediction.label
    assert explanation.heat.shape == (32, 48)
    assert np.isnan(explanation.heat[:, :8]).all()
    assert np.isnan(explanation.heat[:, 40:]).all()
    seen = explanation.heat[:, 8:40]
    assert seen.min() == pytest.approx(0, abs=0.05)
    assert seen.max() == pytest.approx(1, abs=0.05)


def test_what_was_not_seen_is_darkened_in_the_picture(explainer: Explainer):
    image = np.full((32, 48, 3), 200, np.uint8)
    over = explainer.explain(image).over(image)
    assert over.shape == image.shape
    assert (over[:, :8] == 66).all()
    assert (over[:, 8:40].max(axis=2) > 66).all()


def test_covering_what_speaks_for_the_class_costs_more_than_covering_what_does_not(
    explainer: Explainer, trained: Artifact
):
    """Deletion (Petsiuk et al. 2018), with a quarter of each image covered."""
    session = explainer.classifier.session
    kept = []
    for pixels in Golden.read(trained.path).images:
        index = int(session.infer(pixels[None]).argmax())
        heat = cv2.resize(explainer.places(pixels, index), (8, 8), interpolation=cv2.INTER_CUBIC)
        order = np.argsort(-heat.ravel())
        covered = np.stack([covering(pixels, places) for places in (order[:16], order[-16:])])
        kept.append(softmax(session.infer(covered))[:, index])
    most, least = np.mean(kept, axis=0)
    assert most < least - 0.05


def covering(pixels: np.ndarray, places: np.ndarray) -> np.ndarray:
    covered, blurred = pixels.copy(), cv2.GaussianBlur(pixels, (0, 0), 4)
    for place in places:
        rows, columns = (slice(4 * each, 4 * each + 4) for each in divmod(int(place), 8))
        covered[rows, columns] = blurred[rows, columns]
    return covered


def test_another_class_is_explained_by_other_places(explainer: Explainer, trained: Artifact):
    image = pictures(trained)[0]
    best = explainer.explain(image)
    other = next(name for name in trained.card.classes if name != best.label)
    assert explainer.explain(image, other).label == other
    assert abs(explainer.explain(image, other).heat - best.heat).max() > 0.2


def test_a_class_that_the_model_does_not_have_is_refused(explainer: Explainer, trained: Artifact):
    with pytest.raises(UsageError, match="no class 'cat'; it has zero, one"):
        explainer.explain(pictures(trained)[0], "cat")


def test_class_activation_maps_of_a_bundle_are_those_of_gradients_where_a_linear_layer_is_last(
    explainable: Artifact, trained: Artifact
):
    with open_explainer(explainable) as ours, GradientExplainer(trained) as gradients:
        for pixels in Golden.read(trained.path).images[:4]:
            places, expected = ours.places(pixels, 3), gradients.places(pixels, 3)
            assert np.corrcoef(places.ravel(), expected.ravel())[0, 1] > 0.999


def test_a_bundle_with_its_last_layers_classifies_as_one_without(explainable: Artifact, trained: Artifact):
    assert HEAD_FILE in explainable.card.lineage.files
    assert (explainable.path / HEAD_FILE).is_file()
    golden = Golden.read(trained.path)
    with explainable.open() as session:
        assert abs(session.infer(golden.images) - golden.scores).max() < 1e-3


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "squeezenet1_1", "efficientnet_b0"])
def test_the_last_layers_of_other_families_take_single_places(arch: str, tmp_path: Path):
    write_head(graph_of(arch, tmp_path), tmp_path / "head.onnx")
    assert (tmp_path / "head.onnx").is_file()


def test_last_layers_that_take_maps_of_one_size_are_refused_with_what_to_do(tmp_path: Path):
    with pytest.raises(UsageError, match="feature maps of one size alone; leave it out"):
        write_head(graph_of("vgg11", tmp_path), tmp_path / "head.onnx")
    assert not (tmp_path / "head.onnx").exists()


def graph_of(arch: str, folder: Path) -> Path:
    write_weights(create(arch, 2), folder / "model.safetensors")
    card = Card(arch, ("a", "b"), Preprocess(64, 64), target="torch")
    float_graph(folder / "model.safetensors", card, folder / "model.onnx")
    return folder / "model.onnx"
