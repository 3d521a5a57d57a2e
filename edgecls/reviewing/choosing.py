"""Which pictures are shown next, together: those that look alike around the most useful one, or those ranked next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from edgecls.reviewing.features import Features
from edgecls.reviewing.items import Item
from edgecls.reviewing.learning import LEARNED_FROM, compressed, gains, learned, uncertainty

if TYPE_CHECKING:
    from numpy import bool_, float32, int64
    from numpy.typing import NDArray

ALIKE = 0.35
"""Cosine of two points, of principal components, from which on pictures are shown together."""
UNSURE = 0.5
"""Pictures that the classifier is surer of, and that look like a labelled one, stand together with any that are taken
for the same class."""
SAMPLE = 1500
SURE = 1e-3
"""What a picture counts of which the classifier is sure."""
FARTHEST = -1.0
LABELLED_AT_LEAST = 8
"""Labelled pictures from which on what is learned from them counts more than what the model said."""


class Choice(Protocol):
    """Chooses groups of pictures, given as positions in the list of all."""

    def next(self, free: NDArray[bool_], size: int) -> list[int]:
        """At most `size` pictures of those that are free (N,); none where there is nothing to show (yet)."""

    def decided(self, labels: Mapping[int, str | None]) -> None:
        """Hear the labels of pictures by position: "" for those that got none, None where that is taken back."""

    def learn(self) -> None:
        """Take in what was heard since the last time. May take a while; others go on meanwhile."""

    def guess(self, position: int) -> str:
        """What a picture may show; "" where nothing is known."""


class Ranked:
    """The order that the pictures are given in; together are those that are doubted in the same way."""

    def __init__(self, items: Sequence[Item]):
        self._items = items
        self._kinds = [(each.reason, each.label, each.suggested) for each in items]

    def next(self, free: NDArray[bool_], size: int) -> list[int]:
        """See `Choice`."""
        import numpy as np

        left = np.flatnonzero(free).tolist()
        return [each for each in left if self._kinds[each] == self._kinds[left[0]]][:size]

    def decided(self, labels: Mapping[int, str | None]) -> None:
        """See `Choice`."""

    def learn(self) -> None:
        """See `Choice`."""

    def guess(self, position: int) -> str:
        """See `Choice`."""
        return self._items[position].suggested


class Alike:
    """Around the most useful picture those that look most like it and may show the same.

    Most useful is what brings most of the others that a classifier of the labelled pictures is unsure of nearest to a
    labelled one: it is unlike what is labelled, and like many that are not. In a comparison on three data sets this
    took fewest labels; see benchmarks/loop/review.py. Whoever shares it between threads locks around all but `learn`.
    """

    def __init__(self, items: Sequence[Item]):
        import numpy as np

        count = len(items)
        self._items = items
        self._known = np.zeros(count, bool)
        self._points = np.zeros((count, 1), np.float32)
        self._nearest = np.full(count, FARTHEST, np.float32)
        """Similarity to the labelled picture that is most alike."""
        self._labels: dict[int, str] = {}
        self._stale = False
        self._given: NDArray[Any] = np.array([each.suggested for each in items], object)
        """What pictures may show by a model, before anything is learned here."""
        self._guesses = self._given.copy()
        self._unsure = self._given_uncertainty()
        self._first = np.array([each.first for each in items], np.float32)

    def _given_uncertainty(self) -> NDArray[float32]:
        import numpy as np

        def of(probabilities: Mapping[str, float]) -> float:
            best = sorted(probabilities.values(), reverse=True)[:2]
            return 1.0 if len(best) < 2 else 1 - (best[0] - best[1])

        return np.array([of(each.probabilities) for each in self._items], np.float32)

    def see(self, positions: Sequence[int], features: Sequence[Features], lock: AbstractContextManager[object]) -> None:
        """Know the features of pictures: from now on they can be shown. All that are known come at once; `lock` is held
        only while they take the place of those that were known before.
        """
        import numpy as np

        points = compressed(np.stack([each.point for each in features]))
        known = np.zeros(len(self._items), bool)
        all_points = np.zeros((len(self._items), points.shape[1]), np.float32)
        known[list(positions)], all_points[list(positions)] = True, points
        with lock:
            for at, each in zip(positions, features, strict=True):
                if each.guess:
                    self._given[at] = self._guesses[at] = each.guess
                    self._unsure[at] = each.unsure
            self._points, self._known = all_points, known
            self._nearest = np.full(len(self._items), FARTHEST, np.float32)
            self._come_near([*self._labels])
            self._stale = bool(self._labels)

    def _come_near(self, positions: Sequence[int]) -> None:
        """Hear of pictures that are decided."""
        import numpy as np

        known = [at for at in positions if self._known[at]]
        for start in range(0, len(known), 256):
            similar = self._points @ self._points[known[start : start + 256]].T
            self._nearest = np.maximum(self._nearest, similar.max(axis=1))

    def decided(self, labels: Mapping[int, str | None]) -> None:
        """See `Choice`."""
        import numpy as np

        before = {self._labels[at] for at in labels if at in self._labels}
        taken_back = [at for at, label in labels.items() if label is None and self._labels.pop(at, None) is not None]
        for at, label in labels.items():
            if label is not None:
                self._labels.pop(at, None)
                self._labels[at] = label
        if taken_back:
            self._nearest = np.full(len(self._items), FARTHEST, np.float32)
            self._come_near([*self._labels])
        else:
            self._come_near([*labels])
        self._forget(before - set(self._labels.values()))
        self._stale = True

    def _forget(self, gone: Iterable[str]) -> None:
        """Suggest classes no more that nobody has labelled a picture as any more, but where a model does."""
        for label in gone:
            taken = self._guesses == label
            self._guesses[taken] = self._given[taken]

    def learn(self) -> None:
        """See `Choice`."""
        import numpy as np

        points, known = self._points, self._known
        latest = [(at, label) for at, label in [*self._labels.items()] if label and known[at]][-LEARNED_FROM:]
        if not self._stale or len(latest) < LABELLED_AT_LEAST:
            return
        self._stale = False
        classes, probabilities = learned(points, [at for at, _ in latest], [label for _, label in latest])
        if points is self._points:
            self._guesses = np.array(classes, object)[probabilities.argmax(axis=1)]
            self._forget(set(classes) - {*self._labels.values()})
            self._unsure = uncertainty(probabilities)

    def guess(self, position: int) -> str:
        """See `Choice`."""
        return str(self._guesses[position])

    def next(self, free: NDArray[bool_], size: int) -> list[int]:
        """See `Choice`."""
        import numpy as np

        free = free & self._known
        if not free.any():
            return []
        seed = self._most_useful(np.flatnonzero(free))
        if size == 1:
            return [seed]
        similar = self._points @ self._points[seed]
        together = (similar >= ALIKE) | ((self._unsure < UNSURE) & (self._nearest >= ALIKE))
        together[seed] = True
        alike = np.flatnonzero(free & together & (self._guesses == self._guesses[seed]))
        similar[seed] = np.inf
        return alike[np.argsort(-similar[alike], kind="stable")][:size].tolist()

    def _most_useful(self, free: NDArray[int64]) -> int:
        """Of some positions the one that is worth most; of many a sample is compared, drawn anew each time."""
        import numpy as np

        first = self._first[free]
        if first.max() > 0:
            return int(free[first.argmax()])
        if len(free) > SAMPLE:
            free = np.random.default_rng(len(free)).choice(free, SAMPLE, replace=False)
        return int(free[gains(self._points[free], self._nearest[free], self._unsure[free] + SURE).argmax()])
