"""Uneven and small classes: what is noticed, what is done about it, and by which figure the epoch is chosen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch.nn import functional
from typer.testing import Result

from edgecls.errors import UsageError
from edgecls.imaging.opencv import cv2
from edgecls.training.balance import (
    FEW_IMAGES,
    UNEVEN_DEFAULT,
    Balance,
    Counts,
    adjusted,
    class_shares,
    effective_weights,
    log_priors,
    repeated_order,
    resolved,
)
from edgecls.training.config import TrainConfig, read_config
from edgecls.training.history import Epoch, TrainingCallbacks, read_history
from edgecls.training.loop import train
from edgecls.training.optimize import loss_for

QUICK = {"arch": "simple_cnn", "epochs": 2, "size_px": 32, "batch_size": 8, "weights": "none"}
LABELS = np.array([0] * 80 + [1] * 15 + [2] * 5)


@pytest.fixture
def uneven(photos: Path) -> Path:
    """The two classes with 60 and 5 images."""
    for number in range(48):
        shutil.copy(photos / "bright" / f"{number % 12:02d}.jpg", photos / "bright" / f"again{number}.jpg")
    for path in sorted((photos / "dark").iterdir())[5:]:
        path.unlink()
    return photos


class Listening(TrainingCallbacks):
    def __init__(self) -> None:
        self.remarks: list[str] = []

    def remark(self, line: str) -> None:
        self.remarks.append(line)


class TestSampling:
    @pytest.mark.parametrize("epoch", range(5))
    def test_each_class_gets_its_share_of_an_epoch_that_is_as_long(self, epoch: int):
        for balance, wanted in (("sampling", [33.3, 33.3, 33.3]), ("sqrt-sampling", [59.2, 25.6, 14.8])):
            order = repeated_order(LABELS, class_shares([80, 15, 5], balance), (0, epoch))
            assert len(order) == 100
            np.testing.assert_allclose(np.bincount(LABELS[order % 100]), wanted, atol=1)

    def test_images_of_a_class_come_as_evenly_as_can_be_and_each_visit_is_another(self):
        order = repeated_order(LABELS, class_shares([80, 15, 5], "sampling"), (0, 1))
        times = np.bincount(order % 100, minlength=100)
        assert set(times[:80]) == {0, 1}
        assert set(times[80:95]) <= {2, 3}
        assert set(times[95:]) <= {6, 7}
        assert len(set(order.tolist())) == 100
        assert np.bincount(order[order % 100 == 99] // 100).tolist() == [1] * int(times[99])

    def test_orders_differ_by_epoch_and_not_by_call(self):
        shares = class_shares([80, 15, 5], "sampling")
        first, again, next_epoch = (repeated_order(LABELS, shares, seed).tolist() for seed in ((0, 1), (0, 1), (0, 2)))
        assert first == again != next_epoch

    def test_without_it_each_image_comes_once(self):
        assert all(class_shares([80, 15, 5], each) is None for each in ("none", "weights", "logit-adjustment"))


class TestLoss:
    def test_effective_numbers_weigh_few_images_as_their_inverse_and_many_alike(self):
        few = effective_weights([10, 1])
        assert few[1] / few[0] == pytest.approx(10, rel=0.01)
        many = effective_weights([1_000_000, 20_000])
        assert many[1] / many[0] == pytest.approx(1, rel=0.01)
        counts = np.array([80, 15, 5])
        assert np.dot(effective_weights(counts), counts) / 100 == pytest.approx(1)

    @pytest.mark.parametrize("name", ["cross-entropy", "focal"])
    def test_logit_adjustment_adds_the_logarithm_of_the_priors(self, name: str):
        scores, labels = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3
        priors = torch.from_numpy(log_priors([80, 15, 5]))
        assert torch.allclose(priors.exp(), torch.tensor([0.8, 0.15, 0.05], dtype=torch.float64))
        plain = loss_for(name, 0.1, None)
        assert adjusted(plain, priors)(scores, labels) == plain(scores + priors.float(), labels)
        shares = functional.one_hot(labels, 3).float()
        assert adjusted(plain, priors)(scores, shares) == pytest.approx(float(adjusted(plain, priors)(scores, labels)))

    def test_the_adjusted_loss_is_least_where_equally_frequent_classes_would_have_it(self):
        """Two classes, 9 : 1, that no image tells apart: the network's own scores end up equal."""
        scores = torch.zeros(2, requires_grad=True)
        labels = torch.tensor([0] * 9 + [1])
        loss = adjusted(loss_for("cross-entropy", 0.0, None), torch.from_numpy(log_priors([9, 1])))
        (gradient,) = torch.autograd.grad(loss(scores.expand(10, 2), labels), scores)
        assert gradient.abs().max() < 1e-6

    def test_a_class_without_images_counts_as_one(self):
        assert np.isfinite(log_priors([5, 0])).all()
        assert np.isfinite(effective_weights([5, 0])).all()


