"""What changed between two models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecls.artifact.card import write_card
from edgecls.errors import DataError, UsageError, VerificationError
from edgecls.exporting.compare import compare_artifacts
from edgecls.report.compare_page import write_page
from edgecls.runtime.store import Artifact


def test_int8_beside_its_run(bundle: Callable[[str, str], Artifact], trained: Artifact, tmp_path: Path):
    comparison = compare_artifacts(trained, bundle("onnx", "int8"))
    assert comparison.images == 269
    assert comparison.agreement > 0.95
    low, high = comparison.agreement_interval
    assert low < comparison.agreement <= high
    assert abs(comparison.drop_points) < 3
    assert comparison.speedup > 0
    assert len(comparison.flips) == round((1 - comparison.agreement) * 269)
    assert len(comparison.layers) == 5
    assert all(5 < decibels < 80 for _, decibels in comparison.layers)
    json.dumps(comparison.to_json())
    write_page(comparison, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "torch-fp32 → onnx-int8" in page
    assert "http" not in page  # needs nothing from elsewhere


def test_flipped_images_are_shown_with_both_answers(
    bundle: Callable[[str, str], Artifact], copy_of: Callable[[Artifact], Path], digit_images: Path, tmp_path: Path
):
    """Class names in another order, on a copy with the same file, give a model that errs on two classes."""
    good = bundle("onnx", "fp32")
    path = copy_of(good)
    swapped = ("one", "zero", *good.card.classes[2:])
    card = replace(good.card, classes=swapped)
    write_card(card, path)
    comparison = compare_artifacts(good, Artifact(path, card), digit_images)
    assert comparison.images == 40
    assert len(comparison.flips) == 8
    assert {(flip.first, flip.second) for flip in comparison.flips} == {("zero", "one"), ("one", "zero")}
    assert comparison.drop_points == pytest.approx(20)
    write_page(comparison, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 8
    with pytest.raises(VerificationError, match="agreement is 80.00%, at least 95.00% was asked for"):
        comparison.require(0.95, None)
    with pytest.raises(VerificationError, match="drops by 20.00 points, 1 are allowed"):
        comparison.require(None, 1.0)
    comparison.require(0.5, 30)


def test_images_without_labels_are_compared_by_agreement_alone(
    bundle: Callable[[str, str], Artifact], digit_images: Path, tmp_path: Path
):
    loose = tmp_path / "loose"
    loose.mkdir()
    for index, path in enumerate(sorted(digit_images.rglob("*.png"))):
        (loose / f"{index}.png").write_bytes(path.read_bytes())
    comparison = compare_artifacts(bundle("onnx", "fp32"), bundle("onnx", "int8"), loose)
    assert comparison.drop_points is None
    assert comparison.first.top1 is None
    assert comparison.agreement > 0.9
    write_page(comparison, tmp_path / "page.html")
    with pytest.raises(UsageError, match="`max_drop_points` needs labels"):
        comparison.require(None, 1.0)


def test_models_of_other_classes_cannot_be_compared(
    bundle: Callable[[str, str], Artifact], trained: Artifact, photos: Path
):
    other = replace(bundle("onnx", "fp32").card, classes=("a", *trained.card.classes[1:]))
    with pytest.raises(UsageError, match="know different classes"):
        compare_artifacts(trained, Artifact(bundle("onnx", "fp32").path, other))


def test_a_bare_bundle_needs_data(bundle: Callable[[str, str], Artifact], copy_of: Callable[[Artifact], Path]):
    artifact = Artifact(copy_of(bundle("onnx", "fp32")), bundle("onnx", "fp32").card)
    with pytest.raises(DataError, match="held-out images are not known; give a folder of images"):
        compare_artifacts(artifact, artifact)
    with pytest.raises(DataError, match="there is no folder"):
        compare_artifacts(artifact, artifact, Path("/nowhere"))


def test_a_model_agrees_with_itself(bundle: Callable[[str, str], Artifact], digit_images: Path):
    comparison = compare_artifacts(bundle("onnx", "fp32"), bundle("onnx", "fp32"), digit_images)
    assert comparison.agreement == 1
    assert np.isclose(comparison.drop_points, 0)
