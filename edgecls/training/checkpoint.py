"""What a training needs to go on after it was ended: written whole after each epoch, and on Ctrl-C between two steps.

Which images come when, and how they are varied, follows from seed and epoch alone; it need not be kept.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecls import models
from edgecls.data.dataset import Dataset
from edgecls.errors import ArtifactError, DataError
from edgecls.files import make_folder, write_bytes
from edgecls.runtime.store import runs_folder
from edgecls.training.history import Epoch
from edgecls.training.setup import TrainingSetup

CHECKPOINT_FILE = "checkpoint.pt"
FOLDS_FILE = "folds.json"


@dataclass(frozen=True)
class Checkpoint:
    """The state after a step: `settings` of the training, `history` of its whole epochs, and `state` for torch."""

    settings: dict[str, Any]
    history: list[dict[str, Any]]
    images: list[list[Any]]
    state: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write it into a run's folder in place of the one before."""
        import torch

        content = io.BytesIO()
        torch.save(vars(self), content)
        write_bytes(make_folder(path) / CHECKPOINT_FILE, content.getvalue())

    def require_same_images(self, dataset: Dataset) -> None:
        """Raise `DataError` where the data set is no longer the one that the training began with."""
        if images_of(dataset) != self.images:
            raise DataError(
                f"the images of {dataset.source.name} have changed since this training began, so it cannot go on as it "
                "would have; bring them back, or train anew"
            )


def unfinished(given: Path) -> Path:
    """The folder of a training to go on with: the one given or, for `last`, the newest. Raises `ArtifactError`."""
    if given != Path("last"):
        return given
    found = (file for name in (CHECKPOINT_FILE, FOLDS_FILE) for file in runs_folder().glob(f"*/{name}"))
    checkpoints = sorted(found, key=lambda file: file.stat().st_mtime)
    if not checkpoints:
        raise ArtifactError(f"no training in {runs_folder()}/ is unfinished")
    return checkpoints[-1].parent


def images_of(dataset: Dataset) -> list[list[Any]]:
    """Split, key and class of every image, for comparison."""
    return [[split, s.key, s.label] for split, samples in sorted(dataset.splits.items()) for s in samples]


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a run's folder; nothing in it is unpickled but tensors. Raises `ArtifactError`."""
    import pickle

    import torch

    file = path / CHECKPOINT_FILE
    if not file.is_file():
        raise ArtifactError(f"{path} holds no unfinished training; give the folder that a stopped training named")
    try:
        return Checkpoint(**torch.load(file, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise ArtifactError(f"{file} is damaged; train anew") from error


def write_checkpoint(setup: TrainingSetup, path: Path) -> None:
    """Write the training as it stands between two steps into a run's folder, in place of the checkpoint before."""
    import torch

    optimization, progress = setup.optimization, setup.progress
    state = {
        "network": setup.model.network.state_dict(),
        "average": optimization.average.state_dict() if optimization.average else {},
        "best": progress.best,
        "optimizer": optimization.plain_optimizer.state_dict(),
        "schedule": optimization.schedule.state_dict(),
        "losses": progress.losses,
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if setup.fabric.device.type == "cuda" else [],
    }
    settings = {**setup.config.to_json(), "epochs": setup.epochs}
    Checkpoint(settings, [asdict(epoch) for epoch in progress.history], images_of(setup.dataset), state).write(path)


def restore(setup: TrainingSetup, checkpoint: Checkpoint) -> None:
    """Bring a training that has not begun to where the checkpoint was written; torch's random state too."""
    import torch

    state, optimization, progress = checkpoint.state, setup.optimization, setup.progress
    models.restore(setup.model.network, state["network"])
    if optimization.average:
        optimization.average.load_state_dict(state["average"])
    progress.best = state["best"]
    optimization.plain_optimizer.load_state_dict(state["optimizer"])
    optimization.schedule.load_state_dict(state["schedule"])
    progress.history = [Epoch(**epoch) for epoch in checkpoint.history]
    progress.losses = state["losses"]
    if setup.fabric.is_global_zero:  # the others keep drawing otherwise
        torch.set_rng_state(state["random"])
        if state["random_cuda"] and setup.fabric.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["random_cuda"])
