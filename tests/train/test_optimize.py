"""Losses, optimizers, schedules, frozen backbones, and when to stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from edgecls import models
from edgecls.errors import UsageError
from edgecls.train.loop import TrainConfig, read_history, train
from edgecls.train.optimize import (
    LOSSES,
    OPTIMIZERS,
    SCHEDULES,
    balanced_weights,
    freeze,
    hold_frozen,
    loss_for,
    optimizer_for,
    schedule_for,
)

QUICK = {"arch": "simple_cnn", "epochs": 3, "size_px": 32, "batch_size": 8, "weights": "none"}


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 4, generator=generator), torch.randint(0, 4, (16,), generator=generator)


class TestLosses:
    def test_cross_entropy_is_torchs(self, batch):
        expected = functional.cross_entropy(*batch, label_smoothing=0.1)
        assert loss_for("cross-entropy", 0.1, None)(*batch) == expected

    def test_focal_loss_turns_to_what_is_wrong(self, batch):
        _, labels = batch
        plain, focal = loss_for("cross-entropy", 0.0, None), loss_for("focal", 0.0, None)
        sure = functional.one_hot(labels, 4) * 6.0
        assert focal(sure, labels) < 1e-3 * plain(sure, labels)  # (1 - 0.993)^2 of it
        assert focal(-sure, labels) > 0.9 * plain(-sure, labels)

    def test_binary_cross_entropy_asks_about_each_class(self, batch):
        scores, labels = batch
        expected = sum(
            functional.binary_cross_entropy_with_logits(scores[:, index], (labels == index).float())
            for index in range(4)
        )
        assert loss_for("bce", 0.0, None)(scores, labels) == pytest.approx(float(expected), rel=1e-5)

    @pytest.mark.parametrize("name", LOSSES)
    def test_weights_of_one_change_nothing_and_others_do(self, batch, name: str):
        plain = loss_for(name, 0.1, None)(*batch)
        assert loss_for(name, 0.1, torch.ones(4))(*batch) == pytest.approx(float(plain), rel=1e-5)
        assert loss_for(name, 0.1, torch.tensor([4.0, 1, 1, 0.1]))(*batch) != pytest.approx(float(plain), rel=1e-3)

    def test_balanced_weights_are_scikit_learns(self):
        from sklearn.utils.class_weight import compute_class_weight

        labels = np.array([0] * 90 + [1] * 9 + [2])
        expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
        np.testing.assert_allclose(balanced_weights(labels, 3).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 3, 100])
def test_schedules_reach_the_peak_and_stay_below_it(name: str, steps: int):
    rates = [schedule_for(name, step, steps) for step in range(steps)]
    assert max(rates) == pytest.approx(1.0)
    assert min(rates) >= 0
    if steps == 100:
        ends = {"one-cycle": 0.0, "cosine": 0.0, "step": 0.01, "constant": 1.0}
        assert rates[-1] == pytest.approx(ends[name], abs=1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_and_biases_are_not_decayed(name: str):
    optimizer = optimizer_for(name, models.create("resnet18", 3), 0.1, 0.05)
    decays = {
        (parameter.ndim > 1, group["weight_decay"]) for group in optimizer.param_groups for parameter in group["params"]
    }
    assert decays == {(True, 0.05), (False, 0.0)}


@pytest.mark.parametrize("change", [{"optimizer": name} for name in OPTIMIZERS] + [{"loss": "focal"}, {"loss": "bce"}],
                         ids=lambda change: "-".join(change.values()))  # fmt: skip
def test_every_optimizer_and_loss_learns(photos: Path, tmp_path: Path, change: dict):
    settings = {**QUICK, "epochs": 6, **change}
    _, metrics = train(TrainConfig(str(photos), **settings, out=tmp_path / "run"))
    assert metrics.top1 == 1.0


def test_a_frozen_backbone_stays_as_it_is_batch_norms_included(photos: Path, tmp_path: Path):
    first, _ = train(TrainConfig(str(photos), **{**QUICK, "arch": "mobilenet_v2"}, out=tmp_path / "first"))
    settings = {**QUICK, "arch": "mobilenet_v2", "weights": str(first), "freeze": "backbone", "lr": 0.05}
    second, _ = train(TrainConfig(str(photos), **settings, out=tmp_path / "second"))
    before, after = (load_file(place / "model.safetensors") for place in (first, second))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.1.weight", "classifier.1.bias"}


def test_there_must_be_something_to_freeze(photos: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="--freeze keeps weights that were learned before"):
        train(TrainConfig(str(photos), **QUICK, freeze="backbone", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_batch_norms_that_learn_are_not_held():
    network = models.create("resnet18", 3).train()
    hold_frozen(network)
    assert network.bn1.training
    freeze(network, "backbone", "fc.")
    hold_frozen(network)
    assert not network.bn1.training


def test_patience_ends_a_training_that_gets_no_better(photos: Path, tmp_path: Path):
    settings = {**QUICK, "epochs": 40, "patience": 2, "lr": 1e-9}
    place, _ = train(TrainConfig(str(photos), **settings, out=tmp_path / "run"))
    assert 3 <= len(read_history(place)) < 40


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer": "lion"}, "--optimizer takes adamw, adam, sgd, rmsprop"),
        ({"schedule": "wavy"}, "--schedule takes one-cycle"),
        ({"loss": "hinge"}, "--loss takes cross-entropy"),
        ({"freeze": "head"}, "--freeze takes none, backbone"),
        ({"label_smoothing": 1.0}, "--label-smoothing is a share"),
        ({"weight_decay": -1.0}, "--weight-decay must be"),
        ({"patience": 0}, "--patience is a number of epochs"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict, words: str):
    with pytest.raises(UsageError, match=words):
        TrainConfig(**change).check()
