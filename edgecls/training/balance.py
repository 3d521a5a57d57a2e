"""Uneven and small classes: what a training does about them, and how it says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgecls.data.check import MAX_IMBALANCE
from edgecls.data.dataset import Dataset
from edgecls.evaluation.inference import labels_of

if TYPE_CHECKING:
    import torch
    from numpy import float64, int64
    from numpy.typing import NDArray

    from edgecls.training.optimize import Loss

Balance = Literal["auto", "none", "sampling", "sqrt-sampling", "weights", "logit-adjustment"]
Merit = Literal["top1", "macro-f1"]
FEW_IMAGES = 20
"""With fewer training images in a class its figures say little; see `folds`."""
EFFECTIVE_BETA = 0.999
"""Of the effective number of samples: from about 1,000 images on another one adds little (Cui et al. 2019)."""
UNEVEN_DEFAULT: Balance = "sampling"
"""What measured best on uneven subsets of two real sets: `benchmarks/uneven.py`.

All ways do much the same for a frozen backbone; where the whole network learns, seeing rare images more often, varied
anew each time, is worth more than weights.
"""


@dataclass(frozen=True)
class Counts:
    """How many training images each class has, `images` in the order of `classes`."""

    classes: tuple[str, ...]
    images: tuple[int, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> Counts:
        """Those of a data set."""
        import numpy as np

        counted = np.bincount(labels_of(dataset.splits["train"]), minlength=len(dataset.classes))
        return cls(dataset.classes, tuple(int(count) for count in counted))

    @property
    def uneven(self) -> bool:
        """Whether the largest class has more than `MAX_IMBALANCE` times the images of the smallest."""
        return max(self.images) > MAX_IMBALANCE * min(self.images)

    @property
    def few(self) -> Sequence[str]:
        """The classes with fewer than `FEW_IMAGES` images, the smallest first."""
        by_size = sorted(zip(self.images, self.classes, strict=True))
        return [name for images, name in by_size if images < FEW_IMAGES]

    def remarks(self, balance: Balance, merit: Merit, folds: int | None) -> list[str]:
        """What a person should know: that classes are uneven and what is done, that some are small."""
        lines = []
        if self.uneven or balance != "none":
            (least, fewest), (most, many) = self._ends()
            kept = {"top1": "top-1", "macro-f1": "macro F1"}[merit]
            done = "nothing is done about it" if balance == "none" else f"balanced by {balance}"
            counts = f"{many} training images of {most}, {fewest} of {least}"
            if self.uneven:
                counts = f"uneven classes: {counts}"
            elif fewest == many:
                counts = f"{many} training images of each class"
            lines.append(f"{counts}; {done}, the epoch with the best {kept} is kept")
        if self.few:
            (least, fewest), _ = self._ends()
            hint = "" if folds else "; `folds` 5 tells how far the figures can be trusted"
            lines.append(
                f"few images: {len(self.few)} of {len(self.classes)} classes have fewer than {FEW_IMAGES} for "
                f"training, {least} only {fewest}{hint}"
            )
        return lines

    def _ends(self) -> tuple[tuple[str, int], tuple[str, int]]:
        pairs = list(zip(self.classes, self.images, strict=True))
        return min(pairs, key=lambda pair: pair[1]), max(pairs, key=lambda pair: pair[1])


def resolved(balance: Balance, select_by: str, counts: Counts) -> tuple[Balance, Merit]:
    """What "auto" means for these classes: nothing and top-1, unless they are uneven."""
    if balance == "auto":
        balance = UNEVEN_DEFAULT if counts.uneven else "none"
    merit: Merit = ("macro-f1" if counts.uneven else "top1") if select_by == "auto" else select_by  # type: ignore[assignment]
    return balance, merit


def class_shares(counts: Sequence[int], balance: Balance) -> NDArray[float64] | None:
    """The share of an epoch (C,) that each class gets; None where every image comes once.

    "sampling" gives all classes the same share, "sqrt-sampling" one in proportion to the square root of their images.
    """
    import numpy as np

    if balance not in ("sampling", "sqrt-sampling"):
        return None
    images = np.asarray(counts, float)
    weights = np.sqrt(images) if balance == "sqrt-sampling" else (images > 0).astype(float)
    shares: NDArray[float64] = weights / weights.sum()
    return shares


def drawing(
    labels: NDArray[int64], counts: Sequence[int], balance: Balance
) -> Callable[[Sequence[int]], NDArray[int64]] | None:
    """What draws an epoch's visits from a seed; None where every image comes once."""
    shares = class_shares(counts, balance)
    return None if shares is None else lambda seed: repeated_order(labels, shares, seed)


def effective_weights(counts: Sequence[int]) -> NDArray[float64]:
    """Class weights (C,) by the effective number of samples, 1 on average over images.

    Of n images of a class, which overlap in what they show, the effective number is (1 - beta^n) / (1 - beta), and a
    class weighs as much as that is small (Cui et al. 2019, arXiv:1901.05555).
    """
    import numpy as np

    images = np.maximum(np.asarray(counts, float), 1)
    weights = (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA**images)
    normalized: NDArray[float64] = weights * np.sum(counts) / np.dot(weights, counts)
    return normalized


def log_priors(counts: Sequence[int]) -> NDArray[float64]:
    """The logarithm of each class's share of the images (C,), of one image where it has none."""
    import numpy as np

    images = np.maximum(np.asarray(counts, float), 1)
    priors: NDArray[float64] = np.log(images / images.sum())
    return priors


def adjusted(loss: Loss, priors: torch.Tensor) -> Loss:
    """A loss of scores (N, C) to which the logarithm of the priors (C,) is added first.

    The network then need not learn how frequent classes are, and its own scores are those of classes that are equally
    frequent (Menon et al. 2021, arXiv:2007.07314, equation 10 with tau 1). What is exported is unchanged.
    """
    return lambda scores, targets: loss(scores + priors.to(scores.dtype), targets)


def repeated_order(labels: NDArray[int64], shares: NDArray[float64], seed: Sequence[int]) -> NDArray[int64]:
    """Visits (N,) of an epoch in random order, in which class c has the share `shares[c]`; see `Order`.

    The images of a class come as evenly as can be: none comes a third time before all have come twice.
    """
    import numpy as np

    generator, count = np.random.default_rng(seed), len(labels)
    ends = np.floor(np.append(np.cumsum(shares)[:-1], 1.0) * count + generator.random()).astype(int)
    visits = []
    for label, visited in enumerate(np.diff(ends, prepend=0)):
        members = np.flatnonzero(labels == label)
        turns = range(math.ceil(visited / max(len(members), 1)))
        repeated = [generator.permutation(members) + count * turn for turn in turns]
        visits.append(np.concatenate([members[:0], *repeated])[:visited])
    order: NDArray[int64] = generator.permutation(np.concatenate(visits))
    return order
