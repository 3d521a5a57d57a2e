"""Which pictures are shown next, together: those that look alike around the most useful one, or those ranked next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from edgecls.reviewing.items import Item
from edgecls.reviewing.learning import LEARNED_FROM, Learned, compressed, densities, uncertainty
from edgecls.reviewing.looks import Look

if TYPE_CHECKING:
    from numpy import bool_, float32
    from numpy.typing import NDArray

ALIKE = 0.35
"""Cosine of two points, of principal components, from which on pictures are shown together."""
LABELLED_AT_LEAST = 8
"""Labelled pictures from which on what is learned from them counts more than what the model said."""


class Choice(Protocol):
    """Chooses groups of pictures, given as positions in the list of all."""

    def next(self, free: NDArray[bool_], size: int) -> list[int]:
        """At most `size` pictures of those that are free (N,); none where there is nothing to show (yet)."""

    def decided(self, labels: Mapping[int, str]) -> None:
        """Hear the labels of pictures by position, "" for those that have none any more."""

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

    def decided(self, labels: Mapping[int, str]) -> None:
        """See `Choice`."""

    def learn(self) -> None:
        """See `Choice`."""

    def guess(self, position: int) -> str:
        """See `Choice`."""
        return self._items[position].suggested


class Alike:
    """Around the most useful picture those that look most like it and may show the same.

    Most useful is what a classifier of the labelled pictures is unsure of, what many others look like, and what no
    labelled one looks like. Whoever shares it between threads locks around all but `learn`.
    """

    def __init__(self, items: Sequence[Item]):
        import numpy as np

        count = len(items)
        self._items = items
        self._known = np.zeros(count, bool)
        self._points = np.zeros((count, 1), np.float32)
        self._density = np.zeros(count, np.float32)
        self._nearest = np.full(count, -1.0, np.float32)
        """Similarity to the labelled picture that is most alike."""
        self._labels: dict[int, str] = {}
        self._stale = False
        self._guesses: list[str] = [each.suggested for each in items]
        self._unsure = self._given_uncertainty()
        self._first = np.array([each.first for each in items], np.float32)

    def _given_uncertainty(self) -> NDArray[float32]:
        import numpy as np

        def of(probabilities: Mapping[str, float]) -> float:
            best = sorted(probabilities.values(), reverse=True)[:2]
            return 1.0 if len(best) < 2 else 1 - (best[0] - best[1])

        return np.array([of(each.probabilities) for each in self._items], np.float32)

    def see(self, positions: Sequence[int], looks: Sequence[Look], lock: AbstractContextManager[object]) -> None:
        """Know what pictures look like: from now on they can be shown. All that are known come at once; `lock` is held
        only while they take the place of those that were known before.
        """
        import numpy as np

        points = compressed(np.stack([look.point for look in looks]))
        known, density = np.zeros(len(self._items), bool), np.zeros(len(self._items), np.float32)
        all_points = np.zeros((len(self._items), points.shape[1]), np.float32)
        known[list(positions)], all_points[list(positions)] = True, points
        density[list(positions)] = densities(points)
        with lock:
            for at, look in zip(positions, looks, strict=True):
                if look.guess:
                    self._guesses[at], self._unsure[at] = look.guess, look.unsure
            self._points, self._density, self._known = all_points, density, known
            self._nearest = np.full(len(self._items), -1.0, np.float32)
            self._come_near([at for at in self._labels if known[at]])
            self._stale = bool(self._labels)

    def _come_near(self, positions: Sequence[int]) -> None:
        import numpy as np

        for start in range(0, len(positions), 256):
            similar = self._points @ self._points[list(positions[start : start + 256])].T
            self._nearest = np.maximum(self._nearest, similar.max(axis=1))

    def decided(self, labels: Mapping[int, str]) -> None:
        """See `Choice`."""
        for position, label in labels.items():
            self._labels.pop(position, None)
            if label:
                self._labels[position] = label
        self._come_near([at for at, label in labels.items() if label and self._known[at]])
        self._stale = True

    def learn(self) -> None:
        """See `Choice`."""
        points, known = self._points, self._known
        latest = [(at, label) for at, label in [*self._labels.items()][-LEARNED_FROM:] if known[at]]
        if not self._stale or len(latest) < LABELLED_AT_LEAST:
            return
        self._stale = False
        learned = Learned(points.shape[1])
        learned.fit(points[[at for at, _ in latest]], [label for _, label in latest])
        probabilities = learned.probabilities(points)
        if points is self._points:
            self._guesses = [learned.classes[best] for best in probabilities.argmax(axis=1).tolist()]
            self._unsure = uncertainty(probabilities)

    def guess(self, position: int) -> str:
        """See `Choice`."""
        return self._guesses[position]

    def usefulness(self) -> NDArray[float32]:
        """How useful each picture is to label, (N,)."""
        result: NDArray[float32] = self._first * 100 + (self._unsure + 1e-3) * (1 - self._nearest) * (1 + self._density)
        return result

    def next(self, free: NDArray[bool_], size: int) -> list[int]:
        """See `Choice`."""
        import numpy as np

        free = free & self._known
        if not free.any():
            return []
        seed = int(np.where(free, self.usefulness(), -np.inf).argmax())
        if size == 1:
            return [seed]
        similar = self._points @ self._points[seed]
        guess = self._guesses[seed]
        for at in np.argsort(similar)[::-1][: 4 * size].tolist() if guess else []:
            if self._guesses[at] != guess:
                similar[at] = -1.0
        similar[~free] = -np.inf
        similar[seed] = np.inf
        best = np.argpartition(similar, -min(size, len(similar)))[-size:]
        best = best[np.argsort(similar[best], kind="stable")[::-1]]
        return [at for at in best.tolist() if similar[at] >= ALIKE]
