"""Decisions, their log, and several people at once."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgecls.errors import DataError, OutputError, UsageError
from edgecls.reviewing.choosing import KNOWN_AT, Alike
from edgecls.reviewing.decisions import Decisions
from edgecls.reviewing.features import Features
from edgecls.reviewing.items import Item
from edgecls.reviewing.log import Log, read_log
from edgecls.reviewing.queue import Queue

CLUSTERS, EACH = 5, 20


def clustered(clusters: int = CLUSTERS, each: int = EACH) -> list[Features]:
    """Embeddings that lie in clusters, picture by picture in turns."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(clusters, 32)) * 5
    points = [centres[at % clusters] + generator.normal(size=32) for at in range(clusters * each)]
    return [Features(point.astype(np.float32)) for point in points]


def items() -> list[Item]:
    return [Item(f"{at}.jpg") for at in range(CLUSTERS * EACH)]


def truth(path: str) -> str:
    return f"class {int(path.removesuffix('.jpg')) % CLUSTERS}"


def begin(folder: Path) -> Queue:
    choice = Alike(items())
    queue = Queue(choice._items, Log(folder / "log.jsonl"), choice)
    choice.see(range(len(queue.items)), clustered(), queue.lock)
    return queue


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    queue = begin(tmp_path)
    yield queue
    queue._log.close()


def seen(group: list) -> dict[str, int]:
    return {each.item.path: each.version for each in group}


