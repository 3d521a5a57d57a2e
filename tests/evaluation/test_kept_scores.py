"""A run is asked about an image once; what it said is kept, and never believed where anything has changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecls.data.sources import FolderSource
from edgecls.errors import ArtifactError, ImageError
from edgecls.evaluation import inference, kept_scores
from edgecls.evaluation.inference import PreparedImages
from edgecls.imaging.decode import find_images
from edgecls.imaging.opencv import cv2
from edgecls.runtime import store
from edgecls.runtime.store import Artifact


@pytest.fixture
def run(trained: Artifact, copy_of: Callable[[Artifact], Path]) -> Artifact:
    path = copy_of(trained)
    shutil.rmtree(path / "cache", ignore_errors=True)
    return store.find(path)


@pytest.fixture
def source(digit_images: Path) -> FolderSource:
    return FolderSource(digit_images)


@pytest.fixture
def keys(source: FolderSource) -> list[str]:
    return [str(path.relative_to(source.root)) for path in find_images(source.root)]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the run was asked about, each time that it was."""
    counts: list[int] = []
    original = kept_scores.scores_of

    def counted(session, images):
        images = list(images)
        counts.append(len(images))
        return original(session, images)

    monkeypatch.setattr(kept_scores, "scores_of", counted)
    return counts


def run_scores(run: Artifact, source: FolderSource, keys: list[str]) -> np.ndarray:
    return inference.run_scores(run, PreparedImages(source, keys, run.card.preprocess), len(keys))


def the_file(run: Artifact) -> Path:
    [file] = (run.path / "cache").glob("*.npz")
    return file


def test_the_same_images_are_asked_about_once_and_others_on_top(
    run: Artifact, source: FolderSource, keys: list[str], asked: list[int]
):
    few = run_scores(run, source, keys[:10])
    everything = run_scores(run, source, keys)
    assert asked == [10, 30]
    np.testing.assert_array_equal(everything[:10], few)
    np.testing.assert_array_equal(run_scores(run, source, keys[::-1]), everything[::-1])
    assert run_scores(run, source, []).shape == (0, 10)
    assert asked == [10, 30]


def test_an_image_that_was_changed_is_asked_about_anew(
    run: Artifact, source: FolderSource, keys: list[str], asked: list[int]
):
    before = run_scores(run, source, keys)
    cv2.imwrite(str(source.root / keys[3]), 255 - source.read(keys[3]))
    after = run_scores(run, source, keys)
    assert asked == [40, 1]
    assert [index for index in range(40) if (before[index] != after[index]).any()] == [3]


@pytest.mark.parametrize("damage", ["flipped bit", "cut", "empty", "another run's", "of other classes"])
def test_a_file_that_is_not_whole_or_not_its_own_is_computed_anew(
    run: Artifact, source: FolderSource, keys: list[str], asked: list[int], damage: str
):
    scores = run_scores(run, source, keys)
    file = the_file(run)
    content = bytearray(file.read_bytes())
    with np.load(file) as arrays:
        kept = dict(arrays)
    if damage == "flipped bit":
        position = content.index(kept["scores"].tobytes()[:64])
        content[position + 3] ^= 4
        file.write_bytes(content)
    elif damage == "another run's":
        file.write_bytes(content)
        other = file.with_name(f"scores-{'0' * 32}.npz")
        file.rename(other)
        with np.load(other) as arrays:
            np.savez(file, **{**arrays, "scores": arrays["scores"] + 1})
    elif damage == "of other classes":
        np.savez(file, **{**kept, "scores": kept["scores"][:, :5]})
    else:
        file.write_bytes(content[:200] if damage == "cut" else b"")
    np.testing.assert_array_equal(run_scores(run, source, keys), scores)
    assert asked == [40, 40]
    assert len(list(file.parent.iterdir())) == 1
    run_scores(run, source, keys)
    assert asked == [40, 40]


def test_other_preprocessing_and_other_versions_are_asked_about_anew(
    run: Artifact, source: FolderSource, keys: list[str], asked: list[int], monkeypatch: pytest.MonkeyPatch
):
    run_scores(run, source, keys)
    preprocess = replace(run.card.preprocess, mean=(0.1, 0.1, 0.1))
    run_scores(Artifact(run.path, replace(run.card, preprocess=preprocess)), source, keys)
    monkeypatch.setattr(kept_scores.machine, "versions", lambda packages: dict.fromkeys(packages, "99"))
    run_scores(run, source, keys)
    assert asked == [40, 40, 40]


@pytest.mark.parametrize("package", ["timm", "pillow", "pillow_heif"])
def test_another_version_of_what_networks_and_pictures_come_from_is_asked_anew(
    run: Artifact,
    source: FolderSource,
    keys: list[str],
    asked: list[int],
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    run_scores(run, source, keys)
    (tmp_path / f"{package}-999.dist-info").mkdir()
    (tmp_path / f"{package}-999.dist-info" / "METADATA").write_text(f"Name: {package}\nVersion: 999\n")
    monkeypatch.syspath_prepend(tmp_path)
    run_scores(run, source, keys)
    assert asked == [40, 40]


def test_weights_that_were_changed_are_an_error_as_on_opening_the_run(
    run: Artifact, source: FolderSource, keys: list[str]
):
    run_scores(run, source, keys)
    with (run.path / run.card.model_file).open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError):
        run_scores(run, source, keys)


def test_an_image_that_is_gone_is_named(run: Artifact, source: FolderSource, keys: list[str]):
    with pytest.raises(ImageError, match="nowhere"):
        run_scores(run, source, [*keys, "nowhere.png"])


def test_where_the_run_cannot_be_written_to_nothing_is_kept(run: Artifact, source: FolderSource, keys: list[str]):
    (run.path / "cache").write_text("in the way")
    assert len(run_scores(run, source, keys)) == 40


def test_no_more_is_kept_than_the_limit_allows(
    run: Artifact, source: FolderSource, keys: list[str], asked: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kept_scores, "MAX_BYTES", 20 * 10 * 4)
    run_scores(run, source, keys)
    assert not (run.path / "cache").exists()
    run_scores(run, source, keys[:20])
    run_scores(run, source, keys[20:])
    run_scores(run, source, keys[20:])
    assert asked == [40, 20, 20]


def test_a_run_whose_scores_are_kept_is_evaluated_without_torch(run: Artifact):
    program = (
        "import sys, edgecls\n"
        f"report = edgecls.evaluate(edgecls.EvaluateConfig(model={str(run.path)!r}))\n"
        "print(report.figures.metrics.top1, 'torch' in sys.modules)\n"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    )
    assert first == [second[0], "True"]
    assert second[1] == "False"
