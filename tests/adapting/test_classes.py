import pytest

from edgecls.adapting.classes import ClassChange
from edgecls.errors import UsageError

BEFORE = ("apple", "pear", "plum")


def test_old_classes_keep_their_order_and_new_ones_come_behind() -> None:
    changed = ClassChange.of(BEFORE, [], []).with_new(["apple", "banana", "plum"])
    assert changed.names == ("apple", "pear", "plum", "banana")
    assert changed.rows == [0, 1, 2, None]
    assert changed.new == ("banana",)


def test_a_renamed_class_keeps_its_place() -> None:
    changed = ClassChange.of(BEFORE, ["pear=quince"], [])
    assert changed.names == ("apple", "quince", "plum")
    assert changed.rows == [0, 1, 2]
    assert changed.name_now("pear") == "quince"


def test_classes_are_merged_and_removed() -> None:
    assert ClassChange.of(BEFORE, ["plum=apple"], []).sources == ((0, 2), (1,))
    changed = ClassChange.of(BEFORE, [], ["apple"])
    assert changed.names == ("pear", "plum")
    assert changed.name_now("apple") is None


@pytest.mark.parametrize(
    ("rename", "remove", "said"),
    [
        (["pear"], [], "OLD=NEW"),
        (["pear= "], [], "OLD=NEW"),
        (["fig=date"], [], "no class 'fig'"),
        ([], ["fig"], "no class 'fig'"),
        (["pear=x", "pear=y"], [], "twice"),
        (["pear=x"], ["pear"], "leave one out"),
        ([], ["pear", "plum"], "a classifier needs two"),
    ],
)
def test_what_makes_no_sense_is_said(rename: list[str], remove: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ClassChange.of(BEFORE, rename, remove)
