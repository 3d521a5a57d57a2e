"""What a bundle remembers of the images that its run learned from, so that it can learn again without them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.adapting.head import Head
from edgecls.artifact.arrays import read_arrays
from edgecls.artifact.card import Card
from edgecls.errors import ArtifactError

if TYPE_CHECKING:
    from numpy import float32, int64, uint8
    from numpy.typing import NDArray

MEMORY_FILE = "memory.npz"
MAX_IMAGES = 300
"""Of training images, and as many held-out ones: with 1,280 values each, a megabyte in all."""
SEED = 0
_NAMES = ("weight", "bias", "low", "step", "train", "train_labels", "test", "test_labels")
_KNOWN = ("known", "knows_all")
"""All images' digests; bundles that were written before these were recorded lack them."""


def short_digest(sha256: str) -> int:
    """The first 64 bits of a SHA-256 in hex: of a million images two share one by a chance of 1 to 37 million."""
    return int(sha256[:16], 16)


@dataclass(frozen=True)
class Memory:
    """The last layer `head`, and embeddings (N, D) with labels (N,) of images that were trained on and held out.

    `known` are the short digests of all images that were learned from or judged by, far more than are remembered;
    without `knows_all` there were others, whose digests nobody recorded.
    """

    head: Head
    train: NDArray[float32]
    train_labels: NDArray[int64]
    test: NDArray[float32]
    test_labels: NDArray[int64]
    known: frozenset[int] = frozenset()
    knows_all: bool = False

    def write(self, folder: Path) -> None:
        """Write `folder/memory.npz`; embeddings are rounded to 256 steps of each value's range."""
        import numpy as np

        both = np.concatenate([self.train, self.test])
        low = both.min(axis=0)
        step = np.maximum((both.max(axis=0) - low) / 255, 1e-12).astype(np.float32)

        def rounded(values: NDArray[float32]) -> NDArray[uint8]:
            return np.round((values - low) / step).astype(np.uint8)

        np.savez_compressed(
            folder / MEMORY_FILE,
            weight=self.head.weight, bias=self.head.bias, low=low, step=step,
            train=rounded(self.train), train_labels=self.train_labels.astype(np.int64),
            test=rounded(self.test), test_labels=self.test_labels.astype(np.int64),
            known=np.array(sorted(self.known), np.uint64), knows_all=np.array(self.knows_all),
        )  # fmt: skip

    @classmethod
    def read(cls, folder: Path, card: Card) -> Memory:
        """Read `folder/memory.npz`. Raises `ArtifactError` where it is missing, damaged or another network's."""
        import numpy as np

        path = folder / MEMORY_FILE
        if not path.is_file():
            raise ArtifactError(
                f"{folder} holds no {MEMORY_FILE}, which ONNX bundles have whose last layer gives the scores; export "
                "the run again, or let the run learn with: edgecls retrain"
            )
        try:
            weight, bias, low, step, train, train_labels, test, test_labels = read_arrays(path, *_NAMES)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ArtifactError(f"{path} is damaged ({reason}); export the run again") from error
        classes, width = len(card.classes), weight.shape[-1] if weight.ndim else 0
        wanted = {
            "weight": (weight, np.float32, (classes, width)), "bias": (bias, np.float32, (classes,)),
            "low": (low, np.float32, (width,)), "step": (step, np.float32, (width,)),
            "train": (train, np.uint8, (len(train_labels), width)),
            "train_labels": (train_labels, np.int64, (len(train),)),
            "test": (test, np.uint8, (len(test_labels), width)), "test_labels": (test_labels, np.int64, (len(test),)),
        }  # fmt: skip
        for name, (array, dtype, shape) in wanted.items():
            if array.dtype != dtype or array.shape != shape:
                raise ArtifactError(
                    f"{path}: {name} is {array.dtype} {array.shape} and must be {dtype.__name__} {shape}"
                )
        for name, labels in (("train_labels", train_labels), ("test_labels", test_labels)):
            if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
                raise ArtifactError(f"{path}: {name} names a class that there is not; export the run again")
        if not all(np.isfinite(array).all() for array in (weight, bias, low, step)):
            raise ArtifactError(f"{path} holds values that are not finite; export the run again")
        return cls(Head(weight, bias), train * step + low, train_labels, test * step + low, test_labels, *_known(path))


def _known(path: Path) -> tuple[frozenset[int], bool]:
    """`Memory.known` and `Memory.knows_all`."""
    import numpy as np

    try:
        known, knows_all = read_arrays(path, *_KNOWN)
    except ValueError:
        return frozenset(), False
    if known.dtype != np.uint64 or knows_all.dtype != np.bool_ or known.ndim != 1 or knows_all.ndim:
        raise ArtifactError(f"{path} is damaged (known is {known.dtype} {known.shape}); export the run again")
    return frozenset(known.tolist()), bool(knows_all)


def evenly(labels: NDArray[int64], positions: NDArray[int64], most: int) -> NDArray[int64]:
    """At most so many of the positions of some labels (N,), of every class the same number as far as it has them."""
    import numpy as np

    order = np.random.default_rng(SEED).permutation(positions)
    turns = np.zeros(len(order), np.int64)
    for label in np.unique(labels[order]):
        members = labels[order] == label
        turns[members] = np.arange(members.sum())
    chosen: NDArray[int64] = np.sort(order[np.argsort(turns, kind="stable")[:most]])
    return chosen