class TestGroups:
    def test_pictures_that_look_alike_come_together_and_all_come_once(self, queue: Queue):
        strokes = 0
        shown: list[str] = []
        while group := queue.next("anna"):
            labels = {truth(each.item.path) for each in group}
            assert len(labels) == 1
            queue.decide("anna", seen(group), "label", labels.pop())
            queue._choice.learn()
            shown += seen(group)
            strokes += 1
        assert sorted(shown) == sorted(each.path for each in items())
        assert strokes <= 2 * CLUSTERS
        assert queue.left() == 0
        assert queue.counts() == {f"class {number}": EACH for number in range(CLUSTERS)}

    def test_each_group_is_of_what_was_not_seen_yet_until_all_classes_were(self, queue: Queue):
        first = []
        for _ in range(CLUSTERS):
            group = queue.next("anna")
            first.append(truth(group[0].item.path))
            queue.decide("anna", seen(group[:1]), "label", first[-1])
            queue.later("anna")
        assert sorted(first) == sorted(set(map(truth, seen_all())))

    def test_what_is_learned_is_suggested(self, queue: Queue):
        for _ in range(CLUSTERS):
            group = queue.next("anna")
            queue.decide("anna", seen(group[: len(group) // 2]), "label", truth(group[0].item.path))
            queue.later("anna")
        queue._choice.learn()
        left = [each for each in queue.shown(seen_all()) if each.verdict is None]
        assert left
        assert all(each.guess == truth(each.item.path) for each in left)

    def test_the_next_best_guesses_are_others(self, queue: Queue):
        first = queue.next("anna")
        assert first[0].others == ()  # nothing is learned yet
        for _ in range(CLUSTERS):
            group = queue.next("anna")
            queue.decide("anna", seen(group[:4]), "label", truth(group[0].item.path))
            queue.later("anna")
        queue._choice.learn()
        for each in queue.shown(seen_all()):
            assert len({each.guess, *each.others}) == 4
            assert {each.guess, *each.others} <= set(queue.classes)

    def test_knowing_the_pool_it_shows_full_groups_of_what_it_is_surest_of(self, tmp_path: Path):
        looks = clustered(CLUSTERS, 80)
        choice = Alike([Item(f"{at}.jpg") for at in range(len(looks))])
        queue = Queue(choice._items, Log(tmp_path / "log.jsonl"), choice)
        choice.see(range(len(looks)), looks, queue.lock)
        queue.decide("anna", {f"{at}.jpg": 0 for at in range(CLUSTERS, KNOWN_AT + CLUSTERS)}, "reject")
        assert len(queue.next("ben")) == 24
        queue.decide("anna", {f"{at}.jpg": 0 for at in range(CLUSTERS)}, "reject")
        queue.later("ben")
        for label in range(CLUSTERS):
            learned_of = {f"{at}.jpg": 1 for at in range(CLUSTERS + label, KNOWN_AT + CLUSTERS, CLUSTERS)}
            assert queue.decide("anna", learned_of, "label", f"class {label}").done
        choice.learn()
        group = queue.next("ben")
        sure = choice._probabilities.max(axis=1)
        position = {each.item.path: queue.position_of[each.item.path] for each in group}
        others = [
            at
            for at in range(len(looks))
            if queue._free[at] and choice.guess(at) == group[0].guess and f"{at}.jpg" not in position
        ]
        assert (len(group), {each.guess for each in group}) == (24, {group[0].guess})
        assert min(sure[[*position.values()]]) >= max(sure[others])

    def test_labels_that_are_there_already_are_learned_from(self, tmp_path: Path):
        looks = clustered(CLUSTERS, 24)
        pool, labelled = looks[: CLUSTERS * EACH], looks[CLUSTERS * EACH :]
        choice = Alike(items(), [f"class {at % CLUSTERS}" for at in range(len(labelled))])
        queue = Queue(choice._items, Log(tmp_path / "log.jsonl"), choice)
        choice.see(range(len(looks)), [*pool, *labelled], queue.lock)
        choice.learn()
        assert all(each.guess == truth(each.item.path) for each in queue.shown(seen_all()))
        queue.add_class("anna", "class 0")
        queue.rename_class("anna", "class 0", "none")
        choice.learn()
        assert queue.shown(["0.jpg"])[0].guess == "none"
        again = Alike(items(), [f"class {at % CLUSTERS}" for at in range(len(labelled))])
        Queue(again._items, queue._log, again)  # killed before the folder was renamed
        again.see(range(len(looks)), [*pool, *labelled], queue.lock)
        again.learn()
        assert again.guess(0) == "none"
        while group := queue.next("anna"):
            assert all(truth(each.item.path) in (each.guess, "class 0") for each in group)
            queue.decide("anna", seen(group), "label", group[0].guess)

    def test_what_was_put_off_comes_last(self, queue: Queue):
        off = set(seen(queue.next("anna")))
        queue.later("anna")
        while group := queue.next("anna"):
            if off & set(seen(group)):
                break
            queue.decide("anna", seen(group), "reject")
        assert set(seen(group)) <= off
        assert queue.left() == len(off)

    def test_pictures_that_are_gone_are_not_shown(self, tmp_path: Path):
        choice = Alike(items())
        queue = Queue(choice._items, Log(tmp_path / "log.jsonl"), choice, exists=lambda path: path != "0.jpg")
        choice.see(range(len(queue.items)), clustered(), queue.lock)
        shown: set[str] = set()
        while group := queue.next("anna"):
            shown |= set(seen(group))
            queue.decide("anna", seen(group), "reject")
        assert shown == {each.path for each in items()} - {"0.jpg"}


def seen_all() -> list[str]:
    return [each.path for each in items()]


class TestPeople:
    def test_two_never_look_at_the_same_picture(self, queue: Queue):
        anna, ben = queue.next("anna"), queue.next("ben")
        assert not set(seen(anna)) & set(seen(ben))
        assert seen(queue.next("anna")) == seen(anna)  # a page that is loaded again

    def test_nobody_replaces_what_they_have_not_seen(self, queue: Queue):
        before = seen(queue.next("anna"))
        path = next(iter(before))
        queue.decide("ben", {path: 0}, "label", "ben's")
        outcome = queue.decide("anna", before, "label", "anna's")
        assert outcome.conflicts == (path,)
        assert set(outcome.done) == set(before) - {path}
        verdict = queue.decisions.verdict(path)
        assert verdict is not None
        assert (verdict.label, verdict.who) == ("ben's", "ben")
        now = queue.shown([path])[0].version
        assert queue.decide("anna", {path: now}, "label", "anna's").done == (path,)  # having seen it

    def test_undo_takes_back_only_what_nobody_decided_on_since(self, queue: Queue):
        group = queue.next("anna")
        done = queue.decide("anna", seen(group), "label", "one")
        first, *others = done.done
        queue.decide("ben", {first: done.n or 0}, "label", "two")
        undone = queue.undo("anna")
        assert undone is not None
        assert sorted(undone[1]) == sorted(others)
        assert queue.counts() == {"two": 1}
        assert set(seen(queue.next("anna"))) == set(others)  # to look at again
        assert queue.undo("anna") is None
        assert queue.undo("ben") is not None
        verdict = queue.decisions.verdict(first)
        assert verdict is not None
        assert verdict.label == "one"

    def test_undo_of_a_new_class_takes_its_name_back_too(self, queue: Queue):
        queue.add_class("anna", "wanted")
        for label in ("one", "twp"):
            for _ in range(2):
                queue.decide("anna", seen(queue.next("anna")), "label", label)
        queue._choice.learn()
        guesses = {each.guess for each in queue.shown(each.path for each in queue.items)}
        assert guesses == {"one", "twp"}
        for left in (["wanted", "one", "twp"], ["wanted", "one"]):
            queue.undo("anna")
            assert queue.classes == left
        assert Decisions(queue._log.events).classes == queue.classes
        assert {each.guess for each in queue.shown(each.path for each in queue.items)} <= {"one", ""}
        queue._choice.learn()
        assert {each.guess for each in queue.shown(each.path for each in queue.items)} <= {"one", ""}

    def test_undo_leaves_a_class_that_somebody_else_uses(self, queue: Queue):
        queue.decide("anna", seen(queue.next("anna")), "label", "new")
        queue.decide("ben", seen(queue.next("ben")), "label", "new")
        queue.undo("anna")
        assert queue.classes == ["new"]
        queue.undo("ben")
        assert queue.classes == ["new"]  # ben used a class that was there

    def test_many_at_once_lose_nothing(self, tmp_path: Path):
        queue = begin(tmp_path)
        decided: dict[str, str] = {}

        def work(who: str) -> None:
            while group := queue.next(who):
                outcome = queue.decide(who, seen(group[:3]), "label", who)
                decided.update(dict.fromkeys(outcome.done, who))

        people = [threading.Thread(target=work, args=(name,)) for name in ("anna", "ben", "cleo")]
        for person in people:
            person.start()
        for person in people:
            person.join()
        for lease in [*queue._leases]:
            queue._leases.pop(lease)
        work("dora")
        assert len(decided) == len(items())
        again = Decisions(read_log(tmp_path / "log.jsonl"))
        assert {path: verdict.who for path, verdict in again.decided().items()} == decided


class TestLog:
    def test_the_same_log_is_the_same_state(self, tmp_path: Path):
        queue = begin(tmp_path)
        queue.decide("anna", dict.fromkeys(seen_all()[:9], 0), "label", "ok/ä b")
        queue.decide("ben", {"3.jpg": 2}, "unknown")
        queue.decide("ben", {"20.jpg": 0, "21.jpg": 0}, "reject")
        queue.undo("ben")
        queue.rename_class("anna", "ok/ä b", "日本")
        queue._log.close()
        again = begin(tmp_path)
        assert again.decisions.decided() == queue.decisions.decided()
        assert again.counts() == queue.counts()
        assert again.counts() == {"日本": 8, "unknown": 1}
        assert again.left() == queue.left() == len(items()) - 9
        assert again.classes == ["日本"]

    def test_one_program_at_a_time(self, queue: Queue, tmp_path: Path):
        with pytest.raises(UsageError, match="reviews this already"):
            Log(tmp_path / "log.jsonl")

    def test_a_torn_last_line_never_counted(self, tmp_path: Path):
        queue = begin(tmp_path)
        queue.decide("anna", {"1.jpg": 0}, "reject")
        queue._log.close()
        with (tmp_path / "log.jsonl").open("ab") as stream:
            stream.write(b'{"n": 2, "do": "decide", "items": ["2.j')
        again = begin(tmp_path)
        assert set(again.decisions.decided()) == {"1.jpg"}
        again.decide("anna", {"2.jpg": 0}, "reject")
        again._log.close()
        assert [event["n"] for event in read_log(tmp_path / "log.jsonl")] == [1, 2]

    @pytest.mark.parametrize("odd", ["\u2028", "\x85", "\x0c", "\udcff", "ä", "\n"])
    def test_any_name_can_be_logged(self, tmp_path: Path, odd: str):
        log = Log(tmp_path / "log.jsonl")
        event = log.append("decide", "anna", verdict="reject", items=[f"a{odd}.jpg"])
        log.close()
        assert read_log(tmp_path / "log.jsonl") == [event]

    def test_a_log_in_utf_8_is_read(self, tmp_path: Path):
        (tmp_path / "log.jsonl").write_text('{"n": 1, "do": "class", "label": "a\u2028ä"}\n', "utf-8")
        assert read_log(tmp_path / "log.jsonl")[0]["label"] == "a\u2028ä"

    def test_a_log_that_was_edited_is_said(self, tmp_path: Path):
        (tmp_path / "log.jsonl").write_text('{"n": 1, "do": "class", "label": "a"}\n{"n": 3, "do": "class"}\n')
        with pytest.raises(DataError, match="line 2 is no event"):
            Log(tmp_path / "log.jsonl")

    def test_a_full_disk_decides_nothing(self, queue: Queue, tmp_path: Path):
        queue._classes = ["a"]
        queue.decide("anna", {"1.jpg": 0}, "reject")
        size = (tmp_path / "log.jsonl").stat().st_size
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
        try:
            with pytest.raises(OutputError, match="cannot write"):
                queue.decide("anna", {"2.jpg": 0}, "reject")
            with pytest.raises(OutputError, match="cannot write"):
                queue.rename_class("anna", "a", "b")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert queue.counts() == {"reject": 1}
        assert queue.classes == ["a"]
        assert (tmp_path / "log.jsonl").stat().st_size == size
        assert queue.decide("anna", {"2.jpg": 0}, "reject").done == ("2.jpg",)

    def test_what_was_answered_survives_a_kill(self, tmp_path: Path):
        code = (
            "import sys\nfrom pathlib import Path\nfrom tests.reviewing.test_queue import begin\n"
            "queue = begin(Path(sys.argv[1]))\n"
            "for at in range(100):\n"
            "    queue.decide('anna', {f'{at}.jpg': 0}, 'label', 'x')\n    print(at, flush=True)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            answered = [process.stdout.readline() for _ in range(12)]
            os.kill(process.pid, signal.SIGKILL)
            answered += process.stdout.readlines()
        again = begin(tmp_path)
        assert len(again.decisions.decided()) - len(answered) in (0, 1)
        again._log.close()

    @pytest.mark.parametrize(("kind", "label"), [("label", ""), ("label", "a\nb"), ("maybe", ""), ("label", "x" * 65)])
    def test_what_makes_no_sense_is_refused(self, queue: Queue, kind: str, label: str):
        with pytest.raises(UsageError):
            queue.decide("anna", {"1.jpg": 0}, kind, label)
        assert queue.left() == len(items())

    def test_a_class_that_is_renamed_into_another_becomes_one_with_it(self, queue: Queue):
        queue.decide("anna", {"1.jpg": 0}, "label", "scratched")
        queue.decide("anna", {"2.jpg": 0}, "label", "scratch")
        assert queue.rename_class("anna", "scratched", "scratch") == "scratch"
        assert queue.classes == ["scratch"]
        assert queue.counts() == {"scratch": 2}
        with pytest.raises(UsageError, match="no class"):
            queue.rename_class("anna", "scratched", "x")
        assert json.loads(json.dumps(queue._log.events)) == queue._log.events