class TestWhatIsNoticed:
    def test_uneven_means_more_than_ten_times_as_many(self):
        assert not Counts(("a", "b"), (100, 10)).uneven
        assert Counts(("a", "b"), (101, 10)).uneven

    def test_auto_does_nothing_about_even_classes_and_what_measured_best_about_others(self):
        even, uneven = Counts(("a", "b"), (30, 30)), Counts(("a", "b"), (300, 10))
        assert resolved("auto", "auto", even) == ("none", "top1")
        assert resolved("auto", "auto", uneven) == (UNEVEN_DEFAULT, "macro-f1")
        assert resolved("none", "top1", uneven) == ("none", "top1")
        assert resolved("weights", "macro-f1", even) == ("weights", "macro-f1")

    def test_it_is_said_in_a_line_each(self):
        assert Counts(("a", "b"), (30, 30)).remarks("none", "top1", None) == []
        lines = Counts(("a", "b"), (300, 10)).remarks("weights", "macro-f1", None)
        assert [line.split(":")[0] for line in lines] == ["uneven classes", "few images"]
        assert "300 training images of a, 10 of b; balanced by weights" in lines[0]
        assert "best macro F1 is kept" in lines[0]
        assert f"1 of 2 classes have fewer than {FEW_IMAGES} for training, b only 10; `folds` 5" in lines[1]
        assert "nothing is done" in Counts(("a", "b"), (400, 30)).remarks("none", "top1", None)[0]
        assert "folds" not in Counts(("a", "b"), (10, 10)).remarks("none", "top1", 5)[0]


class TestTraining:
    @pytest.mark.parametrize("balance", get_args(Balance))
    def test_every_way_trains_and_the_epoch_with_the_best_macro_f1_is_kept(
        self, uneven: Path, tmp_path: Path, balance: Balance
    ):
        heard = Listening()
        run, _ = train(TrainConfig(data=str(uneven), **QUICK, balance=balance, out=tmp_path / "run"), heard)
        done = {"auto": f"balanced by {UNEVEN_DEFAULT}", "none": "nothing is done"}.get(balance, f"by {balance}")
        assert done in heard.remarks[0]
        history = read_history(run)
        assert {epoch.selected_by for epoch in history} == {"macro-f1"}
        assert all(0 <= epoch.val_macro_f1 <= 1 for epoch in history)
        assert 'balance = "' in (run / "config.toml").read_text()

    def test_a_frozen_backbone_learns_from_sampled_features(self, uneven: Path, tmp_path: Path):
        first, _ = train(TrainConfig(data=str(uneven), **QUICK, out=tmp_path / "first"))
        settings = {**QUICK, "weights": str(first), "freeze": "backbone", "balance": "sampling"}
        run, metrics = train(TrainConfig(data=str(uneven), **settings, out=tmp_path / "run"))
        assert metrics.images == 10
        assert len(read_history(run)) == 2

    def test_the_command_line_shows_what_the_epoch_is_chosen_by(
        self, cli: Callable[..., Result], uneven: Path, tmp_path: Path
    ):
        options = ["--arch", "simple_cnn", "--epochs", 1, "--size", 32, "--weights", "none", "--out", tmp_path / "run"]
        result = cli("train", uneven, *options)
        assert result.exit_code == 0, result.output
        assert "uneven classes: 42 training images of bright, 3 of dark; balanced by" in result.output
        assert "few images: 1 of 2 classes have fewer than 20 for training, dark only 3; --folds 5" in result.output
        assert "val macro F1 " in result.output
        even = cli("train", "--arch", "simple_cnn", "--epochs", 1, "--size", 32, "--out", tmp_path / "digits")
        assert "uneven" not in even.output
        assert "macro F1" not in even.output.split("test split")[0]

    def test_epochs_are_compared_by_what_was_asked_for(self):
        figures = {"lr": 0.1, "train_loss": 1.0, "val_loss": 1.0, "images_per_s": 1.0, "seconds": 1.0}
        accurate, fair = ((0.9, 0.3), (0.8, 0.7))
        for by, best in (("top1", accurate), ("macro-f1", fair)):
            epochs = [
                Epoch(epoch=1, val_top1=top1, val_macro_f1=f1, selected_by=by, **figures)
                for top1, f1 in (accurate, fair)
            ]
            assert max(epochs, key=lambda epoch: epoch.merit).val_top1 == best[0]


class TestEarlierVersions:
    def test_what_was_a_switch_is_understood(self, tmp_path: Path):
        assert (TrainConfig(balance=True).balance, TrainConfig(balance=False).balance) == ("weights", "none")
        for before, now in (("true", "weights"), ("false", "none")):
            (tmp_path / "config.toml").write_text(f"balance = {before}\n")
            assert read_config(tmp_path / "config.toml") == {"balance": now}

    def test_a_history_without_the_new_columns_is_read(self, tmp_path: Path):
        header, row = "epoch,lr,train_loss,val_loss,val_top1,images_per_s,seconds", "1,0.1,2.0,1.0,0.75,100,3"
        (tmp_path / "metrics.csv").write_text(f"{header}\n{row}\n")
        [epoch] = read_history(tmp_path)
        assert (epoch.epoch, epoch.val_top1, epoch.selected_by, epoch.merit) == (1, 0.75, "top1", (0.75, -1.0))


def test_bce_does_not_go_with_logit_adjustment():
    with pytest.raises(UsageError, match="`balance` logit-adjustment is for scores that compete"):
        TrainConfig(balance="logit-adjustment", loss="bce").check()


def test_a_repeated_image_is_varied_anew(uneven: Path):
    from edgecls.data.dataset import open_dataset
    from edgecls.imaging.preprocess import Preprocess
    from edgecls.training.augment import PRESETS
    from edgecls.training.balance import drawing
    from edgecls.training.batches import TrainingBatches

    dataset = open_dataset(str(uneven), 0)
    labels = np.array([sample.label for sample in dataset.splits["train"]])
    draw = drawing(labels, np.bincount(labels).tolist(), "sampling")
    batches = TrainingBatches(dataset, Preprocess(32, 32), PRESETS["medium"], 45, 0, draw=draw)
    [(images, shown)] = batches.epoch(1)
    dark = images[shown == dataset.classes.index("dark")].numpy()
    assert len(dark) in (22, 23)
    assert len({image.tobytes() for image in dark}) == len(dark)
    assert cv2.mean(dark[0])[0] < 100
