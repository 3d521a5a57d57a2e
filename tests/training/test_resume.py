"""A training that was ended goes on as if it had not been."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import Result

from edgecls.errors import ArtifactError, DataError
from edgecls.runtime import store
from edgecls.training.checkpoint import CHECKPOINT_FILE, read_checkpoint
from edgecls.training.config import TrainConfig
from edgecls.training.history import Epoch, TrainingCallbacks, read_history
from edgecls.training.loop import resume, train

SETTINGS = {"arch": "mobilenet_v3_small", "epochs": 4, "size_px": 32, "batch_size": 8, "weights": "none"}
"""MobileNetV3 has dropout, so that the random state matters too."""


class StopsAfter(TrainingCallbacks):
    def __init__(self, epochs: int):
        self.left, self.stopped_in, self.begun_with = epochs, None, None

    def started(self, dataset, start, epochs, batches, device, done) -> None:
        self.begun_with = done

    def epoch(self, epoch: Epoch) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt

    def stopped(self, path: Path) -> None:
        self.stopped_in = path


def is_finished(path: Path) -> bool:
    return (path / "card.json").exists()


def result_of(path: Path) -> tuple[dict[str, torch.Tensor], list[tuple[float, float]]]:
    return load_file(path / "model.safetensors"), [(e.train_loss, e.val_loss) for e in read_history(path)]


def test_weights_and_losses_are_those_of_a_training_that_was_not_interrupted(photos: Path, tmp_path: Path):
    whole, _ = train(TrainConfig(data=str(photos), **SETTINGS, out=tmp_path / "whole"))
    folder = tmp_path / "parts"
    for attempt in (1, 2):
        callbacks = StopsAfter(1 if attempt == 1 else 2)
        with pytest.raises(KeyboardInterrupt):
            train(TrainConfig(data=str(photos), **SETTINGS, out=folder), callbacks) if attempt == 1 else resume(
                folder, callbacks
            )
        assert callbacks.stopped_in == folder
        assert {path.name for path in folder.iterdir()} == {CHECKPOINT_FILE}
    callbacks = StopsAfter(99)
    resume(folder, callbacks)
    assert callbacks.begun_with == 3 * 2  # optimizer steps
    (weights, losses), (expected_weights, expected_losses) = result_of(folder), result_of(whole)
    assert losses == expected_losses
    assert all(torch.equal(weights[name], expected_weights[name]) for name in expected_weights)
    assert not (folder / CHECKPOINT_FILE).exists()
    assert store.find(folder).is_run


def test_features_of_a_frozen_backbone_are_those_of_the_checkpoint(photos: Path, tmp_path: Path):
    first, _ = train(TrainConfig(data=str(photos), **SETTINGS, out=tmp_path / "first"))
    settings = {**SETTINGS, "weights": str(first), "freeze": "backbone"}
    whole, _ = train(TrainConfig(data=str(photos), **settings, out=tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(data=str(photos), **settings, out=tmp_path / "parts"), StopsAfter(1))
    resume(tmp_path / "parts")
    (weights, losses), (expected_weights, expected_losses) = result_of(tmp_path / "parts"), result_of(whole)
    assert losses == expected_losses
    assert all(torch.equal(weights[name], expected_weights[name]) for name in expected_weights)


def test_random_numbers_algorithms_and_loggers_of_others_are_left_alone(photos: Path, tmp_path: Path):
    logging.getLogger("lightning_fabric").setLevel(logging.INFO)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(TrainConfig(data=str(photos), **{**SETTINGS, "epochs": 1}, deterministic=True, out=tmp_path / "run"))
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()
    assert logging.getLogger("lightning_fabric").level == logging.INFO


def test_an_unfinished_training_is_not_the_latest_run(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(store.RUNS_VARIABLE, str(tmp_path / "runs"))
    first, _ = train(TrainConfig(data=str(photos), **{**SETTINGS, "epochs": 1}))
    callbacks = StopsAfter(1)
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(data=str(photos), **SETTINGS), callbacks)
    assert store.latest_run() == first
    assert callbacks.stopped_in.name.startswith("002-")
    resume(callbacks.stopped_in)
    assert store.latest_run() == callbacks.stopped_in


def test_it_does_not_go_on_with_other_images(photos: Path, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(data=str(photos), **SETTINGS, out=tmp_path / "run"), StopsAfter(1))
    (photos / "dark" / "03.jpg").unlink()
    with pytest.raises(DataError, match="have changed since this training began"):
        resume(tmp_path / "run")
    assert read_checkpoint(tmp_path / "run").history


def test_a_damaged_or_missing_checkpoint_is_said(tmp_path: Path):
    with pytest.raises(ArtifactError, match="holds no unfinished training"):
        resume(tmp_path)
    for content in (b"", b"no checkpoint", b"PK\x03\x04"):
        (tmp_path / CHECKPOINT_FILE).write_bytes(content)
        with pytest.raises(ArtifactError, match="is damaged; train anew"):
            resume(tmp_path)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_killed_at_any_moment_it_goes_on(photos: Path, tmp_path: Path):
    """SIGKILL at five moments, from the first optimizer steps to the last epochs."""
    whole, _ = train(TrainConfig(data=str(photos), **{**SETTINGS, "epochs": 6}, out=tmp_path / "whole"))
    folder = tmp_path / "killed"
    program = (
        "import sys\nfrom pathlib import Path\nfrom edgecls.training.config import TrainConfig\n"
        "from edgecls.training.history import TrainingCallbacks\nfrom edgecls.training.loop import resume, train\n"
        "place = Path(sys.argv[2])\n"
        f"settings = {SETTINGS!r} | dict(epochs=6)\n"
        "class Talks(TrainingCallbacks):\n"
        "    def batch(self, epoch, loss): print('step', epoch, flush=True)\n"
        "try:\n    resume(place, Talks())\n"
        "except Exception:\n"
        "    train(TrainConfig(data=sys.argv[1], **settings, out=place), Talks())\n"
        "print('done', flush=True)\n"
    )
    for delay_s in (0.0, 0.03, 0.15, 0.3, 0.5):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(photos), str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline()  # it is under way
        time.sleep(delay_s)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if folder.exists() and not (folder / CHECKPOINT_FILE).exists() and not is_finished(folder):
            shutil.rmtree(folder)  # killed before the first checkpoint
    if (folder / CHECKPOINT_FILE).exists():
        resume(folder)
        assert [path for path in folder.parent.iterdir() if path.name.startswith(".killed")] == []
    elif not folder.exists():
        train(TrainConfig(data=str(photos), **{**SETTINGS, "epochs": 6}, out=folder))
    assert result_of(folder)[1] == result_of(whole)[1]


class TestCommand:
    def test_last_is_the_newest_and_its_settings_hold(
        self, cli: Callable[..., Result], photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        monkeypatch.setenv(store.RUNS_VARIABLE, str(tmp_path / "runs"))
        assert cli("train", "--resume", "last").exit_code == 4
        with pytest.raises(KeyboardInterrupt):
            train(TrainConfig(data=str(photos), **SETTINGS), StopsAfter(2))
        result = cli("train", "--resume", "last")
        assert result.exit_code == 0, result.output
        assert "training 4 epochs on the CPU, 2 of them done" in result.output
        assert re.search(r"epoch   3 .*\nepoch   4 ", result.output)
        assert "epoch   2" not in result.output

    @pytest.mark.parametrize("arguments", [("photos",), ("--lr", "0.1"), ("--epochs", "9")])
    def test_other_settings_are_refused(self, cli: Callable[..., Result], arguments: tuple[str, ...]):
        result = cli("train", *arguments, "--resume", "somewhere")
        assert result.exit_code == 2
        assert "--resume goes on with the settings" in result.stderr
        assert len(result.stderr.splitlines()) == 1
