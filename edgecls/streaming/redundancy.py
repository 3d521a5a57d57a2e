"""Which picture of a pool is to make room, known at any time."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """A picture of a pool: its line in the index, what it occupies on the disk, and what it is redundant among."""

    line: str
    bytes: int
    group: tuple[str, ...]
    labelled: bool


class KeptPictures:
    """The pictures of a pool by name, in the order in which they came, with counts of each group of those without a
    label. All but `names` takes O(log N), amortised.
    """

    def __init__(self) -> None:
        self.bytes = 0
        """What they occupy."""
        self._kept: dict[str, Kept] = {}
        self._groups: dict[tuple[str, ...] | None, OrderedDict[str, int]] = {}
        self._largest: list[tuple[int, int, tuple[str, ...]]] = []
        self._came = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def names(self) -> list[str]:
        """All of them, oldest first."""
        return list(self._kept)

    def lines(self) -> Iterator[tuple[str, str]]:
        """Each name with its line, oldest first."""
        return ((name, kept.line) for name, kept in self._kept.items())

    def add(self, name: str, kept: Kept) -> None:
        """A picture that came last; it takes the place of another one of this name."""
        self.remove(name)
        self._kept[name] = kept
        self.bytes += kept.bytes
        self._came += 1
        group = _group(kept)
        self._groups.setdefault(group, OrderedDict())[name] = self._came
        self._rank(group)

    def remove(self, name: str) -> None:
        """Take a picture out, if it is there."""
        if (kept := self._kept.pop(name, None)) is None:
            return
        self.bytes -= kept.bytes
        group = _group(kept)
        del self._groups[group][name]
        if self._groups[group]:
            self._rank(group)
        else:
            del self._groups[group]

    def most_redundant(self) -> str:
        """The oldest of the largest group, of equal ones that with the oldest picture; labelled ones go last."""
        while self._largest:
            group = self._largest[0][2]
            if group in self._groups and self._largest[0] == self._entry(group):
                return next(iter(self._groups[group]))
            heapq.heappop(self._largest)  # the group has changed since
        return next(iter(self._groups[None]))

    def _rank(self, group: tuple[str, ...] | None) -> None:
        if group is None:
            return
        heapq.heappush(self._largest, self._entry(group))
        if len(self._largest) > 2 * len(self._kept) + 8:
            self._largest = [self._entry(each) for each in self._groups if each is not None]
            heapq.heapify(self._largest)

    def _entry(self, group: tuple[str, ...]) -> tuple[int, int, tuple[str, ...]]:
        members = self._groups[group]
        return -len(members), next(iter(members.values())), group


def _group(kept: Kept) -> tuple[str, ...] | None:
    return None if kept.labelled else kept.group
