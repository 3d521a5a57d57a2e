from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from edgecls.data.dataset import balanced, open_dataset, open_for_classes, open_recorded
from edgecls.data.splits import Sample
from edgecls.errors import DataError
from edgecls.training.folds import folds_of


def keys(dataset, split: str) -> set[str]:
    return {sample.key for sample in dataset.splits[split]}


def test_a_folder_per_class_is_split_stratified(photos: Path):
    dataset = open_dataset(str(photos), seed=0)
    assert dataset.classes == ("bright", "dark")
    assert {name: len(samples) for name, samples in dataset.splits.items()} == {"train": 16, "val": 4, "test": 4}
    assert Counter(sample.label for sample in dataset.splits["test"]) == {0: 2, 1: 2}


def test_the_split_is_disjoint_whole_and_repeats_with_its_seed(photos: Path):
    first, again, other = (open_dataset(str(photos), seed) for seed in (3, 3, 4))
    assert first.splits == again.splits
    assert first.splits != other.splits
    assert len(keys(first, "train") | keys(first, "val") | keys(first, "test")) == 24


def grouped(photos: Path) -> Path:
    """A manifest without splits in which three images each are of one group."""
    rows = ["path,label,group"]
    for name in ("dark", "bright"):
        rows += [f"{name}/{index:02d}.jpg,{name},{name} {index // 3}" for index in range(12)]
    (photos / "listed.csv").write_text("\n".join(rows))
    return photos / "listed.csv"


@pytest.mark.parametrize("seed", range(5))
def test_images_of_one_group_are_drawn_into_one_split(photos: Path, seed: int):
    dataset = open_dataset(str(grouped(photos)), seed)
    groups = {name: {dataset.columns[s.key]["group"] for s in samples} for name, samples in dataset.splits.items()}
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 8
    for samples in dataset.splits.values():
        assert {sample.label for sample in samples} == {0, 1}
    halves = open_for_classes(str(grouped(photos)), ("bright", "dark"), seed).splits
    parts = [{dataset.columns[s.key]["group"] for s in halves[name]} for name in ("train", "test")]
    assert not parts[0] & parts[1]
    assert [len(halves[name]) for name in ("train", "test")] == [12, 12]


def test_too_few_groups_to_draw_from_are_said(photos: Path):
    manifest = grouped(photos)
    manifest.write_text(manifest.read_text().replace(" 1", " 0").replace(" 2", " 0").replace(" 3", " 0"))
    with pytest.raises(DataError, match="groups are too few for 3 splits"):
        open_dataset(str(manifest), 0)


@pytest.mark.parametrize("val_name", ["val", "valid", "validation"])
def test_given_splits_are_honoured_and_missing_ones_drawn_from_train(photos: Path, val_name: str):
    for split, start in (("train", 0), (val_name, 9)):
        for name in ("dark", "bright"):
            (photos / split / name).mkdir(parents=True)
            for index in range(start, 9 if split == "train" else 12):
                shutil.move(photos / name / f"{index:02d}.jpg", photos / split / name)
    for name in ("dark", "bright"):
        (photos / name).rmdir()
    dataset = open_dataset(str(photos), seed=0)
    assert keys(dataset, "val") == {f"{val_name}/{c}/{i:02d}.jpg" for c in ("dark", "bright") for i in (9, 10, 11)}
    assert {name: len(samples) for name, samples in dataset.splits.items()} == {"train": 16, "val": 6, "test": 2}
    assert all(key.startswith("train/") for key in keys(dataset, "test"))


