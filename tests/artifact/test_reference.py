"""What a bundle records of validation images, and what is told by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgecls.artifact.card import read_card
from edgecls.artifact.reference import REFERENCE_FILE, Reference, cross_fitted, energy, refusal_threshold
from edgecls.errors import ArtifactError, UsageError
from edgecls.runtime.store import Artifact


def blobs(count: int, away: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of three classes, embeddings of 40 numbers around three means, and labels."""
    generator = np.random.default_rng(seed)
    means = np.random.default_rng(99).normal(0, 3, (3, 40))
    labels = generator.integers(0, 3, count)
    embeddings = (means[labels] + generator.normal(0, 1, (count, 40)) + away).astype(np.float32)
    logits = (4 * np.eye(3)[labels] + generator.normal(0, 1, (count, 3))).astype(np.float32)
    return logits, embeddings, labels


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.recorded(*blobs(400))


def test_it_reads_what_was_written(reference: Reference, bundle: Callable[[str, str], Artifact], tmp_path: Path):
    card = bundle("onnx", "fp32").card
    reference.write(tmp_path)
    read = Reference.read(tmp_path, card)
    assert read is not None
    for name in Reference.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(read, name), getattr(reference, name))


def test_an_export_records_it_in_a_small_file(bundle: Callable[[str, str], Artifact]):
    artifact = bundle("onnx", "int8")
    reference = Reference.read(artifact.path, artifact.card)
    assert reference is not None
    assert reference.measure == "distance"
    assert len(reference.labels) == 269  # the digits' validation split
    assert (reference.labels == reference.predicted).mean() > 0.7
    assert (artifact.path / REFERENCE_FILE).stat().st_size < 2_000_000


def test_a_bundle_without_embeddings_records_scores(bundle: Callable[[str, str], Artifact]):
    artifact = bundle("tensorrt", "fp32")
    reference = Reference.read(artifact.path, artifact.card)
    assert reference is not None
    assert reference.measure == "energy"
    assert np.isfinite(reference.threshold())


def test_a_bundle_of_an_older_version_has_none(bundle: Callable[[str, str], Artifact], tmp_path: Path):
    assert Reference.read(tmp_path, bundle("onnx", "fp32").card) is None


def test_the_stated_share_of_images_like_its_own_is_refused(reference: Reference):
    logits, embeddings, _ = blobs(4000, seed=1)
    for share in (0.01, 0.1):
        threshold = reference.threshold(share)
        strange = [reference.strangeness(*each) > threshold for each in zip(logits, embeddings, strict=True)]
        assert share / 4 < np.mean(strange) < 2.5 * share


def test_what_lies_elsewhere_is_strange(reference: Reference):
    logits, _, _ = blobs(200, seed=2)
    generator = np.random.default_rng(3)
    elsewhere = generator.normal(0, 3, (200, 40)).astype(np.float32)
    strange = [reference.strangeness(*each) > reference.threshold() for each in zip(logits, elsewhere, strict=True)]
    assert np.mean(strange) > 0.95


def test_ranks_are_uniform_whichever_classes_occur(reference: Reference):
    logits, embeddings, labels = blobs(3000, seed=4)
    for chosen in (labels >= 0, labels == 1):
        ranks = np.array([reference.ranks(*each) for each in zip(logits[chosen], embeddings[chosen], strict=True)])
        assert abs(ranks.mean(axis=0) - 0.5).max() < 0.06
        assert abs(np.quantile(ranks, 0.9, axis=0) - 0.9).max() < 0.06


def test_ranks_show_what_has_moved(reference: Reference):
    logits, embeddings, _ = blobs(500, away=0.6, seed=5)
    ranks = np.array([reference.ranks(*each) for each in zip(logits, embeddings, strict=True)])
    assert ranks[:, 0].mean() > 0.85
    assert abs(ranks[:, 1].mean() - 0.5) < 0.06


