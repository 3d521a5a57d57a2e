"""Embeddings of image files: computed once for a model and the images' content."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgecls import cache
from edgecls.data.sources import FolderSource
from edgecls.data.splits import Sample
from edgecls.evaluation.embeddings import embeddings_of, embeddings_on
from edgecls.evaluation.inference import prepared
from edgecls.runtime import store
from edgecls.runtime.pipeline import outputs_of
from edgecls.runtime.store import Artifact


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))


def samples_in(folder: Path) -> list[Sample]:
    return [Sample(str(path.relative_to(folder)), 0) for path in sorted(folder.rglob("*.png"))]


def test_they_are_what_the_session_gives_and_only_new_images_are_computed(
    bundle: Callable[[str, str], Artifact], digit_images: Path, tmp_path: Path
):
    artifact, source, samples = bundle("onnx", "fp32"), FolderSource(digit_images), samples_in(digit_images)
    heard: list[int] = []
    first = embeddings_on(artifact.path, source, samples[:30], heard.append)
    with artifact.open(tensors=("embedding",)) as session:
        assert np.allclose(first, outputs_of(session, prepared(source, samples[:30], artifact.card.preprocess))[1])
    assert heard == [30]
    both = embeddings_on(artifact.path, source, samples, heard.append)
    assert heard == [30, 40]
    assert (both[:30] == first).all()
    moved = shutil.copytree(digit_images, tmp_path / "moved")
    assert (embeddings_on(artifact.path, FolderSource(moved), samples, heard.append) == both).all()
    assert heard == [30, 40]


def test_a_file_with_other_content_is_another_image(bundle: Callable[[str, str], Artifact], digit_images: Path):
    artifact, source, samples = bundle("onnx", "fp32"), FolderSource(digit_images), samples_in(digit_images)
    before = embeddings_of(artifact, source, samples)
    shutil.copy(digit_images / samples[0].key, digit_images / samples[39].key)
    after = embeddings_of(artifact, source, samples)
    assert (after[39] == before[0]).all()
    assert (after[39] != before[39]).any()


def test_bare_model_files_do_not_share_theirs(bundle: Callable[[str, str], Artifact], digit_images: Path):
    source, samples = FolderSource(digit_images), samples_in(digit_images)
    heard: list[int] = []
    for precision in ("fp32", "int8"):
        made = bundle("onnx", precision)
        embeddings_of(store.find(made.path / made.card.model_file), source, samples, heard.append)
    assert heard == [32, 40, 32, 40]
