"""Random views of training images, batches of them, and mixtures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgecls.data.dataset import open_dataset
from edgecls.imaging.opencv import cv2
from edgecls.imaging.preprocess import Preprocess
from edgecls.training.augment import PRESETS, Augmentation
from edgecls.training.batches import Order, TrainingBatches
from edgecls.training.config import TrainConfig
from edgecls.training.loop import train
from edgecls.training.policies import OPERATIONS, rand_augment, trivial_augment

SIZE = Preprocess(48, 64)


@pytest.fixture
def photo() -> np.ndarray:
    """A smooth picture (90, 120, 3), darker on the left, with a red stripe."""
    image = np.tile(np.linspace(40, 220, 120, dtype=np.uint8)[None, :, None], (90, 1, 3))
    image[30:40] = (30, 30, 200)
    return np.ascontiguousarray(image)


@pytest.mark.parametrize("name", PRESETS)
def test_a_view_depends_on_its_seed_alone(photo: np.ndarray, name: str):
    first, again, other = (PRESETS[name](photo, SIZE, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert first.dtype == np.uint8
    if name == "none":
        assert (first == photo).all()
    else:
        assert first.shape == (48, 64, 3)
        assert (first != other).any()


def test_stronger_presets_change_more(photo: np.ndarray):
    plain = cv2.resize(photo, (64, 48), interpolation=cv2.INTER_AREA).astype(float)
    change = {
        name: np.mean([abs(preset(photo, SIZE, np.random.default_rng(s)) - plain).mean() for s in range(40)])
        for name, preset in PRESETS.items()
        if name != "none"
    }
    assert change["light"] < change["medium"] < change["strong"]


def test_hue_and_saturation_leave_greys_alone():
    grey = np.full((48, 64, 3), 120, np.uint8)
    colours = Augmentation((1, 1), 1, 0, mirror=False, contrast=0, brightness=0, saturation=0.9, hue_deg=180)
    assert abs(colours(grey, SIZE, np.random.default_rng(0)).astype(int) - 120).max() <= 1
    red = np.full((48, 64, 3), (0, 0, 200), np.uint8)
    assert len({tuple(colours(red, SIZE, np.random.default_rng(s))[0, 0]) for s in range(8)}) == 8


def test_erasing_covers_a_rectangle_of_noise():
    grey = np.full((48, 64, 3), 120, np.uint8)
    erasing = Augmentation((1, 1), 1, 0, mirror=False, contrast=0, brightness=0, saturation=0, erase=1.0)
    for seed in range(20):
        changed = (erasing(grey, SIZE, np.random.default_rng(seed)) != 120).any(axis=2)
        rows, columns = changed.any(axis=1).nonzero()[0], changed.any(axis=0).nonzero()[0]
        area = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        assert 0.01 < area / changed.size < 0.4
        assert changed.sum() > 0.95 * area


@pytest.mark.parametrize("policy", [trivial_augment, rand_augment])
def test_policies_use_all_their_operations_and_repeat_themselves(photo: np.ndarray, policy):
    views = [policy(photo, np.random.default_rng(seed)) for seed in range(60)]
    assert all(view.shape == photo.shape and view.dtype == np.uint8 for view in views)
    assert (views[7] == policy(photo, np.random.default_rng(7))).all()
    assert len({view.tobytes() for view in views}) > 20


@pytest.mark.parametrize("name", [name for name, _ in OPERATIONS if name != "identity"])
def test_every_operation_changes_the_picture_unless_its_strength_is_nothing(photo: np.ndarray, name: str):
    from PIL import Image

    operation = dict(OPERATIONS)[name]
    picture = Image.fromarray(photo)
    assert (np.asarray(operation(picture, 0.9)) != photo).any()
    if name not in ("autocontrast", "equalize"):
        assert abs(np.asarray(operation(picture, 0.0)).astype(int) - photo).max() <= 1


class TestOrder:
    def test_processes_share_each_batch_of_one_process(self):
        alone = list(Order(50, 8, seed=3).batches(2))
        shares = [list(Order(50, 8, 3, rank, 2).batches(2)) for rank in (0, 1)]
        assert len(alone) == 6
        for whole, first, second in zip(alone, *shares, strict=True):
            assert sorted(whole) == sorted([*first, *second])
            assert len(first) == len(second) == 4

    def test_what_is_skipped_is_what_came_first(self):
        assert [list(b) for b in Order(50, 8, 3).batches(2, skip=4)] == [list(b) for b in Order(50, 8, 3).batches(2)][
            4:
        ]
        assert [list(b) for b in Order(50, 8, 3).batches(1)] != [list(b) for b in Order(50, 8, 3).batches(2)]

    def test_few_images_make_one_small_batch(self):
        [batch] = Order(5, 8, 0).batches(1)
        assert sorted(batch) == [0, 1, 2, 3, 4]


def test_mixtures_blend_images_and_share_labels(photos: Path):
    dataset = open_dataset(str(photos), 0)
    torch.manual_seed(0)
    for change in ({"mixup": 1.0}, {"cutmix": 1.0}):
        batches = TrainingBatches(dataset, Preprocess(32, 32), Augmentation(**change), 8, seed=0)
        images, shares = next(batches.epoch(1))
        assert images.shape == (8, 32, 32, 3)
        assert shares.shape == (8, 2)
        assert torch.allclose(shares.sum(dim=1), torch.ones(8))
        assert ((shares > 0) & (shares < 1)).any()
        assert images.max() > 100


@pytest.mark.parametrize(
    "change",
    [{"augment": "strong"}, {"augment": "none"}, {"policy": "rand", "erase": 0.5}, {"mixup": 0.4, "loss": "bce"},
     {"cutmix": 1.0, "loss": "focal", "balance": "sqrt-sampling"}],
    ids=lambda change: "-".join(map(str, change)),
)  # fmt: skip
def test_it_learns_from_what_is_varied_and_shows_it(photos: Path, tmp_path: Path, change: dict):
    config = TrainConfig(
        data=str(photos),
        arch="simple_cnn",
        weights="none",
        epochs=8,
        batch_size=8,
        size_px=32,
        out=tmp_path / "run",
        **change,
    )
    path, metrics = train(config)
    assert metrics.top1 == 1.0
    preview = cv2.imread(str(path / "augmented.jpg"))
    assert preview.shape == (32, 8 * 32, 3)
