"""Losses, optimizers, schedules, frozen backbones, and when to stop."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from edgecls import models
from edgecls.artifact.golden import Golden
from edgecls.errors import UsageError
from edgecls.runtime import store
from edgecls.training.config import Loss, Schedule, TrainConfig
from edgecls.training.features import Backbone
from edgecls.training.history import TrainingCallbacks, read_history
from edgecls.training.loop import train
from edgecls.training.optimize import (
    OPTIMIZERS,
    blocks,
    freeze,
    frozen_blocks,
    hold_frozen,
    loss_for,
    optimizer_for,
    plateaus,
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

    @pytest.mark.parametrize("name", get_args(Loss))
    def test_weights_of_one_change_nothing_and_others_do(self, batch, name: str):
        plain = loss_for(name, 0.1, None)(*batch)
        assert loss_for(name, 0.1, torch.ones(4))(*batch) == pytest.approx(float(plain), rel=1e-5)
        assert loss_for(name, 0.1, torch.tensor([4.0, 1, 1, 0.1]))(*batch) != pytest.approx(float(plain), rel=1e-3)


@pytest.mark.parametrize("name", get_args(Schedule))
@pytest.mark.parametrize("steps", [1, 3, 100])
def test_schedules_reach_the_peak_and_stay_below_it(name: str, steps: int):
    rates = [schedule_for(name, step, steps) for step in range(steps)]
    assert max(rates) == pytest.approx(1.0)
    assert min(rates) >= 0
    if steps == 100:
        ends = {"one-cycle": 0.0, "cosine": 0.0, "step": 0.01, "plateau": 1.0, "constant": 1.0}
        assert rates[-1] == pytest.approx(ends[name], abs=1e-3)


def test_the_rate_falls_on_each_plateau_of_the_validation_loss():
    losses = [3.0, 2.0, 2.1, 2.2, 1.9, 2.0, 2.0, 2.0]
    assert [plateaus(losses[:count]) for count in range(9)] == [0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert schedule_for("plateau", 90, 100, losses) == pytest.approx(0.3**2)


@pytest.mark.parametrize("name", [*OPTIMIZERS, "timm/lamb"])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_norms_and_biases_are_not_decayed(name: str, decay: float):
    network = models.create("resnet18", 3)
    optimizer = optimizer_for(name, network, 0.1, 0.05, blocks(network, "fc."), decay)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))
    decays = {
        (parameter.ndim > 1, group["weight_decay"]) for group in optimizer.param_groups for parameter in group["params"]
    }
    assert decays == {(True, 0.05), (False, 0.0)}


@pytest.mark.parametrize("change", [{"optimizer": name} for name in OPTIMIZERS] + [{"loss": "focal"}, {"loss": "bce"}],
                         ids=lambda change: "-".join(change.values()))  # fmt: skip
def test_every_optimizer_and_loss_learns(photos: Path, tmp_path: Path, change: dict):
    settings = {**QUICK, "epochs": 6, **change}
    _, metrics = train(TrainConfig(data=str(photos), **settings, out=tmp_path / "run"))
    assert metrics.top1 == 1.0


class TestBlocks:
    @pytest.mark.parametrize(
        ("arch", "head", "count", "first"),
        [("resnet18", "fc.", 11, "conv1.weight"), ("mobilenet_v2", "classifier.1.", 20, "features.0.0.weight"),
         ("vgg11", "classifier.6.", 11, "features.0.weight"), ("simple_cnn", "head.", 5, "block1.0.weight")],
    )  # fmt: skip
    def test_they_run_from_front_to_back_and_hold_every_parameter(self, arch, head, count, first):
        network = models.create(arch, 3)
        found = blocks(network, head)
        assert len(found) == count
        assert found[0][0] == first
        assert all(name.startswith(head) for name in found[-1])
        assert sorted(name for block in found for name in block) == sorted(
            name for name, _ in network.named_parameters()
        )

    def test_each_learns_slower_than_the_one_behind_it(self):
        network = models.create("simple_cnn", 3)
        optimizer = optimizer_for("adamw", network, 0.1, 0.0, blocks(network, "head."), 0.5)
        rates = sorted({group["lr"] for group in optimizer.param_groups})
        assert rates == pytest.approx([0.00625, 0.0125, 0.025, 0.05, 0.1])

    def test_a_gradual_thaw_begins_at_the_back_and_ends_halfway(self):
        assert [frozen_blocks("gradual", 9, epoch, 8) for epoch in range(1, 9)] == [8, 6, 4, 2, 0, 0, 0, 0]
        assert frozen_blocks("backbone", 9, 5, 8) == 8
        assert frozen_blocks("3", 9, 1, 8) == 3
        with pytest.raises(UsageError, match="this network has 9 blocks, and the last one has to learn"):
            frozen_blocks("9", 9, 1, 8)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits to go on from."""
    path = tmp_path_factory.mktemp("learned") / "run"
    train(TrainConfig(**{**QUICK, "arch": "mobilenet_v2", "epochs": 1, "batch_size": 64}, out=path))
    return path


