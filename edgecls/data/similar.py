"""Which images show nearly the same: found by perceptual hashes, confirmed on small copies.

Hashes that differ in few bits are found by sorting, not by comparing all with all: of the blocks of bits into which a
hash is cut some must agree whole, so that all pairs stand side by side in a table sorted by these blocks (Manku, Jain,
Das Sarma 2007, https://doi.org/10.1145/1242572.1242592).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from edgecls.imaging.small import small_grey

if TYPE_CHECKING:
    from numpy import bool_, int64, uint8, uint64
    from numpy.typing import NDArray

    SmallCopies: TypeAlias = Callable[[NDArray[int64]], NDArray[uint8]]
    """Gives the grey copies (M, 1024) at positions (M,), which are sorted and different."""

HASH_SIDE = 8
HASH_BITS = HASH_SIDE**2
MAX_DISTANCE_BITS = 6
"""Of 64. Copies in another size or quality differ in fewer, different photographs of one thing in more."""
MAX_DIFFERENCE = 8.0
"""Mean difference of two small copies, on 0..255 after both are brought to one brightness."""
MANY = 2_000_000
"""From so many hashes on three blocks that agree select better than two, for more tables."""
DENSE = 2048
"""Of more hashes than this that agree in the blocks of a table, `near_groups` compares leaders alone."""
RUNS = 1 << 18
CANDIDATES = 1 << 18
"""Runs of hashes that agree, and pairs of hashes, that are compared at once."""
COPIES = 1 << 10
"""Pairs of small copies that are compared at once."""


class PerceptualHash(NamedTuple):
    """What an image looks like from afar: a hash of 64 bits, and a grey copy (1024,)."""

    value: int
    small: NDArray[uint8]


def perceptual_hash(image: NDArray[uint8]) -> PerceptualHash:
    """The look of a BGR image (H, W, 3): signs of its lowest frequencies against their median (pHash, Zauner 2010)."""
    import numpy as np

    from edgecls.imaging.opencv import cv2

    grey = small_grey(image)
    low = cv2.dct(grey.astype(np.float32))[:HASH_SIDE, :HASH_SIDE].ravel()
    value = int(packed((low > np.median(low[1:]))[None])[0])
    return PerceptualHash(value, grey.ravel().astype(np.uint8, copy=False))


def packed(bits: NDArray[bool_]) -> NDArray[uint64]:
    """Hashes (N,) of their bits (N, 64), the first one the highest."""
    import numpy as np

    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def unpacked(hashes: NDArray[uint64]) -> NDArray[uint8]:
    """The bits (N, 64) of hashes (N,); see `packed`."""
    import numpy as np

    return np.unpackbits(hashes.astype(">u8").view(np.uint8).reshape(-1, 8), axis=1)


def near_pairs(hashes: NDArray[uint64], copies: SmallCopies) -> list[tuple[int, int]]:
    """The positions (first, second) of all pairs that show nearly the same, in order."""
    import numpy as np

    found: list[NDArray[int64]] = []
    for table in _tables(len(hashes)):
        order, starts, lengths = _runs(hashes, table)
        for pairs in _close_pairs(hashes, table, order, starts, lengths):
            found.append(pairs[_look_the_same(pairs, copies)])
    pairs = np.concatenate([np.empty((0, 2), np.int64), *found])
    return [(first, second) for first, second in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].tolist()]


def near_groups(hashes: NDArray[uint64], copies: SmallCopies) -> NDArray[int64]:
    """For each position (N,) the first one of its group: pictures are in one group that are linked by `near_pairs`.

    The time does not grow with the square of a group. Where more than `DENSE` hashes agree in a table, which a set
    with fewer images never has, an image is compared with the first one of each group there: one that is near to a
    later member alone, and meets it in no other table, stays outside.
    """
    import numpy as np

    sets = _Sets(len(hashes))
    for table in _tables(len(hashes)):
        order, starts, lengths = _runs(hashes, table)
        roots = sets.find(order)
        mixed = np.minimum.reduceat(roots, starts) != np.maximum.reduceat(roots, starts)
        starts, lengths = starts[mixed], lengths[mixed]
        few = lengths <= DENSE
        for pairs in _close_pairs(hashes, table, order, starts[few], lengths[few]):
            _join(sets, pairs, copies)
        for start, length in zip(starts[~few].tolist(), lengths[~few].tolist(), strict=True):
            _join_dense(sets, hashes, np.sort(order[start : start + length]), copies)
    return sets.find(np.arange(len(hashes)))


class _Table(NamedTuple):
    """The bits by which it is sorted. A pair is taken from the first table that it is in: it differs in `others`."""

    mask: int
    others: tuple[int, ...]


def _tables(count: int) -> Iterator[_Table]:
    """So many that two hashes which differ in at most `MAX_DISTANCE_BITS` agree in all bits of one of them.

    With k differing bits and k + n blocks, n blocks agree. A block takes bits from all over the hash, whose
    frequencies tell images apart unequally.
    """
    if count < 2:
        return
    agreeing = 2 if count < MANY else 3
    number = MAX_DISTANCE_BITS + agreeing
    blocks = [sum(1 << bit for bit in range(block, HASH_BITS, number)) for block in range(number)]
    for chosen in combinations(range(number), agreeing):
        others = tuple(blocks[block] for block in range(chosen[-1]) if block not in chosen)
        yield _Table(sum(blocks[block] for block in chosen), others)


def _runs(hashes: NDArray[uint64], table: _Table) -> tuple[NDArray[int64], NDArray[int64], NDArray[int64]]:
    """The positions in a table's order, and where in it hashes that agree start (R,) and how many they are (R,)."""
    import numpy as np

    keys = hashes & np.uint64(table.mask)
    order = np.argsort(keys)
    keys = keys[order]
    starts = np.concatenate([[0], np.flatnonzero(keys[1:] != keys[:-1]) + 1])
    return order, starts, np.diff(starts, append=len(order))


