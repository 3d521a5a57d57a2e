from __future__ import annotations

from edgecls.disjoint_sets import DisjointSets


def test_what_is_joined_in_any_order_is_one_set_known_by_the_others_item():
    sets = DisjointSets("abcde")
    sets.join("a", "b")
    sets.join("c", "d")
    sets.join("a", "c")
    assert [sets.find(item) for item in "abcde"] == ["d", "d", "d", "d", "e"]


def test_a_long_chain_is_found_quickly():
    sets = DisjointSets(range(100_000))
    for item in range(99_999):
        sets.join(item, item + 1)
    assert {sets.find(item) for item in range(100_000)} == {99_999}
