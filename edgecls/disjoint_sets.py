"""What belongs together, found pair by pair (union-find; Tarjan 1975, https://doi.org/10.1145/321879.321884)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class DisjointSets(Generic[T]):
    """Items, each in a set of its own until sets are joined. A set is known by one of its items."""

    def __init__(self, items: Iterable[T]):
        self._leader = {item: item for item in items}

    def find(self, item: T) -> T:
        """The item by which the set of `item` is known."""
        leader = self._leader
        while leader[item] != item:
            leader[item] = item = leader[leader[item]]
        return item

    def join(self, item: T, other: T) -> None:
        """Join the sets of two items; they are known as the other's was."""
        self._leader[self.find(item)] = self.find(other)
