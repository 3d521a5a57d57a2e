"""The run that is made smaller: the settings and images that it was trained with."""

from __future__ import annotations

from edgecls.data.dataset import Dataset, open_dataset, open_recorded
from edgecls.errors import DataError, UsageError
from edgecls.runtime.store import Artifact
from edgecls.training.checkpoint import images_of
from edgecls.training.config import CONFIG_FILE, TrainConfig, read_config


def settings_of_run(run: Artifact) -> TrainConfig:
    """The settings that a run was trained with, without those that belong to its weights or to its architecture alone.

    Raises `UsageError` for a run that was not trained here.
    """
    if not (run.path / CONFIG_FILE).is_file():
        raise UsageError(
            f"{run.path} was not trained here, so its settings are not known; train it first: edgecls train DATA "
            f"`weights` {run.path}",
            "run",
        )
    settings = read_config(run.path / CONFIG_FILE)
    for name in ("lr", "freeze", "layer_decay", "dropout", "patience", "folds", "tensorboard"):
        settings.pop(name, None)
    return TrainConfig(**settings)


def training_images(run: Artifact, config: TrainConfig) -> Dataset:
    """The images that a run was trained, validated and tested on, in the same splits.

    Raises `DataError` where they have changed: what was held out from the run must be held out from what it teaches.
    """
    dataset = open_dataset(config.data, config.seed)
    if images_of(dataset) != images_of(open_recorded(run.path)):
        raise DataError(
            f"the images of {dataset.source.name} are not those that {run.path} was trained on; bring them back, or "
            "train it anew"
        )
    return dataset
