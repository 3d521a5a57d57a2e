"""Which images int8 ranges are read from, and which sets are refused."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgecls.data.dataset import open_recorded
from edgecls.errors import DataError
from edgecls.imaging.opencv import cv2
from edgecls.quantization import calibration
from edgecls.runtime import store
from edgecls.runtime.store import Artifact


def test_a_run_gives_training_images_balanced_over_the_classes(trained: Artifact):
    chosen = calibration.choose(trained, 50)
    assert set(Counter(chosen.classes).values()) == {5}
    assert set(Counter(chosen.classes[:20]).values()) == {2}  # any first part is balanced too
    dataset = open_recorded(trained.path)
    assert set(chosen.keys) <= {sample.key for sample in dataset.splits["train"]}
    held_out = {sample.key for split in ("val", "test") for sample in dataset.splits[split]}
    assert not set(chosen.keys) & held_out
    findings = calibration.check(chosen, trained)
    assert findings.images == 50
    assert findings.compared_with_held_out
    assert findings.shift < 1


def test_the_choice_follows_the_seed(trained: Artifact):
    first, again, other = (calibration.choose(trained, 50, seed=seed).keys for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_manifest_brings_the_same_images_back(trained: Artifact, digit_images: Path, tmp_path: Path):
    chosen = calibration.choose(trained, 40, digit_images)
    provenance = chosen.write(tmp_path / "manifest.json")
    again = calibration.choose(trained, 40, tmp_path / "manifest.json")
    assert (again.keys, again.classes) == (chosen.keys, chosen.classes)
    assert again.write(tmp_path / "again.json") == provenance
    record = json.loads((tmp_path / "manifest.json").read_text())
    assert not any(Path(image["path"]).is_absolute() for image in record["images"])


def test_images_are_read_one_after_the_other(trained: Artifact, monkeypatch: pytest.MonkeyPatch):
    """Nothing but a few images per thread is ever held."""
    chosen = calibration.choose(trained, 200)
    read: list[str] = []
    original = type(chosen.source).read

    def counting(self, key: str) -> np.ndarray:
        read.append(key)
        return original(self, key)

    monkeypatch.setattr(type(chosen.source), "read", counting)
    images = iter(chosen.images(trained.card.preprocess))
    next(images)
    assert len(read) < 50


class TestRefusals:
    def test_too_few(self, trained: Artifact, digit_images: Path):
        for folder in sorted(digit_images.iterdir())[3:]:
            shutil.rmtree(folder)
        with pytest.raises(DataError, match="gives 12 calibration images; at least 16 are needed"):
            calibration.check(calibration.choose(trained, 100, digit_images), trained)

    def test_one_class_only(self, trained: Artifact):
        chosen = calibration.choose(trained, 1000)
        kept = [(key, name) for key, name in zip(chosen.keys, chosen.classes, strict=True) if name == "three"]
        alone = calibration.Calibration(chosen.source, tuple(k for k, _ in kept), tuple(n for _, n in kept), 0)
        with pytest.raises(DataError, match="calibration images are of class three; give images of every class"):
            calibration.check(alone, trained)

    def test_held_out_images(self, trained: Artifact):
        dataset = open_recorded(trained.path)
        keys = tuple(sample.key for sample in dataset.splits["test"][:40])
        leaking = calibration.Calibration(dataset.source, keys, (None,) * 40, 0)
        with pytest.raises(DataError, match="40 calibration images are among the images that the run is judged by"):
            calibration.check(leaking, trained)

    @pytest.mark.parametrize("change", ["inverted", "black"])
    def test_images_that_look_very_different(self, trained: Artifact, digit_images: Path, change: str):
        for path in digit_images.rglob("*.png"):
            image = cv2.imread(str(path))
            cv2.imwrite(str(path), 255 - image if change == "inverted" else image * 0 + 3)
        with pytest.raises(DataError, match="do not look like the run's: mean (red|green|blue|contrast) is"):
            calibration.check(calibration.choose(trained, 100, digit_images), trained)

    def test_an_image_that_changed_since_the_manifest_was_made(
        self, trained: Artifact, digit_images: Path, tmp_path: Path
    ):
        calibration.choose(trained, 40, digit_images).write(tmp_path / "manifest.json")
        victim = next(digit_images.rglob("*.png"))
        cv2.imwrite(str(victim), np.zeros((8, 8, 3), np.uint8))
        with pytest.raises(DataError, match=r"is not the image that .*manifest.json lists"):
            calibration.choose(trained, 40, tmp_path / "manifest.json")
        victim.unlink()
        with pytest.raises(DataError, match="cannot be read"):
            calibration.choose(trained, 40, tmp_path / "manifest.json")

    def test_what_is_no_manifest(self, trained: Artifact, tmp_path: Path):
        with pytest.raises(DataError, match="no calibration folder or manifest"):
            calibration.choose(trained, 40, tmp_path / "none.json")
        for text in ("{", "[]", '{"location": "digits"}', '{"location": "digits", "seed": 0, "images": [1]}'):
            (tmp_path / "bad.json").write_text(text)
            with pytest.raises(DataError, match=r"is no calibration manifest .*edgecls calibrate make"):
                calibration.choose(trained, 40, tmp_path / "bad.json")


@pytest.mark.parametrize("as_manifest", [False, True], ids=["folder", "manifest"])
def test_without_held_out_images_half_of_what_is_given_is_spared_for_the_comparison(
    trained: Artifact, copy_of: Callable[[Artifact], Path], digit_images: Path, tmp_path: Path, as_manifest: bool
):
    path = copy_of(trained)
    (path / "data.json").unlink()
    run, given = store.find(path), digit_images
    if as_manifest:
        given = tmp_path / "manifest.json"
        calibration.choose(run, 100, digit_images).write(given)
    chosen = calibration.choose(run, 100, given, sparing=True)
    assert (len(chosen.keys), len(chosen.spare)) == (20, 20)
    assert not set(chosen.keys) & set(chosen.spare)
    assert len(calibration.choose(run, 100, given).keys) == 40
    assert len(calibration.choose(trained, 100, given, sparing=True).keys) == 40
