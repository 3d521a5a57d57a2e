"""What a good training practice adds: averages, teachers, pieces, settings in files, curves, several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import Result

from edgecls.errors import UsageError
from edgecls.evaluation.metrics import calibration_error, measure
from edgecls.models.vision import import_torchvision
from edgecls.runtime import store
from edgecls.runtime.store import Artifact
from edgecls.training.config import TrainConfig, read_config
from edgecls.training.history import Epoch, TrainingCallbacks, read_history
from edgecls.training.interrupt import deferred_signals
from edgecls.training.loop import resume, train
from edgecls.training.teacher import Teacher

QUICK = {"arch": "simple_cnn", "epochs": 3, "size_px": 32, "batch_size": 8, "weights": "none"}
PLAIN = "simple_cnn:widths=8-16,dropout=0"
"""Without dropout, which would draw differently in each process."""


def test_figures_are_torchmetrics():
    import_torchvision()  # torchmetrics imports it too
    import torchmetrics.functional.classification as reference

    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 400)
    scores = generator.normal(size=(400, 5)).astype(np.float32)
    scores[np.arange(400), labels] += 1
    found, tensors = measure(scores, labels), (torch.from_numpy(scores), torch.from_numpy(labels))
    for name, values in (("precision", found.precision), ("recall", found.recall), ("f1_score", found.f1)):
        theirs = getattr(reference, f"multiclass_{name}")(*tensors, num_classes=5, average="none")
        np.testing.assert_allclose(values, theirs.numpy(), atol=1e-6)
    assert found.top1 == pytest.approx(float(reference.multiclass_accuracy(*tensors, num_classes=5, average="micro")))
    assert (found.confusion == reference.multiclass_confusion_matrix(*tensors, num_classes=5).numpy()).all()
    theirs = reference.multiclass_calibration_error(tensors[0].softmax(dim=1), tensors[1], num_classes=5, n_bins=15)
    assert calibration_error(scores, labels) == pytest.approx(float(theirs), abs=1e-5)


class TestAverage:
    def test_it_is_what_is_kept_and_it_moves_less(self, photos: Path, tmp_path: Path):
        settings = {**QUICK, "schedule": "constant", "lr": 0.05}
        plain, _ = train(TrainConfig(data=str(photos), **settings, out=tmp_path / "plain"))
        averaged, _ = train(TrainConfig(data=str(photos), **settings, ema=0.99, out=tmp_path / "averaged"))
        jumpy, smooth = (load_file(path / "model.safetensors")["block1.0.weight"] for path in (plain, averaged))
        assert smooth.abs().mean() < jumpy.abs().mean()

    def test_it_goes_on_where_it_was_ended(self, photos: Path, tmp_path: Path):
        config = TrainConfig(data=str(photos), **QUICK, ema=0.9, schedule="plateau", out=tmp_path / "whole")
        whole, _ = train(config)

        class Stops(TrainingCallbacks):
            def epoch(self, epoch: Epoch) -> None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(replace(config, out=tmp_path / "parts"), Stops())
        parts, _ = resume(tmp_path / "parts")
        first, second = (load_file(path / "model.safetensors") for path in (whole, parts))
        assert all(torch.equal(first[name], second[name]) for name in first)


class TestTeacher:
    def test_what_it_knows_is_learned(self, trained: Artifact, tmp_path: Path):
        """With labels that say nothing, all that is learned comes from the teacher."""
        settings = {**QUICK, "arch": "simple_cnn:widths=16-32-64", "batch_size": 64, "label_smoothing": 0.999}
        _, alone = train(TrainConfig(**settings, out=tmp_path / "alone"))
        _, taught = train(TrainConfig(**settings, teacher=str(trained.path), out=tmp_path / "taught"))
        assert taught.top1 > 0.5
        assert taught.top1 > alone.top1 + 0.1

    def test_it_sees_images_at_its_own_size(self, trained: Artifact):
        teacher = Teacher(str(trained.path), trained.card.classes, torch.device("cpu"))
        scores = torch.zeros(2, 10, requires_grad=True)
        loss = teacher.loss(torch.zeros(2, 48, 64, 3, dtype=torch.uint8), scores, torch.tensor(2.0))
        assert float(loss.detach()) > 1.0

    def test_its_classes_must_be_these(self, trained: Artifact, photos: Path, tmp_path: Path):
        with pytest.raises(UsageError, match="knows other classes"):
            train(TrainConfig(data=str(photos), **QUICK, teacher=str(trained.path), out=tmp_path / "run"))
        assert not (tmp_path / "run").exists()


def test_pieces_of_a_batch_add_up_to_it(photos: Path, tmp_path: Path):
    """Batch norm sees the pieces, so that only a network without it learns the very same; here it learns as well."""
    settings = {**QUICK, "arch": PLAIN, "epochs": 8}
    _, metrics = train(
        TrainConfig(data=str(photos), **settings, accumulate=2, deterministic=True, out=tmp_path / "run")
    )
    assert metrics.top1 == 1.0


def test_sixteen_bits_train_too(photos: Path, tmp_path: Path):
    path, metrics = train(
        TrainConfig(data=str(photos), **{**QUICK, "epochs": 8}, precision="bf16", out=tmp_path / "run")
    )
    assert metrics.top1 == 1.0
    assert load_file(path / "model.safetensors")["head.weight"].dtype == torch.float32
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="trains on a GPU only"):
            train(TrainConfig(data=str(photos), **QUICK, precision="fp16", out=tmp_path / "half"))


def test_dropout_is_what_was_asked_for(photos: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="resnet18 has no dropout"):
        train(TrainConfig(data=str(photos), **{**QUICK, "arch": "resnet18"}, dropout=0.5, out=tmp_path / "run"))
    assert train(TrainConfig(data=str(photos), **QUICK, dropout=0.0, out=tmp_path / "run"))[1].images == 4


class TestConfigFile:
    def test_a_runs_own_makes_the_same_run_again(
        self, cli: Callable[..., Result], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        config = TrainConfig(data=str(photos), **QUICK, ema=0.9, augment="light", out=tmp_path / "first")
        train(config)
        assert read_config(tmp_path / "first" / "config.toml")["ema"] == 0.9
        result = cli("train", "--config", tmp_path / "first" / "config.toml", "--out", tmp_path / "second")
        assert result.exit_code == 0, result.output
        first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_options_come_on_top(self, cli: Callable[..., Result], photos: Path, tmp_path: Path):
        (tmp_path / "c.toml").write_text(f'data = "{photos}"\narch = "simple_cnn"\nepochs = 9\nsize_px = 32\nlr = 1\n')
        result = cli("train", "--config", tmp_path / "c.toml", "--epochs", 1, "--lr", 0.01, "--out", tmp_path / "run")
        assert result.exit_code == 0, result.output
        assert "training 1 epochs" in result.output
        assert read_config(tmp_path / "run" / "config.toml")["lr"] == 0.01

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("epochs = ", "is not valid TOML"),
            ("epoch = 3", "there is no setting 'epoch'; did you mean epochs?"),
            ("epochs = 'three'", "'epochs' takes a whole number"),
            ("epochs = true", "'epochs' takes a whole number"),
            ("mirror = 1", "'mirror' takes true or false, not 1"),
            ("arch = 3", "'arch' takes text, not 3"),
            ("ema = 2.0", "'ema' takes a number from 0 to"),
        ],
    )
    def test_what_it_cannot_mean_is_said(self, cli: Callable[..., Result], tmp_path: Path, text: str, words: str):
        (tmp_path / "c.toml").write_text(text)
        result = cli("train", "--config", tmp_path / "c.toml")
        assert result.exit_code == 2
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == 1

    def test_it_must_be_there(self, cli: Callable[..., Result], tmp_path: Path):
        assert "cannot read the settings in" in cli("train", "--config", tmp_path / "none.toml").stderr


def test_tensorboard_has_the_curves(photos: Path, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path, _ = train(TrainConfig(data=str(photos), **QUICK, tensorboard=True, out=tmp_path / "runs" / "001-x"))
    log = EventAccumulator(str(tmp_path / "runs" / "tensorboard" / "001-x"))
    log.Reload()
    assert [event.value for event in log.Scalars("loss/val")] == pytest.approx(
        [epoch.val_loss for epoch in read_history(path)], rel=1e-4
    )
    assert len(log.Scalars("loss/step")) == 6


@pytest.mark.usefixtures("_usual_signal_stack")
class TestInterruption:
    def test_a_signal_waits_for_the_step_and_the_training_goes_on_to_the_same_end(self, photos: Path, tmp_path: Path):
        """A real SIGINT in the middle of an epoch: the checkpoint holds the position in it."""

        class Interrupted(TrainingCallbacks):
            steps = 0

            def batch(self, epoch: int, loss: float) -> None:
                self.steps += 1
                if self.steps == 3:  # of two a epoch: in the middle of the second
                    os.kill(os.getpid(), signal.SIGINT)

        config = TrainConfig(data=str(photos), **{**QUICK, "arch": "mobilenet_v3_small"}, out=tmp_path / "whole")
        whole, _ = train(config)
        callbacks = Interrupted()
        with pytest.raises(KeyboardInterrupt):
            train(replace(config, out=tmp_path / "parts"), callbacks)
        assert callbacks.steps == 3

        class Started(TrainingCallbacks):
            def started(self, dataset, start, epochs, batches, device, done) -> None:
                self.done = done

        callbacks = Started()
        parts, _ = resume(tmp_path / "parts", callbacks)
        assert callbacks.done == 3
        first, second = (load_file(path / "model.safetensors") for path in (whole, parts))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert [e.train_loss for e in read_history(whole)] == [e.train_loss for e in read_history(parts)]

    def test_the_second_signal_goes_through_and_handlers_come_back(self):
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), deferred_signals() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
            assert interruption.wanted
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is before

    def test_other_threads_are_left_alone(self):
        seen = []

        def work() -> None:
            with deferred_signals() as interruption:
                seen.append(interruption.wanted)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert seen == [False]


class TestProcesses:
    def test_two_learn_what_one_learns(self, photos: Path, tmp_path: Path):
        """The same losses within 1e-3 and the same weights within 1e-2: gradients are summed in another order."""
        config = TrainConfig(
            data=str(photos), **{**QUICK, "arch": PLAIN, "epochs": 4, "lr": 0.003}, out=tmp_path / "one"
        )
        one, _ = train(config)
        config.write(tmp_path)
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29731",
            "-m", "edgecls", "train", "--config", str(tmp_path / "config.toml"), "--out", str(tmp_path / "two"),
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("epoch   1 ") == 1
        assert done.stdout.count("run: ") == 1
        two = store.find(tmp_path / "two").path
        for ours, theirs in zip(read_history(one), read_history(two), strict=True):
            assert theirs.train_loss == pytest.approx(ours.train_loss, abs=1e-3)
            assert theirs.val_loss == pytest.approx(ours.val_loss, abs=1e-3)
        first, second = (load_file(path / "model.safetensors") for path in (one, two))
        assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-2

    def test_a_batch_must_divide_among_them(self, photos: Path, tmp_path: Path):
        config = TrainConfig(data=str(photos), **{**QUICK, "batch_size": 9}, accumulate=2, out=tmp_path / "run")
        with pytest.raises(UsageError, match="`batch_size` 9 must be a multiple of the 1 processes times the 2 pieces"):
            train(config)
