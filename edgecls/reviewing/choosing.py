"""Which pictures are shown next, together: those that look alike around the most useful one, or those ranked next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from edgecls.reviewing.features import Features
from edgecls.reviewing.items import Item
from edgecls.reviewing.learning import LEARNED_FROM, compressed, gains, learned, smoothed, uncertainty

if TYPE_CHECKING:
    from numpy import bool_, float32, int64
    from numpy.typing import NDArray

ALIKE = 0.35
"""Cosine of two points from which on pictures are shown together."""
KNOWN_AT = 150
"""Labelled pictures from which on groups are those that the classifier is surest of."""
COST_OF_WRONG = 1.5
"""Keystrokes for a picture that is not what is suggested, where one is for the rest of the group."""
OTHERS = 3
"""Classes that a picture may show besides the one that is suggested."""
DOUBTFUL = 4.0
"""Scale of the classifier by whose doubts the most useful picture is found."""
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

    def others(self, position: int) -> tuple[str, ...]:
        """What else it may show, the likeliest first."""

    def renamed(self, old: str, new: str) -> None:
        """Hear that a class is called something else, besides the labels that `decided` tells."""


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

    def others(self, position: int) -> tuple[str, ...]:
        """See `Choice`: what it is said to show."""
        label = self._items[position].label
        return (label,) if label else ()

    def renamed(self, old: str, new: str) -> None:
        """See `Choice`."""


class Alike:
    """First, around the most useful picture, those that look most like it and may show the same; from `KNOWN_AT`
    labels on those of one class that a classifier of the labelled pictures is surest of.

    Most useful is what the classifier is unsure of and what brings most of the others of this kind nearest to a
    labelled one: it is unlike what is labelled, and like many that are not. Positions from `len(items)` on are pictures
    that have a label from the beginning, `labelled`; they are never shown. See benchmarks/loop/review.py for figures.
    Whoever shares it between threads locks around all but `learn`.
    """

    def __init__(self, items: Sequence[Item], labelled: Sequence[str] = ()):
        import numpy as np

        count = len(items) + len(labelled)
        self._items = items
        self._known = np.zeros(count, bool)
        self._points = np.zeros((count, 1), np.float32)
        self._smoothed = self._points
        self._nearest = np.full(count, FARTHEST, np.float32)
        """Similarity to the labelled picture that is most alike."""
        self._labels: dict[int, str] = dict(enumerate(labelled, start=len(items)))
        self._stale = False
        self._given: NDArray[Any] = np.array([*(each.suggested for each in items), *labelled], object)
        """What pictures may show by a model, before anything is learned here."""
        self._guesses = self._given.copy()
        self._unsure = np.append(self._given_uncertainty(), np.zeros(len(labelled))).astype(np.float32)
        self._first = np.array([each.first for each in items], np.float32)
        self._classes: list[str] = []
        self._probabilities: NDArray[float32] | None = None
        """Of these classes, (N, C); None where nothing was learned."""
        self._learned_from = 0

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
        drawn = smoothed(points)
        known = np.zeros(len(self._known), bool)
        all_points, all_drawn = (np.zeros((len(known), points.shape[1]), np.float32) for _ in range(2))
        known[list(positions)], all_points[list(positions)], all_drawn[list(positions)] = True, points, drawn
        with lock:
            for at, each in zip(positions, features, strict=True):
                if each.guess and at not in self._labels:
                    self._given[at] = self._guesses[at] = each.guess
                    self._unsure[at] = each.unsure
            self._points, self._smoothed, self._known = all_points, all_drawn, known
            self._probabilities, self._learned_from = None, 0
            self._nearest = np.full(len(known), FARTHEST, np.float32)
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
            self._nearest = np.full(len(self._known), FARTHEST, np.float32)
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

        points, smoothed, known = self._points, self._smoothed, self._known
        latest = [(at, label) for at, label in [*self._labels.items()] if label and known[at]][-LEARNED_FROM:]
        if not self._stale or len(latest) < LABELLED_AT_LEAST:
            return
        self._stale = False
        positions, labels = [at for at, _ in latest], [label for _, label in latest]
        classes, probabilities = learned(smoothed, positions, labels)
        # The doubts about single points choose better what a classifier of single images needs.
        unsure = uncertainty(learned(points, positions, labels, DOUBTFUL)[1])
        if points is self._points:
            self._classes, self._probabilities, self._learned_from = classes, probabilities, len(latest)
            self._guesses = np.array(classes, object)[probabilities.argmax(axis=1)]
            self._forget(set(classes) - {*self._labels.values()})
            self._unsure = unsure

    def renamed(self, old: str, new: str) -> None:
        """See `Choice`."""
        labels = self._labels.items()
        self._labels |= {at: new for at, label in labels if at >= len(self._items) and label == old}
        self._stale = True

    def guess(self, position: int) -> str:
        """See `Choice`."""
        return str(self._guesses[position])

    def others(self, position: int) -> tuple[str, ...]:
        """See `Choice`."""
        if self._probabilities is None:
            return ()
        best = (-self._probabilities[position]).argsort(kind="stable")[1 : OTHERS + 1]
        return tuple(self._classes[at] for at in best)

    def next(self, free: NDArray[bool_], size: int) -> list[int]:
        """See `Choice`."""
        import numpy as np

        left = np.flatnonzero(free & self._known[: len(self._items)])
        if not len(left):
            return []
        if size > 1 and self._learned_from >= KNOWN_AT and not self._first[left].any():
            return self._surest(left, size)
        return self._alike(left, size)

    def _alike(self, left: NDArray[int64], size: int) -> list[int]:
        """Of some positions the most useful one, and those that look like it."""
        import numpy as np

        seed = self._most_useful(left)
        similar = self._points[left] @ self._points[seed]
        similar[left == seed] = np.inf
        together = (similar >= ALIKE) & (self._guesses[left] == self._guesses[seed])
        return left[together][np.argsort(-similar[together], kind="stable")][:size].tolist()

    def _surest(self, left: NDArray[int64], size: int) -> list[int]:
        """Of some positions those that likely show the class whose group takes fewest keystrokes for each picture."""
        import numpy as np

        assert self._probabilities is not None
        sure, guesses = self._probabilities[left].max(axis=1), self._probabilities[left].argmax(axis=1)
        groups = []
        for each in np.unique(guesses):
            mine = np.flatnonzero(guesses == each)
            mine = mine[np.argsort(-sure[mine], kind="stable")][:size]
            groups.append(((1 + COST_OF_WRONG * (1 - sure[mine]).sum()) / len(mine), mine))
        return left[min(groups, key=lambda group: group[0])[1]].tolist()

    def _most_useful(self, free: NDArray[int64]) -> int:
        """Of some positions the one that is worth most; of many a sample is compared, drawn anew each time."""
        import numpy as np

        first = self._first[free]
        if first.max() > 0:
            return int(free[first.argmax()])
        if len(free) > SAMPLE:
            free = np.random.default_rng(len(free)).choice(free, SAMPLE, replace=False)
        return int(free[gains(self._points[free], self._nearest[free], self._unsure[free] + SURE).argmax()])
