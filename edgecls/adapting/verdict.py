"""Is what learned again better than before? On old images, on new ones, and on each class, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

from edgecls.errors import VerificationError
from edgecls.runtime.intervals import Z_95, paired_interval

if TYPE_CHECKING:
    from numpy import bool_, float32, int64
    from numpy.typing import NDArray

Word = Literal["better", "equal", "worse"]
MAX_DROP_POINTS = 1.0
"""Of top-1, that may be lost where the images are too few to prove a loss."""
LEVEL = 0.95
"""Of all tests of classes together."""
LIKELY = 1.6449
"""One-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True)
class Change:
    """Right answers before and after on the same `images`; fractions, and points gained with their 95 % interval."""

    name: str
    images: int
    before: float
    after: float
    gain_points: float
    low_points: float
    high_points: float
    word: Word

    @classmethod
    def of(
        cls,
        name: str,
        before: NDArray[bool_],
        after: NDArray[bool_],
        max_drop_points: float | None,
        z_of_loss: float = Z_95,
    ) -> Change:
        """From which images (N,) were right before, and which are after.

        Worse is what the interval (Newcombe's, for pairs) proves to be a loss, and, unless `max_drop_points` is None, a
        larger loss than that with a likelihood of 95 % (McNemar); better what the interval proves to be a gain. A loss
        must be proven by the interval of the quantile `z_of_loss`; that of 95 % is told.
        """
        count, both = len(before), int((before & after).sum())
        lost, won = int((before & ~after).sum()), int((after & ~before).sum())
        low, high = paired_interval(both, lost, won, count)
        gain = 100 * (won - lost) / max(count, 1)
        proven = paired_interval(both, lost, won, count, z_of_loss)[0] > 0
        word: Word = "worse" if proven else "better" if high < 0 else "equal"
        if max_drop_points is not None and -gain > max_drop_points and lost - won > LIKELY * (lost + won) ** 0.5:
            word = "worse"
        return cls(name, count, (both + lost) / max(count, 1), (both + won) / max(count, 1), gain, -100 * high,
                   -100 * low, word)  # fmt: skip

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.word}, top-1 {100 * self.before:.2f} -> {100 * self.after:.2f} % "
            f"({self.gain_points:+.2f} points, 95 %: {self.low_points:+.2f} to {self.high_points:+.2f}; "
            f"{self.images} images)"
        )


@dataclass(frozen=True)
class Verdict:
    """What changed on the held-out images: `groups` are "old", "new" and, where there are new classes, "new images of
    known classes", as far as there are images; `classes` are all that have images.
    """

    groups: tuple[Change, ...]
    classes: tuple[Change, ...]
    word: Word

    @classmethod
    def of(
        cls,
        before: NDArray[float32],
        after: NDArray[float32],
        labels: NDArray[int64],
        is_new: NDArray[bool_],
        classes: Sequence[str],
        max_drop_points: float = MAX_DROP_POINTS,
    ) -> Verdict:
        """From scores (N, C) of `classes` before, minus infinity for what was not known, and after.

        It is worse where old images, new ones of classes known before, or one class are; else better where old or new
        images are. The more classes there are, the clearer the loss of one must be, see `_of_classes`.
        """
        import numpy as np

        were, are = before.argmax(axis=1) == labels, after.argmax(axis=1) == labels
        known = np.isin(labels, np.flatnonzero(np.isfinite(before).any(axis=0)))
        parts = {"old images": ~is_new, "new images": is_new}
        if not known.all():
            parts["new images of known classes"] = is_new & known
        groups = {
            name: Change.of(name, were[part], are[part], max_drop_points) for name, part in parts.items() if part.any()
        }
        each = _of_classes(
            {
                name: (were[labels == label], are[labels == label])
                for label, name in enumerate(classes)
                if (labels == label).any()
            }
        )
        words = [change.word for change in (*groups.values(), *each)]
        word: Word = "worse" if "worse" in words else "equal"
        if word == "equal" and any(change.word == "better" for change in groups.values()):
            word = "better"
        return cls(tuple(groups.values()), tuple(each), word)

    @property
    def worse(self) -> list[Change]:
        """What got worse."""
        return [change for change in (*self.groups, *self.classes) if change.word == "worse"]

    def require(self) -> None:
        """Raise `VerificationError` for one that is worse."""
        if self.word == "worse":
            raise VerificationError(
                f"worse than before on {'; '.join(map(str, self.worse))}; nothing was written. Look at the labels of "
                "the new images and add more, or take it with `accept_worse`"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "verdict": self.word,
            "groups": [asdict(change) for change in self.groups],
            "classes": [asdict(change) for change in self.classes],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Verdict:
        """Read what `to_json` wrote. Raises `KeyError` or `TypeError` for anything else."""
        groups, classes = (tuple(Change(**each) for each in record[name]) for name in ("groups", "classes"))
        return cls(groups, classes, record["verdict"])


def _of_classes(parts: Mapping[str, tuple[NDArray[bool_], NDArray[bool_]]]) -> list[Change]:
    """The change of each class, from which of its images were right before and after.

    Of many classes some lose by chance. So that in 95 % of all cases none of those is called worse that are not, the
    levels of the tests are corrected: with k of m classes found worse, the others are tested at 5 % / (m - k), until no
    more are found (Holm, Scandinavian Journal of Statistics 6 (1979), 65-70).
    """
    worse = 0
    while True:
        z = NormalDist().inv_cdf(1 - (1 - LEVEL) / 2 / max(1, len(parts) - worse))
        changes = [Change.of(name, before, after, None, z) for name, (before, after) in parts.items()]
        found = sum(change.word == "worse" for change in changes)
        if found == worse:
            return changes
        worse = found


def scores_for(scores: NDArray[float32], sources: Sequence[Sequence[int]]) -> NDArray[float32]:
    """Scores (N, C) as those of other classes: each has the best of its sources' scores, or minus infinity."""
    import numpy as np

    columns = [scores[:, list(each)].max(axis=1) if each else np.full(len(scores), -np.inf) for each in sources]
    result: NDArray[float32] = np.stack(columns, axis=1).astype(np.float32)
    return result
