"""Which picture of a pool is to make room, known at any time."""

from __future__ import annotations

import heapq
from collections import OrderedDict, UserDict
from dataclasses import dataclass

Group = tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """A picture of a pool: its line in the index, what it occupies on the disk, and what it is redundant among."""

    line: str
    bytes: int
    group: Group
    labelled: bool


class KeptPictures(UserDict[str, Kept]):
    """The pictures of a pool by name, in the order in which they came last. Changes and `most_redundant` take
    O(log N), amortised.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        """What they occupy."""
        self._came = 0
        self._labelled: OrderedDict[str, int] = OrderedDict()
        self._groups: dict[Group, OrderedDict[str, int]] = {}
        self._largest: list[tuple[int, int, Group]] = []

    def __setitem__(self, name: str, kept: Kept) -> None:
        self.pop(name, None)
        super().__setitem__(name, kept)
        self.bytes += kept.bytes
        self._came += 1
        if kept.labelled:
            self._labelled[name] = self._came
        else:
            self._groups.setdefault(kept.group, OrderedDict())[name] = self._came
            self._rank(kept.group)

    def __delitem__(self, name: str) -> None:
        kept = self[name]
        super().__delitem__(name)
        self.bytes -= kept.bytes
        if self._labelled.pop(name, None) is None:
            del self._groups[kept.group][name]
            self._rank(kept.group)

    def most_redundant(self) -> str:
        """The oldest of the largest group, of equal ones that with the oldest picture; labelled ones go last."""
        while self._largest:
            group = self._largest[0][2]
            if group in self._groups and self._largest[0] == self._entry(group):
                return next(iter(self._groups[group]))
            heapq.heappop(self._largest)  # the group has changed since
        return next(iter(self._labelled))

    def _rank(self, group: Group) -> None:
        if not self._groups[group]:
            del self._groups[group]
            return
        heapq.heappush(self._largest, self._entry(group))
        if len(self._largest) > 2 * len(self) + 8:
            self._largest = [self._entry(each) for each in self._groups]
            heapq.heapify(self._largest)

    def _entry(self, group: Group) -> tuple[int, int, Group]:
        members = self._groups[group]
        return -len(members), next(iter(members.values())), group
