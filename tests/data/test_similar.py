"""Near pairs and groups are those that comparing all with all gives."""

from __future__ import annotations

import numpy as np
import pytest

from edgecls.data import similar
from edgecls.data.similar import near_groups, near_pairs, packed, perceptual_hash, unpacked
from edgecls.imaging.opencv import cv2


def near_hashes(count: int, scenes: int, most_bits: int, seed: int = 0) -> np.ndarray:
    """Hashes of so many scenes, each with up to so many bits flipped, in random order."""
    generator = np.random.default_rng(seed)
    hashes = generator.integers(0, 2**64, scenes, dtype=np.uint64)[generator.integers(scenes, size=count)]
    for _ in range(most_bits):
        hashes ^= np.uint64(1) << generator.integers(0, 64, count, dtype=np.uint64)
    return hashes


def random_copies(count: int, seed: int = 0) -> np.ndarray:
    """Small copies of three sorts, of which two look alike and the third does not."""
    generator = np.random.default_rng(seed)
    sorts = generator.integers(0, 256, (1, 1024)) + np.array([[0], [0], [1]]) * generator.integers(-60, 60, (1, 1024))
    noisy = sorts[generator.integers(3, size=count)] + generator.integers(-6, 7, (count, 1024))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def naive_pairs(hashes: np.ndarray, small: np.ndarray) -> list[tuple[int, int]]:
    """All with all, as the definition says."""
    centred = small.astype(np.float32)
    centred -= centred.mean(axis=1, keepdims=True)
    bits = unpacked(hashes)
    distances = np.array([(bits != each).sum(axis=1) for each in bits]).reshape(len(bits), len(bits))
    return [
        (first, second)
        for first, second in np.argwhere(distances <= similar.MAX_DISTANCE_BITS).tolist()
        if first < second and abs(centred[first] - centred[second]).mean() <= similar.MAX_DIFFERENCE
    ]


def first_ones(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    """For each position the first one that it is linked with, by spreading the smallest."""
    first = list(range(count))
    while True:
        before = list(first)
        for one, other in pairs:
            first[one] = first[other] = min(first[one], first[other])
        if first == before:
            return first


SETS = {
    "random": near_hashes(700, 700, 0),
    "clusters with some bits flipped": near_hashes(700, 40, 3),
    "clusters at the limit": near_hashes(700, 40, 6),
    "one scene": near_hashes(300, 1, 8),
    "the same hash": np.full(200, 2**63 + 5, np.uint64),
    "two": np.array([0, 0b111111], np.uint64),
    "two that are too far apart": np.array([0, 0b1111111], np.uint64),
    "one": np.array([7], np.uint64),
    "none": np.array([], np.uint64),
}


@pytest.fixture(params=[0, 10**9], ids=["three blocks", "two blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "MANY", request.param)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("hashes", SETS.values(), ids=SETS.keys())
def test_pairs_and_groups_are_those_of_comparing_all(hashes: np.ndarray):
    small = random_copies(len(hashes))
    wanted = naive_pairs(hashes, small)
    assert near_pairs(hashes, lambda positions: small[positions]) == wanted
    assert near_groups(hashes, lambda positions: small[positions]).tolist() == first_ones(len(hashes), wanted)


def test_pieces_of_any_size_find_the_same(monkeypatch: pytest.MonkeyPatch):
    hashes, small = near_hashes(300, 20, 4), random_copies(300)
    wanted = near_pairs(hashes, lambda positions: small[positions])
    for name in ("RUNS", "CANDIDATES", "COPIES"):
        monkeypatch.setattr(similar, name, 3)
    assert near_pairs(hashes, lambda positions: small[positions]) == wanted
    assert near_groups(hashes, lambda positions: small[positions]).tolist() == first_ones(300, wanted)


def test_a_dense_scene_takes_few_comparisons_and_joins_only_what_is_near(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(similar, "DENSE", 16)
    hashes, small = near_hashes(2000, 2, 1), np.zeros((2000, 1024), np.uint8)
    asked = []

    def copies(positions: np.ndarray) -> np.ndarray:
        asked.append(len(positions))
        return small[positions]

    first = near_groups(hashes, copies)
    assert len(set(first.tolist())) == 2
    assert sum(asked) < 3 * len(hashes)
    hashes, small = hashes[:400], random_copies(400)
    exact = first_ones(400, naive_pairs(hashes, small))
    found = near_groups(hashes, lambda positions: small[positions])
    assert all(exact[position] == exact[first] for position, first in enumerate(found.tolist()))


def test_bits_are_counted_the_same_without_numpy_2():
    values = np.concatenate([near_hashes(1000, 1000, 0), np.array([0, 2**64 - 1, 1, 2**63], np.uint64)])
    assert similar._ones_without_numpy_2(values).tolist() == [int(value).bit_count() for value in values]


def test_bits_of_a_hash_are_packed_and_unpacked():
    hashes = near_hashes(50, 50, 0)
    assert packed(unpacked(hashes) > 0).tolist() == hashes.tolist()


def test_a_hash_is_the_signs_of_the_lowest_frequencies():
    image = np.random.default_rng(0).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    value, small = perceptual_hash(image)
    low = cv2.dct(small.reshape(32, 32).astype(np.float32))[:8, :8].ravel()
    assert unpacked(np.array([value], np.uint64))[0].tolist() == (low > np.median(low[1:])).tolist()
