"""Cross-validation: folds that are fair, figures that are kept, and what happens when it is interrupted."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import Result

from edgecls.data.dataset import Dataset, open_dataset
from edgecls.errors import ArtifactError, DataError, UsageError
from edgecls.evaluation.cross_validation import cross_validation_of
from edgecls.training.checkpoint import CHECKPOINT_FILE, FOLDS_FILE
from edgecls.training.config import TrainConfig
from edgecls.training.folds import folds_of
from edgecls.training.history import TrainingCallbacks
from edgecls.training.loop import resume, train

QUICK = {"arch": "simple_cnn", "epochs": 1, "size_px": 32, "batch_size": 8, "weights": "none", "folds": 3}
OPTIONS = ("--arch", "simple_cnn", "--epochs", 1, "--size", 32, "--weights", "none", "--batch-size", 8)


@pytest.fixture
def grouped(photos: Path) -> Path:
    """A manifest in which pairs of images of a class are of one group."""
    rows = [(f"{name}/{n:02d}.jpg", name, f"{name}{n // 2}") for name in ("dark", "bright") for n in range(12)]
    with (photos / "m.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label", "group"), *rows])
    return photos / "m.csv"


def keys(dataset: Dataset, *splits: str) -> list[str]:
    return sorted(sample.key for split in splits for sample in dataset.splits[split])


class TestFolds:
    def test_each_image_is_judged_once_and_the_test_split_takes_no_part(self, photos: Path):
        dataset = open_dataset(str(photos), 0)
        folds = folds_of(dataset, 5)
        assert sorted(key for fold in folds for key in keys(fold, "test")) == keys(dataset, "train", "val")
        for fold in folds:
            assert keys(fold, "train", "val", "test") == keys(dataset, "train", "val")
            assert Counter(sample.label for sample in fold.splits["test"]) == {0: 2, 1: 2}
            assert {sample.label for sample in fold.splits["val"]} == {0, 1}
        assert [keys(fold, "test") for fold in folds_of(dataset, 5)] == [keys(fold, "test") for fold in folds]

    def test_sizes_differ_by_one_at_most(self):
        sizes = [len(fold.splits["test"]) for fold in folds_of(open_dataset(None, 0), 7)]
        assert max(sizes) - min(sizes) <= 1

    def test_groups_stay_together(self, grouped: Path):
        dataset = open_dataset(str(grouped), 0)
        for fold in folds_of(dataset, 3):
            of = {split: {dataset.columns[key]["group"] for key in keys(fold, split)} for split in fold.splits}
            assert sum(map(len, of.values())) == len(set().union(*of.values()))
            assert {sample.label for sample in fold.splits["test"]} == {0, 1}

    def test_more_folds_than_the_smallest_class_has_images_or_groups(self, photos: Path, grouped: Path):
        with pytest.raises(UsageError, match="`folds` 11: class bright has 10 images .* at least 11 are needed"):
            folds_of(open_dataset(str(photos), 0), 11)
        with pytest.raises(UsageError, match="`folds` 7: class .* has . groups"):
            folds_of(open_dataset(str(grouped), 0), 7)


class Stops(TrainingCallbacks):
    """Ends the training when the model of this fold begins, or, for None, when the run's own epoch is over."""

    def __init__(self, fold: int | None):
        self.at, self.begun, self.remarks, self.stopped_in = fold, [], [], None

    def fold(self, number: int, folds: int, epochs: int, batches: int) -> None:
        self.begun.append((number, folds, epochs, batches))
        if number == self.at:
            raise KeyboardInterrupt

    def remark(self, line: str) -> None:
        self.remarks.append(line)

    def epoch(self, epoch) -> None:
        if self.at is None:
            raise KeyboardInterrupt

    def stopped(self, path: Path) -> None:
        self.stopped_in = path


