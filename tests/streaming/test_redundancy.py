"""Which picture of a pool makes room."""

from __future__ import annotations

import random

import pytest

from edgecls.streaming.redundancy import Kept, KeptPictures


def chosen_by_looking_at_all(kept: dict[str, Kept]) -> str:
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, each in kept.items():
        groups.setdefault(("labelled",) if each.labelled else each.group, []).append(name)
    offered = {group: names for group, names in groups.items() if group != ("labelled",)} or groups
    return max(offered.values(), key=len)[0]


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_one_that_a_look_at_all_pictures_finds(seed: int):
    drawn = random.Random(seed)
    pictures, known = KeptPictures(), dict[str, Kept]()
    labelled = drawn.choice([0.0, 0.1, 0.9])
    for step in range(1500):
        name = f"{drawn.randrange(200)}.jpg" if drawn.random() < 0.3 else f"{step}.jpg"
        act = drawn.random()
        if act < 0.55:
            kept = Kept("{}", drawn.randrange(9), (f"camera {drawn.randrange(6)}",), drawn.random() < labelled)
            known.pop(name, None)
            known[name] = kept
            pictures[name] = kept
        elif act < 0.7:
            assert pictures.pop(name, None) == known.pop(name, None)
        elif known:
            name = pictures.most_redundant()
            assert name == chosen_by_looking_at_all(known)
            del known[name], pictures[name]
        assert pictures.bytes == sum(each.bytes for each in known.values())
        assert list(pictures) == list(known)
    while known:
        name = pictures.most_redundant()
        assert name == chosen_by_looking_at_all(known)
        del known[name], pictures[name]
    assert not pictures