def test_thresholds_of_few_images_are_the_largest_of_theirs():
    scores = np.arange(10, dtype=np.float32)
    assert refusal_threshold(scores, 0.01) == 9
    assert refusal_threshold(np.arange(99, dtype=np.float32), 0.01) == 98
    assert refusal_threshold(np.arange(199, dtype=np.float32), 0.01) == 197


def test_cross_fitting_never_looks_at_the_image_itself():
    logits, embeddings, labels = blobs(60)
    seen = cross_fitted(logits, embeddings, labels, lambda fitted, _, inner: fitted.distance(inner))
    own = Reference.of(logits, embeddings, labels).distance(embeddings)
    assert np.median(seen) > 1.5 * np.median(own)


def test_energy_is_that_of_the_formula():
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(energy(logits), [-np.log(np.exp([1.0, 2.0, 3.0]).sum()), -1000.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {**a, "labels": a["labels"].astype(np.int64)}, "labels are int64"),
        (lambda a: {**a, "points": a["points"][:-1]}, "points are float32"),
        (lambda a: {**a, "center": np.full_like(a["center"], np.nan)}, "center are not all finite"),
        (lambda a: {**a, "predicted": a["predicted"] + 50}, "not of the card's 10 classes"),
        (lambda a: {**a, "labels": a["labels"][:0]}, "of no images"),
        (lambda a: {**a, "basis": np.zeros((4, 300), np.float32)}, "components are"),
        (lambda a: {name: value for name, value in a.items() if name != "basis"}, "no whole archive"),
        (lambda a: {**a, "labels": np.array([object()])}, "no whole archive"),
    ],
)
def test_a_damaged_one_is_refused(
    bundle: Callable[[str, str], Artifact], copy_of: Callable[[Artifact], Path], change: Callable, message: str
):
    path = copy_of(bundle("onnx", "fp32"))
    with np.load(path / REFERENCE_FILE) as arrays:
        np.savez(path / REFERENCE_FILE, **change(dict(arrays)))
    with pytest.raises(ArtifactError, match=message):
        Reference.read(path, read_card(path))


def test_no_archive_at_all_is_refused(bundle: Callable[[str, str], Artifact], tmp_path: Path):
    (tmp_path / REFERENCE_FILE).write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ArtifactError, match="export again"):
        Reference.read(tmp_path, bundle("onnx", "fp32").card)


def test_a_record_of_the_first_kind_is_none(bundle: Callable[[str, str], Artifact], copy_of: Callable):
    path = copy_of(bundle("onnx", "fp32"))
    with np.load(path / REFERENCE_FILE) as arrays:
        older = {name: value for name, value in arrays.items() if name != "measures"}
    np.savez(path / REFERENCE_FILE, **older, relatives=older["distances"])
    assert Reference.read(path, read_card(path)) is None


@pytest.mark.parametrize("turned", [0, 1, 2, 3])
def test_each_measure_alone_makes_an_image_stranger(reference: Reference, turned: int):
    logits, embeddings, _ = blobs(50, seed=6)
    measures = reference.measured(logits, embeddings)
    more = measures.copy()
    more[:, turned] += 3 * np.ptp(reference.measures[:, turned])
    assert (reference.together(more) > reference.together(measures) + 0.5).all()


def test_the_nearest_direction_is_that_of_a_naive_search(reference: Reference):
    logits, embeddings, _ = blobs(20, seed=7)
    points, asked = reference.points, reference.project(embeddings)
    naive = [
        min(np.linalg.norm(each / np.linalg.norm(each) - one / np.linalg.norm(one)) for one in points) for each in asked
    ]
    np.testing.assert_allclose(reference.measured(logits, embeddings)[:, 0], naive, atol=1e-3)


def test_scores_alone_are_not_compared_with_embeddings(reference: Reference):
    with pytest.raises(UsageError, match="scores alone"):
        reference.strangeness(np.zeros(3, np.float32), None)
