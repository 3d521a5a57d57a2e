"""Work in threads: in order, bounded, and gone when nobody wants it any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from edgecls.concurrency import ordered_map

PATIENCE_S = 30
"""Only a test that fails waits so long."""


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgecls-map")]


def test_results_come_in_the_order_of_the_items():
    assert list(ordered_map(lambda item: item * item, range(1000), threads=3, ahead=50)) == [i * i for i in range(1000)]
    assert list(ordered_map(str, [], threads=3)) == []


def test_an_item_that_takes_long_holds_up_none_of_the_next():
    """The first one ends only after all of the others."""
    others = threading.Semaphore(0)

    def work(item: int) -> int:
        if item == 0:
            assert all(others.acquire(timeout=PATIENCE_S) for _ in range(99))
        else:
            others.release()
        return item

    assert list(ordered_map(work, range(100), threads=2, ahead=100)) == list(range(100))


@pytest.mark.parametrize("ahead", [None, 40])
def test_what_is_taken_in_is_bounded_while_one_takes_long(ahead: int | None):
    taken, enough = 0, threading.Event()
    bound = ahead or 8

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(1000):
            taken += 1
            if taken == bound:
                enough.set()
            yield item

    def work(item: int) -> int:
        if item == 0:
            assert enough.wait(PATIENCE_S)
        return item

    results = ordered_map(work, items(), threads=2, ahead=ahead)
    assert next(results) == 0
    assert taken <= bound
    for done, result in enumerate(results, start=1):
        assert result == done
        assert taken <= done + bound + 1


def test_items_that_wait_to_be_worked_on_are_few_however_many_results_wait():
    """Items may be whole pictures, results are small."""
    lock, waiting, most, going = threading.Lock(), 0, 0, threading.Event()

    def items() -> Iterator[int]:
        nonlocal waiting, most
        for item in range(200):
            with lock:
                waiting += 1
                most = max(most, waiting)
                if waiting == 8:
                    going.set()
            yield item

    def work(item: int) -> int:
        nonlocal waiting
        assert going.wait(PATIENCE_S)  # nothing is done before as much as possible waits
        with lock:
            waiting -= 1
        return item

    assert list(ordered_map(work, items(), threads=2, ahead=500)) == list(range(200))
    assert most in (8, 9, 10)


def test_a_result_waits_for_the_next_item_at_most():
    """As where paths come through a pipe, slowly."""
    asked = 0

    def items() -> Iterator[int]:
        nonlocal asked
        for item in range(8):  # so many could be taken in
            asked += 1
            if item:
                assert first.done.wait(PATIENCE_S)
            yield item

    class First:
        """Its result, whose thread has ended before the second item comes."""

        done = threading.Event()

        def __call__(self, item: int) -> int:
            if item == 0:
                self.done.set()
            return item

    first = First()
    assert next(ordered_map(first, items(), threads=2)) == 0
    assert asked < 8


def test_an_error_comes_in_its_turn():
    def work(item: int) -> int:
        if item == 5:
            raise ValueError("the sixth")
        return item

    results = ordered_map(work, range(100), threads=3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="the sixth"):
        next(results)
    assert not _threads()


def test_an_error_of_the_items_leaves_no_thread():
    def items() -> Iterator[int]:
        yield 0
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(ordered_map(lambda item: item, items(), threads=2))
    assert not _threads()


def test_a_generator_that_is_closed_leaves_no_thread_and_begins_nothing_more():
    begun = []
    results = ordered_map(begun.append, range(1000), threads=2, ahead=500)
    next(results)
    results.close()
    count = len(begun)
    assert count < 1000
    assert not _threads()
    assert len(begun) == count
