"""Images that are decoded once: what is kept, where, and that training sees the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgecls import cache
from edgecls.data.dataset import open_dataset
from edgecls.data.sources import FolderSource
from edgecls.errors import ImageError
from edgecls.imaging.preprocess import Preprocess
from edgecls.runtime import machine
from edgecls.training import kept
from edgecls.training.augment import PRESETS
from edgecls.training.batches import TrainingBatches
from edgecls.training.config import TrainConfig
from edgecls.training.history import read_history
from edgecls.training.kept import Keeping, KeptImages
from edgecls.training.loop import train

IMAGE_BYTES = 5 * 7 * 3


class Maker:
    """Images of their own for each key, counted."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def get(self, images: KeptImages, key: str) -> np.ndarray:
        return images.get(key, lambda: self._make(key))

    def _make(self, key: str) -> np.ndarray:
        self.made.append(key)
        return np.random.default_rng(len(key)).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def _room(monkeypatch: pytest.MonkeyPatch, memory_images: int, disk_images: int) -> None:
    monkeypatch.setattr(kept, "MEMORY_SHARE", 1.0)
    monkeypatch.setattr(kept, "DISK_SHARE", 1.0)
    monkeypatch.setattr(machine, "available_memory_bytes", lambda: memory_images * IMAGE_BYTES)
    usage = type("Usage", (), {"free": disk_images * IMAGE_BYTES})
    monkeypatch.setattr(kept.shutil, "disk_usage", lambda _: usage)


@pytest.mark.parametrize(("keeping", "again"), [("auto", 1), ("memory", 3), ("disk", 2), ("off", 4)])
def test_images_are_made_again_only_where_there_is_no_room(
    keeping: Keeping, again: int, monkeypatch: pytest.MonkeyPatch
):
    _room(monkeypatch, 1, 2)
    images, maker = KeptImages(keeping), Maker()
    keys = ["a", "bb", "ccc", "dddd"]
    first = [maker.get(images, key) for key in keys]
    second = [maker.get(images, key) for key in keys]
    assert len(maker.made) == 4 + again
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_processes_share_the_room(monkeypatch: pytest.MonkeyPatch):
    _room(monkeypatch, 2, 2)
    images, maker = KeptImages("auto", processes=2), Maker()
    for key in ("a", "bb", "ccc") * 2:
        maker.get(images, key)
    assert maker.made == ["a", "bb", "ccc", "ccc"]


def test_a_full_disk_means_that_images_are_made_again(monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept.os, "pwrite", full)
    images, maker = KeptImages("disk"), Maker()
    for _ in range(2):
        assert maker.get(images, "a").shape == (5, 7, 3)
    assert maker.made == ["a", "a"]


def test_an_image_that_cannot_be_read_is_an_error_each_time():
    def damaged() -> np.ndarray:
        raise ImageError("the file is truncated")

    images = KeptImages()
    for _ in range(2):
        with pytest.raises(ImageError, match="truncated"):
            images.get("a", damaged)


def test_a_part_of_an_image_does_not_keep_the_whole():
    whole = np.zeros((100, 100, 3), np.uint8)
    images = KeptImages("memory")
    images.get("a", lambda: whole[:2, :2])
    assert images.get("a", lambda: whole).base is None


def test_a_killed_process_leaves_nothing():
    script = """if True:
        import os, signal, numpy as np
        from edgecls.training.kept import KeptImages
        images = KeptImages("disk")
        images.get("a", lambda: np.ones((100, 100, 3), np.uint8))
        assert images.get("a", None).sum() == 30_000
        os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    folder = cache.folder()
    assert folder is not None
    assert not [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size == 30_000]


@pytest.mark.parametrize("keeping", ["memory", "disk"])
def test_epochs_after_the_first_decode_nothing(keeping: Keeping, photos: Path, monkeypatch: pytest.MonkeyPatch):
    dataset, read = open_dataset(str(photos), 0), []
    read_for = FolderSource.read_for

    def counted(self: FolderSource, key: str, geometry: Preprocess) -> np.ndarray:
        read.append(key)
        return read_for(self, key, geometry)

    monkeypatch.setattr(FolderSource, "read_for", counted)
    batches = TrainingBatches(dataset, Preprocess(16, 16), PRESETS["medium"], 3, 0, keeping=keeping)
    val = dataset.splits["val"]
    for number in (1, 2, 3):
        list(batches.epoch(number))
        list(batches.val_inputs(val))
    assert sorted(read) == sorted(sample.key for split in ("train", "val") for sample in dataset.splits[split])


def test_training_comes_to_the_same_weights(photos: Path, tmp_path: Path):
    found = []
    for keeping in ("off", "memory", "disk"):
        config = TrainConfig(
            data=str(photos), arch="simple_cnn:widths=8-16", weights="none", epochs=3, size_px=32, batch_size=8,
            cache=keeping, out=tmp_path / keeping,
        )  # fmt: skip
        path, _ = train(config)
        losses = [(epoch.train_loss, epoch.val_loss) for epoch in read_history(path)]
        found.append((losses, load_file(path / "model.safetensors")))
    for losses, weights in found[1:]:
        assert losses == found[0][0]
        assert all(torch.equal(weights[name], tensor) for name, tensor in found[0][1].items())


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="asks POSIX")
def test_available_memory_is_less_than_all():
    assert 0 < machine.available_memory_bytes() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