class TestTraining:
    def test_the_run_is_the_one_without_and_its_record_has_each_fold(self, photos: Path, tmp_path: Path):
        plain, _ = train(TrainConfig(data=str(photos), **{**QUICK, "folds": None}, out=tmp_path / "plain"))
        callbacks = Stops(99)
        run, metrics = train(TrainConfig(data=str(photos), **QUICK, out=tmp_path / "run"), callbacks)
        assert [begun[:3] for begun in callbacks.begun] == [(1, 3, 1), (2, 3, 1), (3, 3, 1)]
        ours, theirs = load_file(run / "model.safetensors"), load_file(plain / "model.safetensors")
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert metrics.images == 4
        record = json.loads((run / "evaluation.json").read_text())["cross_validation"]
        assert [fold["images"] for fold in record["folds"]] == [7, 7, 6]
        assert set(record["recall"]) == {"bright", "dark"}
        tops = [fold["top1"] for fold in record["folds"]]
        assert record["top1"]["mean"] == pytest.approx(sum(tops) / 3)
        assert not (run / FOLDS_FILE).exists()
        assert callbacks.remarks[-1] == "few images: 2 of 2 classes have fewer than 20 for training, bright only 8"
        assert str(cross_validation_of(run)) in callbacks.remarks[-2]
        assert cross_validation_of(plain) is None

    def test_folds_that_are_done_are_not_trained_anew(self, photos: Path, tmp_path: Path):
        whole, _ = train(TrainConfig(data=str(photos), **QUICK, out=tmp_path / "whole"))
        config, path, stops = TrainConfig(data=str(photos), **QUICK, out=tmp_path / "run"), tmp_path / "run", Stops(3)
        with pytest.raises(KeyboardInterrupt):
            train(config, stops)
        assert stops.stopped_in == path
        assert {file.name for file in path.iterdir()} == {FOLDS_FILE}
        rest = Stops(99)
        resume(path, rest)
        assert [number for number, *_ in rest.begun] == [3]
        assert cross_validation_of(path) == cross_validation_of(whole)
        assert {file.name for file in path.iterdir()} == {file.name for file in whole.iterdir()}

    def test_the_runs_own_training_goes_on_with_the_folds_kept(self, photos: Path, tmp_path: Path):
        settings = {**QUICK, "epochs": 2}
        whole, _ = train(TrainConfig(data=str(photos), **settings, out=tmp_path / "whole"))
        with pytest.raises(KeyboardInterrupt):
            train(TrainConfig(data=str(photos), **settings, out=tmp_path / "run"), Stops(None))
        assert {file.name for file in (tmp_path / "run").iterdir()} == {FOLDS_FILE, CHECKPOINT_FILE}
        rest = Stops(99)
        resume(tmp_path / "run", rest)
        assert rest.begun == []
        assert cross_validation_of(tmp_path / "run") == cross_validation_of(whole)
        ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "run", whole))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    def test_interrupted_in_the_first_fold_it_leaves_nothing_behind(self, photos: Path, tmp_path: Path):
        with pytest.raises(KeyboardInterrupt):
            train(TrainConfig(data=str(photos), **QUICK, out=tmp_path / "run"), Stops(1))
        assert not (tmp_path / "run").exists()

    def test_it_does_not_go_on_with_other_images_or_a_damaged_record(self, photos: Path, tmp_path: Path):
        with pytest.raises(KeyboardInterrupt):
            train(TrainConfig(data=str(photos), **QUICK, out=tmp_path / "run"), Stops(2))
        image = photos / "dark" / "03.jpg"
        content = image.read_bytes()
        image.unlink()
        with pytest.raises(DataError, match="have changed since this cross-validation began"):
            resume(tmp_path / "run")
        image.write_bytes(content)
        (tmp_path / "run" / FOLDS_FILE).write_text('{"folds": 3}')
        with pytest.raises(ArtifactError, match="is damaged; train anew"):
            resume(tmp_path / "run")

    def test_it_trains_in_one_process(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(UsageError, match="`folds` trains in one process"):
            TrainConfig(folds=3).check()


class TestCommand:
    def test_folds_are_told_and_evaluate_shows_them(
        self, cli: Callable[..., Result], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        result = cli("train", photos, *OPTIONS, "--folds", 3, "--out", "run")
        assert result.exit_code == 0, result.output
        assert "fold 3 of 3: top-1 " in result.output
        assert "cross-validation of 3 folds: top-1 " in result.output
        evaluated = cli("evaluate", "run", "--json", "all.json")
        assert "cross-validation of 3 folds: top-1 " in evaluated.output
        page = (tmp_path / "evaluation.html").read_text()
        assert "<h2>Cross-validation</h2>" in page
        assert page.count("<td>7</td>") == 2
        assert len(json.loads((tmp_path / "all.json").read_text())["cross_validation"]["folds"]) == 3
        assert "cross-validation" not in cli("evaluate", "run", photos).output

    @pytest.mark.parametrize(
        ("folds", "words"), [(1, "--folds takes a whole number from 2"), (11, "--folds 11: class bright has 10 images")]
    )
    def test_what_cannot_be_is_one_line(
        self, cli: Callable[..., Result], photos: Path, tmp_path: Path, folds: int, words: str
    ):
        result = cli("train", photos, *OPTIONS, "--folds", folds, "--out", tmp_path / "run")
        assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.stderr
        assert words in result.stderr
        assert not (tmp_path / "run").exists()