def _close_pairs(
    hashes: NDArray[uint64], table: _Table, order: NDArray[int64], starts: NDArray[int64], lengths: NDArray[int64]
) -> Iterator[NDArray[int64]]:
    """Pairs (M, 2) of positions, the smaller first, in these runs whose hashes are close, in pieces."""
    import numpy as np

    ranked = hashes[order]
    for first, second in _pairs_within(starts, lengths):
        different = ranked[first] ^ ranked[second]
        close = _ones(different) <= MAX_DISTANCE_BITS
        first, second, different = first[close], second[close], different[close]
        new = np.ones(len(first), bool)
        for other in table.others:
            new &= (different & np.uint64(other)) != 0
        if new.any():
            yield np.sort(np.stack([order[first[new]], order[second[new]]], axis=1), axis=1)


def _pairs_within(starts: NDArray[int64], lengths: NDArray[int64]) -> Iterator[tuple[NDArray[int64], NDArray[int64]]]:
    """All pairs of indices (first, second) within runs, about `CANDIDATES` at a time."""
    import numpy as np

    several = lengths > 1
    all_starts, all_lengths = starts[several], lengths[several]
    for run in range(0, len(all_starts), RUNS):
        starts, lengths = all_starts[run : run + RUNS], all_lengths[run : run + RUNS]
        first = _counting(starts, lengths)
        counts = np.repeat(starts + lengths, lengths) - 1 - first
        totals = np.cumsum(counts)
        begin = 0
        while begin < len(first):
            before = totals[begin] - counts[begin]
            end = max(begin + 1, int(np.searchsorted(totals, before + CANDIDATES, "right")))
            part, ones = counts[begin:end], first[begin:end]
            yield np.repeat(ones, part), _counting(ones + 1, part)
            begin = end