def test_unreadable_images_are_skipped_named_and_counted(photos: Path):
    (photos / "dark" / "broken.jpg").write_text("no image")
    cut = (photos / "dark" / "00.jpg").read_bytes()
    (photos / "dark" / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    dataset = open_dataset(str(photos), seed=0)
    assert set(dataset.skipped) == {"dark/broken.jpg", "dark/cut.jpg"}
    assert "truncated" in dataset.skipped["dark/cut.jpg"]
    assert sum(map(len, dataset.splits.values())) == 24


def test_a_recorded_data_set_opens_with_the_same_splits(photos: Path, tmp_path: Path):
    dataset = open_dataset(str(photos), seed=5)
    dataset.write(tmp_path)
    assert open_recorded(tmp_path).splits == dataset.splits
    shutil.rmtree(photos)
    with pytest.raises(DataError, match="no longer at"):
        open_recorded(tmp_path)


def test_the_columns_of_a_manifest_are_recorded_and_older_records_have_none(photos: Path, tmp_path: Path):
    rows = [f"{path.relative_to(photos)},{path.parent.name},{path.stem}" for path in sorted(photos.rglob("*.jpg"))]
    (photos / "data.csv").write_text("\n".join(["path,label,group", *rows]))
    dataset = open_dataset(str(photos), seed=0)
    dataset.write(tmp_path)
    assert open_recorded(tmp_path).columns == dataset.columns
    assert open_recorded(tmp_path).columns["dark/03.jpg"] == {"group": "03"}
    folds, expected = (folds_of(each, 3) for each in (open_recorded(tmp_path), dataset))
    assert [fold.splits for fold in folds] == [fold.splits for fold in expected]
    record = json.loads((tmp_path / "data.json").read_text())
    del record["columns"]
    (tmp_path / "data.json").write_text(json.dumps(record))
    assert open_recorded(tmp_path).columns == {}
    assert open_recorded(tmp_path).splits == dataset.splits


def test_file_names_that_are_no_utf8_are_recorded(photos: Path, tmp_path: Path):
    odd = os.fsdecode(b"\xff.jpg")
    shutil.copy(photos / "dark" / "00.jpg", photos / "dark" / odd)
    open_dataset(str(photos), seed=0).write(tmp_path)
    samples = [sample for split in open_recorded(tmp_path).splits.values() for sample in split]
    assert f"dark/{odd}" in {sample.key for sample in samples}


def test_the_embedded_digits_need_no_folder():
    dataset = open_dataset(None, seed=0)
    assert sum(map(len, dataset.splits.values())) == 1797
    assert len(dataset.splits["test"]) == 269
    image = dataset.read(dataset.splits["test"][0])
    assert image.shape == (64, 64, 3)
    assert image.max() > 200


def test_calibration_draws_are_balanced_and_seeded():
    samples = [Sample(str(index), int(index >= 90)) for index in range(100)]
    drawn = balanced(samples, 20, seed=0)
    assert Counter(sample.label for sample in drawn) == {0: 10, 1: 10}
    assert drawn == balanced(samples, 20, seed=0)
    assert len(balanced(samples, 1000, seed=0)) == 100


class TestRefusals:
    def test_a_missing_folder(self):
        with pytest.raises(DataError, match="there is no folder /nowhere"):
            open_dataset("/nowhere", 0)

    def test_a_file(self, photos: Path):
        with pytest.raises(DataError, match="is a file"):
            open_dataset(str(photos / "dark" / "00.jpg"), 0)

    def test_an_empty_folder(self, tmp_path: Path):
        with pytest.raises(DataError, match="no usable training images"):
            open_dataset(str(tmp_path), 0)

    def test_loose_images(self, photos: Path):
        with pytest.raises(DataError, match="12 images lie loose"):
            open_dataset(str(photos / "dark"), 0)

    def test_one_class_only(self, photos: Path):
        shutil.rmtree(photos / "bright")
        with pytest.raises(DataError, match=r"one class only \(dark\)"):
            open_dataset(str(photos), 0)

    def test_a_class_without_images(self, photos: Path):
        (photos / "empty").mkdir()
        with pytest.raises(DataError, match="class empty"):
            open_dataset(str(photos), 0)

    def test_too_few_images_to_split(self, photos: Path):
        for index in range(10):
            (photos / "dark" / f"{index:02d}.jpg").unlink()
        with pytest.raises(DataError, match="class dark has 2 usable images; 3 are needed"):
            open_dataset(str(photos), 0)

    def test_a_class_that_only_validation_has(self, photos: Path):
        (photos / "train").mkdir()
        for name in ("dark", "bright"):
            shutil.move(photos / name, photos / "train" / name)
        shutil.copytree(photos / "train" / "dark", photos / "val" / "grey")
        with pytest.raises(DataError, match="grey is a class that"):
            open_dataset(str(photos), 0)

    def test_two_validation_folders(self, photos: Path):
        for name in ("train", "val", "valid"):
            (photos / name).mkdir()
        with pytest.raises(DataError, match=r"both val/ and valid/"):
            open_dataset(str(photos), 0)

    def test_all_images_unreadable(self, tmp_path: Path):
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "x.jpg").write_text("no")
        with pytest.raises(DataError, match="2 could not be read"):
            open_dataset(str(tmp_path), 0)
