"""What a training needs to go on after it was ended: written whole after each epoch, and on Ctrl-C between two steps.

Which images come when, and how they are varied, follows from seed and epoch alone; it need not be kept.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecls.data.dataset import Dataset
from edgecls.errors import ArtifactError, DataError
from edgecls.files import make_folder, write_bytes
from edgecls.runtime.store import runs_folder

CHECKPOINT_FILE = "checkpoint.pt"


@dataclass(frozen=True)
class Checkpoint:
    """The state after a step: `settings` of the training, `history` of its whole epochs, and `state` for torch."""

    settings: dict[str, Any]
    history: list[dict[str, Any]]
    images: list[list[Any]]
    state: dict[str, Any]

    def write(self, place: Path) -> None:
        """Write it into a run's folder in place of the one before."""
        import torch

        content = io.BytesIO()
        torch.save(vars(self), content)
        write_bytes(make_folder(place) / CHECKPOINT_FILE, content.getvalue())

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
    found = sorted(runs_folder().glob(f"*/{CHECKPOINT_FILE}"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise ArtifactError(f"no training in {runs_folder()}/ is unfinished")
    return found[-1].parent


def images_of(dataset: Dataset) -> list[list[Any]]:
    """Split, key and class of every image, for comparison."""
    return [[split, s.key, s.label] for split, samples in sorted(dataset.splits.items()) for s in samples]


def read_checkpoint(place: Path) -> Checkpoint:
    """The checkpoint in a run's folder; nothing in it is unpickled but tensors. Raises `ArtifactError`."""
    import pickle

    import torch

    file = place / CHECKPOINT_FILE
    if not file.is_file():
        raise ArtifactError(f"{place} holds no unfinished training; give the folder that a stopped training named")
    try:
        return Checkpoint(**torch.load(file, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise ArtifactError(f"{file} is damaged; train anew") from error