def _counting(starts: NDArray[int64], lengths: NDArray[int64]) -> NDArray[int64]:
    """The numbers from each start on, so many."""
    import numpy as np

    offsets = np.cumsum(lengths) - lengths
    return np.repeat(starts - offsets, lengths) + np.arange(int(lengths.sum()))


def _ones(values: NDArray[uint64]) -> NDArray[uint8]:
    """How many bits of each value are set."""
    import numpy as np

    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(values)
    return _ones_without_numpy_2(values)


def _ones_without_numpy_2(values: NDArray[uint64]) -> NDArray[uint8]:
    """Sums of ever more neighbouring bits (Warren, Hacker's Delight, 5-1)."""
    import numpy as np

    def shifted(by: int) -> NDArray[uint64]:
        return values >> np.uint64(by)

    values = values - (shifted(1) & np.uint64(0x5555555555555555))
    values = (values & np.uint64(0x3333333333333333)) + (shifted(2) & np.uint64(0x3333333333333333))
    values = (values + shifted(4)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((values * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint8)


def _look_the_same(pairs: NDArray[int64], copies: SmallCopies) -> NDArray[bool_]:
    """Which of the pairs (M, 2) of positions the small copies confirm."""
    import numpy as np

    same = np.zeros(len(pairs), bool)
    for begin in range(0, len(pairs), COPIES):
        positions, places = np.unique(pairs[begin : begin + COPIES], return_inverse=True)
        small = copies(positions).astype(np.float32)
        small -= small.mean(axis=1, keepdims=True)
        first, second = places.reshape(-1, 2).T
        same[begin : begin + COPIES] = np.abs(small[first] - small[second]).mean(axis=1) <= MAX_DIFFERENCE
    return same


class _Sets:
    """Positions in disjoint sets, each known by its first one; see `edgecls.disjoint_sets`, which takes anything."""

    def __init__(self, count: int):
        import numpy as np

        self._leader = np.arange(count)

    def find(self, positions: NDArray[int64]) -> NDArray[int64]:
        """The first one of each one's set."""
        import numpy as np

        leaders = self._leader[positions]
        while not np.array_equal(further := self._leader[leaders], leaders):
            leaders = further
        self._leader[positions] = leaders
        return leaders

    def join(self, pairs: NDArray[int64]) -> None:
        """Join the sets of each pair (M, 2)."""
        for first, second in pairs.tolist():
            one, other = self._find(first), self._find(second)
            self._leader[max(one, other)] = min(one, other)

    def _find(self, item: int) -> int:
        leader = self._leader
        while (above := int(leader[item])) != item:
            leader[item] = leader[above]
            item = int(leader[item])
        return item


def _join(sets: _Sets, pairs: NDArray[int64], copies: SmallCopies) -> None:
    """Join what the copies confirm, of each position one pair at a time: pairs that are linked then need no look."""
    import numpy as np

    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    while len(pairs := pairs[sets.find(pairs[:, 0]) != sets.find(pairs[:, 1])]):
        turn = np.diff(pairs[:, 1], prepend=-1) != 0
        tried = pairs[turn]
        sets.join(tried[_look_the_same(tried, copies)])
        pairs = pairs[~turn]


def _join_dense(sets: _Sets, hashes: NDArray[uint64], positions: NDArray[int64], copies: SmallCopies) -> None:
    """Join each of many positions, sorted, with the first one of those before it that it shows nearly the same as."""
    import numpy as np

    while len(positions) > 1:
        leader, positions = positions[:1], positions[1:]
        apart = positions[sets.find(positions) != sets.find(leader)]
        close = apart[_ones(hashes[apart] ^ hashes[leader]) <= MAX_DISTANCE_BITS]
        pairs = np.stack([np.broadcast_to(leader, close.shape), close], axis=1)
        sets.join(pairs[_look_the_same(pairs, copies)])
        positions = apart[sets.find(apart) != sets.find(leader)]
