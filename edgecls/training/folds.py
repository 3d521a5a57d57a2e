"""Cross-validation: which images each fold holds out, and what is kept of the folds that are done."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgecls.data.dataset import Dataset
from edgecls.data.layout import groups_in
from edgecls.data.splits import HELD_OUT_FRACTION, Sample, divide
from edgecls.errors import ArtifactError, DataError, UsageError
from edgecls.evaluation.cross_validation import CrossValidation
from edgecls.files import make_folder, read_text, write_text
from edgecls.training.checkpoint import FOLDS_FILE, images_of
from edgecls.training.history import TrainingCallbacks

LEAST_GROUPS = 3
"""Of a class: one to learn from, one to choose the epoch by, one to be judged on."""


def folds_of(dataset: Dataset, count: int) -> list[Dataset]:
    """The data set once for each fold, which is its test split; training and validation images are all others.

    The folds share out the images of the training and validation splits, each class in its proportion and no group (the
    column "group" of a manifest) torn apart; the test split takes no part. The epoch of each model is chosen by images
    that are not in its fold. Raises `UsageError` for more folds than a class has images or groups.
    """
    group_of = groups_in(dataset.columns)
    pool = sorted((*dataset.splits["train"], *dataset.splits["val"]), key=lambda sample: sample.key)
    _require_enough(dataset, {(sample.label, group_of(sample)) for sample in pool}, count, len(pool))
    parts = _parts(pool, group_of, count, dataset.seed)
    folds = []
    for members in parts:
        others = [sample for samples in parts if samples is not members for sample in samples]
        learned = divide(others, group_of, {"val": HELD_OUT_FRACTION["val"]}, dataset.seed)
        folds.append(replace(dataset, splits={**learned, "test": members}))
    return folds


def _parts(pool: Sequence[Sample], group_of: Callable[[Sample], str], count: int, seed: int) -> list[list[Sample]]:
    """The samples in `count` parts; each class is dealt out like cards where there are no groups to keep together."""
    if len({group_of(sample) for sample in pool}) < len(pool):
        fractions = {str(number): 1 / count for number in range(1, count)}
        return list(divide(pool, group_of, fractions, seed).values())
    shuffled = random.Random(seed).sample(pool, len(pool))
    by_class = sorted(shuffled, key=lambda sample: sample.label)
    return [sorted(by_class[start::count], key=lambda sample: sample.key) for start in range(count)]


def _require_enough(dataset: Dataset, groups: set[tuple[int, str]], count: int, images: int) -> None:
    what = "images" if len(groups) == images else "groups"
    sizes = [sum(label == index for label, _ in groups) for index in range(len(dataset.classes))]
    least, name = min(zip(sizes, dataset.classes, strict=True))
    if least < max(count, LEAST_GROUPS):
        raise UsageError(
            f"`folds` {count}: class {name} has {least} {what} for training and validation, at least "
            f"{max(count, LEAST_GROUPS)} are needed; take fewer folds or add images"
        )


@dataclass(frozen=True)
class FoldsDone:
    """What stands in a run's folder while its folds are trained: the settings, the images, and the folds so far."""

    settings: Mapping[str, Any]
    images: str
    result: CrossValidation

    def write(self, path: Path) -> None:
        """Write it into a run's folder in place of the one before."""
        record = {"settings": dict(self.settings), "images": self.images, **self.result.to_json()}
        write_text(make_folder(path) / FOLDS_FILE, json.dumps(record, indent=1) + "\n")

    def require_same_images(self, dataset: Dataset) -> None:
        """Raise `DataError` where the data set is no longer the one that the first fold was trained on."""
        if digest_of(dataset) != self.images:
            raise DataError(
                f"the images of {dataset.source.name} have changed since this cross-validation began; bring them back, "
                "or train anew"
            )


def digest_of(dataset: Dataset) -> str:
    """A digest of which image is of which class and in which split."""
    return hashlib.sha256(json.dumps(images_of(dataset)).encode()).hexdigest()


def read_folds(path: Path) -> FoldsDone | None:
    """What is done of a cross-validation; None where nothing is. Raises `ArtifactError` for a damaged file."""
    file = path / FOLDS_FILE
    if not file.is_file():
        return None
    try:
        record = json.loads(read_text(file))
        return FoldsDone(dict(record["settings"]), str(record["images"]), CrossValidation.from_json(record))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{file} is damaged; train anew") from error


class FoldCallbacks(TrainingCallbacks):
    """Tells of one fold's training only how far it is."""

    def __init__(self, callbacks: TrainingCallbacks):
        self._callbacks = callbacks

    def batch(self, epoch: int, loss: float) -> None:
        """See `TrainingCallbacks`."""
        self._callbacks.batch(epoch, loss)