def changes(before: Path, after: Path) -> set[str]:
    first, second = (load_file(path / "model.safetensors") for path in (before, after))
    return {name for name in first if not torch.equal(first[name], second[name])}


@pytest.mark.parametrize("augment", [None, "light"], ids=["features-once", "augmented"])
def test_a_frozen_backbone_stays_as_it_is_batch_norms_included(learned: Path, tmp_path: Path, augment: str | None):
    class Listening(TrainingCallbacks):
        heard = ""

        def remark(self, line: str) -> None:
            self.heard += line

    settings = {**QUICK, "arch": "mobilenet_v2", "weights": str(learned), "freeze": "backbone", "lr": 0.05}
    callbacks = Listening()
    train(TrainConfig(**settings, augment=augment, out=tmp_path / "run"), callbacks)
    assert changes(learned, tmp_path / "run") == {"classifier.1.weight", "classifier.1.bias"}
    assert ("its features are computed once" in callbacks.heard) == (augment is None)


def test_features_give_the_same_scores_as_images(learned: Path):
    """The whole network and the last layer on features are one function."""
    run = store.find(learned)
    network = models.create("mobilenet_v2", 10)
    models.load_weights(network, "mobilenet_v2", models.read_weights(learned / "model.safetensors"), "")
    backbone = Backbone(models.deployable(network, run.card.preprocess), network, "classifier.1")
    golden = Golden.read(learned)
    scores = network.classifier[1](backbone.features(golden.images)).detach().numpy()
    np.testing.assert_allclose(scores, golden.scores, atol=1e-4)
    assert backbone.ends_with_head(golden.images[:2])
    squeezenet = models.create("squeezenet1_1", 10)
    assert not Backbone(models.deployable(squeezenet, run.card.preprocess), squeezenet, "classifier.1").ends_with_head(
        np.zeros((1, 64, 64, 3), np.uint8)
    )


def test_the_first_blocks_stay_frozen(learned: Path, tmp_path: Path):
    settings = {**QUICK, "arch": "mobilenet_v2", "weights": str(learned), "freeze": "12", "epochs": 1}
    train(TrainConfig(**settings, out=tmp_path / "run"))
    changed = {int(name.split(".")[1]) for name in changes(learned, tmp_path / "run") if name.startswith("features")}
    assert changed == set(range(12, 19))


def test_a_gradual_thaw_learns_everywhere_in_the_end(learned: Path, tmp_path: Path):
    settings = {**QUICK, "arch": "mobilenet_v2", "weights": str(learned), "freeze": "gradual", "epochs": 2}
    train(TrainConfig(**settings, layer_decay=0.8, out=tmp_path / "run"))
    assert "features.0.0.weight" in changes(learned, tmp_path / "run")


def test_there_must_be_something_to_freeze(photos: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="`freeze` keeps weights that were learned before"):
        train(TrainConfig(data=str(photos), **QUICK, freeze="backbone", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_batch_norms_that_learn_are_not_held():
    network = models.create("resnet18", 3).train()
    hold_frozen(network)
    assert network.bn1.training
    freeze(network, blocks(network, "fc."), 10)
    hold_frozen(network)
    assert not network.bn1.training


def test_patience_ends_a_training_that_gets_no_better(photos: Path, tmp_path: Path):
    settings = {**QUICK, "epochs": 40, "patience": 2, "lr": 1e-9}
    path, _ = train(TrainConfig(data=str(photos), **settings, out=tmp_path / "run"))
    assert 3 <= len(read_history(path)) < 40


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer": "lion"}, "`optimizer` takes adamw, adam, sgd, rmsprop or timm/NAME"),
        ({"optimizer": "timm/lyon"}, "timm has no 'lyon'"),
        ({"augment": "wild"}, "`augment` takes none, light, medium, strong"),
        ({"policy": "auto"}, "`policy` takes none, trivial, rand"),
        ({"erase": 1.5}, "`erase` takes a number from 0 to 1, not 1.5"),
        ({"ema": 1.0}, "`ema` takes a number from 0 to 0.9999999, not 1.0"),
        ({"layer_decay": 0.0}, "`layer_decay` takes a number from 1e-06 to 1, not 0.0"),
        ({"precision": "int8"}, "`precision` takes auto, fp32, bf16, fp16"),
        ({"accumulate": 40}, "`accumulate` is at most half of `batch_size`, 16, not 40"),
        ({"schedule": "wavy"}, "`schedule` takes one-cycle"),
        ({"loss": "hinge"}, "`loss` takes cross-entropy"),
        ({"freeze": "head"}, "`freeze` takes none, backbone"),
        ({"label_smoothing": 1.0}, "`label_smoothing` takes a number from 0 to 0.9999, not 1.0"),
        ({"weight_decay": -1.0}, "`weight_decay` takes a number of at least 0, not -1.0"),
        ({"patience": 0}, "`patience` takes a whole number of at least 1, not 0"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict, words: str):
    with pytest.raises(UsageError, match=words):
        TrainConfig(**change).check()
