"""A few raw inputs and the parent's scores for them, by which any runtime on any machine can check itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.artifact.arrays import read_arrays
from edgecls.artifact.card import Card
from edgecls.errors import ArtifactError

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

GOLDEN_FILE = "golden.npz"


@dataclass(frozen=True)
class Golden:
    """Raw inputs (K, h, w, 3) uint8 RGB and the scores (K, C) float32 that the parent gave for them."""

    images: NDArray[uint8]
    scores: NDArray[float32]

    def write(self, folder: Path) -> None:
        """Write `folder/golden.npz`."""
        import numpy as np

        np.savez_compressed(folder / GOLDEN_FILE, images=self.images, scores=self.scores)

    @classmethod
    def read(cls, folder: Path, card: Card | None = None) -> Golden:
        """Read `folder/golden.npz`; nothing in it is ever unpickled.

        Raises `ArtifactError` for a file that is missing or damaged, and where a card is given, for inputs and scores
        that are not those of its network.
        """
        import numpy as np

        path = folder / GOLDEN_FILE
        try:
            golden = cls(*read_arrays(path, "images", "scores"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ArtifactError(f"{path} is missing or damaged ({reason}); export again") from error
        count = len(golden.images) if golden.images.ndim == 4 else 0
        image = card.input_shape if card else golden.images.shape[1:]
        classes = (len(card.classes),) if card else golden.scores.shape[1:]
        for name, array, dtype, shape in (
            ("images", golden.images, np.uint8, (count, *image)),
            ("scores", golden.scores, np.float32, (count, *classes)),
        ):
            if array.dtype != dtype or array.shape != shape or not count:
                wanted = f"{np.dtype(dtype)} {shape}, of at least one image"
                raise ArtifactError(f"{path}: {name} are {array.dtype} {array.shape} and must be {wanted}")
        if not np.isfinite(golden.scores).all():
            raise ArtifactError(f"{path}: the parent's scores are not all finite, so they prove nothing; export again")
        return golden
