"""From decisions to labelled images, whatever happens in between."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecls.collecting.labelled import LabelledFolder, read_labelled
from edgecls.errors import DataError, UsageError
from edgecls.imaging.opencv import cv2
from edgecls.reviewing import placing, run
from edgecls.reviewing.config import ReviewConfig
from edgecls.reviewing.features import FeatureExtractor, Thumbnails
from edgecls.reviewing.items import Item, doubted, read_pool
from edgecls.reviewing.log import read_log
from edgecls.reviewing.run import Review, review, review_folder
from edgecls.runtime.classifier import load
from edgecls.runtime.store import Artifact
from tests.streaming.cameras import until

KINDS = ((40, 60, 200), (200, 80, 40), (60, 180, 60))


def picture(number: int) -> bytes:
    """A picture of one of three kinds of thing, none of which is another."""
    image = np.full((48, 64, 3), KINDS[number % 3], np.uint8)
    image[4 + number % 40, :, :] = 255
    image[:, 2 + (7 * number) % 60] = (number % 256, number // 256, 0)
    return cv2.imencode(".png", image)[1].tobytes()


def make_pool(folder: Path, count: int = 12) -> Path:
    """A pool as a stream keeps it."""
    (folder / "gate").mkdir(parents=True)
    lines = []
    for number in range(count):
        path = f"gate/20261128T10{number:02d}00.000Z.jpg"
        (folder / path).write_bytes(picture(number))
        row = {"path": path, "time": f"2026-11-28T10:{number:02d}:00.000+00:00", "camera": "gate"}
        scores = [["ok", 0.6], ["bad", 0.3]]
        lines.append({**row, "reasons": ["unsure"], "label": None, "best": "ok", "score": 0.6, "scores": scores})
    lines[2] |= {"reasons": ["wrong"], "label": "bad"}
    gone = {**lines[0], "path": "gate/gone.jpg"}
    removed = {"path": lines[1]["path"], "removed": True}
    text = "".join(json.dumps(line) + "\n" for line in [gone, *lines, removed, {"path": "../../etc/x.jpg"}])
    (folder / "pool.jsonl").write_text(text + '{"path": "gate/20261128T100')
    return folder


@pytest.fixture
def config(tmp_path: Path) -> ReviewConfig:
    return ReviewConfig(pool=make_pool(tmp_path / "pool"), data=tmp_path / "photos", web="0")


def begin(config: ReviewConfig, suspects: list[Item] | None = None) -> Review:
    items = read_pool(config.pool) if config.pool else doubted(LabelledFolder(config.data).rows(), suspects or [])
    return Review(config, items, None, suspects is not None)


def labels(config: ReviewConfig) -> dict[str, str]:
    """Labels by the picture's content; none is there twice, and none without its file."""
    rows, unlisted = read_labelled(config.data)
    assert unlisted == []
    found = {hashlib.sha256((config.data / row.path).read_bytes()).hexdigest(): row.label for row in rows}
    assert len(found) == len(rows)
    return found


def digest(number: int) -> str:
    return hashlib.sha256(picture(number)).hexdigest()


def path(number: int) -> str:
    return f"gate/20261128T10{number:02d}00.000Z.jpg"


class TestPool:
    def test_what_a_stream_kept_is_read(self, config: ReviewConfig):
        assert config.pool
        items = {item.path: item for item in read_pool(config.pool)}
        assert set(items) == {path(number) for number in range(12) if number != 1}
        wrong, unsure = items[path(2)], items[path(3)]
        assert (wrong.suggested, wrong.first, wrong.reason) == ("bad", 1.0, "wrong")
        assert (unsure.suggested, unsure.first, unsure.source, unsure.group) == (
            "ok",
            0,
            "gate",
            "gate 2026-11-28 10:03",
        )

    def test_any_folder_of_images_is_a_pool(self, tmp_path: Path):
        (tmp_path / "a ä").mkdir()
        (tmp_path / "a ä" / "1.png").write_bytes(picture(1))
        assert [item.path for item in read_pool(tmp_path)] == ["a ä/1.png"]
        with pytest.raises(DataError, match="no folder"):
            read_pool(tmp_path / "none")


class TestSuggestions:
    def test_labelled_images_that_are_there_are_learned_from(self, config: ReviewConfig):
        folder = LabelledFolder(config.data)
        for number in range(30, 42):
            folder.add(picture(number), f"kind {number % 3}", "phone", suffix=".png")
        first = begin(config)
        first.start()
        until(lambda: first.queue.shown([path(0)])[0].guess == "kind 0")
        kinds = {path(number): f"kind {number % 3}" for number in range(12) if number != 1}
        assert {each.item.path: each.guess for each in first.queue.shown(kinds)} == kinds
        first.queue.decide("anna", {path(0): 0}, "label", "kind 1")
        first.close()
        assert labels(config)[digest(0)] == "kind 1"
        again = begin(config)
        assert len(again._labelled) == 12  # what came from the pool stands in the log
        again.close()

    def test_what_cannot_be_read_among_them_stops_nothing(self, config: ReviewConfig):
        row = LabelledFolder(config.data).add(picture(30), "kind 0", "phone", suffix=".png")
        (config.data / row.path).write_bytes(b"no picture")
        first = begin(config)
        first.start()
        until(lambda: first.known == 11)
        assert first.error is None
        first.close()


class TestPlacing:
    def test_labelled_pictures_are_copied_and_changed_and_taken_out(self, config: ReviewConfig):
        first = begin(config)
        first.queue.decide("anna", {path(0): 0, path(2): 0}, "label", "ok/ä b")
        first.queue.decide("anna", {path(3): 0}, "reject")
        first.settle()
        assert labels(config) == dict.fromkeys(map(digest, (0, 2)), "ok/ä b")
        row = LabelledFolder(config.data).rows()[0]
        assert (row.source, row.group, row.time[:19]) == ("gate", "gate 2026-11-28 10:00", "2026-11-28T10:00:00")
        first.queue.decide("ben", {path(0): first.queue.decisions.version(path(0))}, "label", "bad")
        first.settle()
        assert labels(config) == {digest(0): "bad", digest(2): "ok/ä b"}
        first.queue.undo("ben")
        first.queue.undo("anna")  # the reject
        first.queue.undo("anna")
        first.close()
        assert labels(config) == {}
        assert config.pool
        assert (config.pool / path(0)).is_file()

    def test_what_is_logged_and_not_done_is_done_when_it_begins_again(self, config: ReviewConfig):
        killed = begin(config)
        killed.queue.decide("anna", {path(0): 0, path(2): 0}, "label", "ok")
        killed._log.close()
        assert not (config.data / "data.csv").exists()
        done = review(config, replay=True)
        assert (done.counts, done.left) == ({"ok": 2}, 9)
        assert labels(config) == {digest(0): "ok", digest(2): "ok"}
        again = LabelledFolder(config.data).rows()
        review(config, replay=True)
        assert LabelledFolder(config.data).rows() == again

    @pytest.mark.parametrize("after", range(4))
    def test_killed_in_the_middle_nothing_is_lost_or_doubled(
        self, config: ReviewConfig, monkeypatch: pytest.MonkeyPatch, after: int
    ):
        killed = begin(config)
        killed.queue.decide("anna", {path(number): 0 for number in (0, 2, 3, 4)}, "label", "ok")
        pid = os.fork()
        if pid == 0:
            copy, copied = placing.FromPool._copy, []

            def dying(self: placing.FromPool, *given: object) -> str | None:
                if len(copied) == after:
                    os._exit(9)
                copied.append(0)
                return copy(self, *given)  # type: ignore[arg-type]

            monkeypatch.setattr(placing.FromPool, "_copy", dying)
            killed.settle()
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        killed._log.close()
        review(config, replay=True)
        assert labels(config) == dict.fromkeys(map(digest, (0, 2, 3, 4)), "ok")

    def test_what_somebody_changed_in_the_folder_afterwards_stays(self, config: ReviewConfig):
        first = begin(config)
        first.queue.decide("anna", {path(0): 0, path(2): 0}, "label", "ok")
        first.close()
        folder = LabelledFolder(config.data)
        folder.remove([folder.rows()[0].path])
        folder.relabel([folder.rows()[0].path], "bad")
        review(config, replay=True)
        assert [row.label for row in folder.rows()] == ["bad"]

    def test_a_pool_that_was_deleted_loses_no_decision_that_was_done(self, config: ReviewConfig):
        first = begin(config)
        first.queue.decide("anna", {path(0): 0}, "label", "ok")
        first.settle()
        assert config.pool
        shutil.rmtree(config.pool)
        first.queue.decide("anna", {path(2): 0}, "label", "ok")
        first.close()
        assert labels(config) == {digest(0): "ok"}
        assert first.gone == {path(2)}
        assert first.queue.next("anna") == []

    def test_moved_pictures_leave_the_pool_at_the_end(self, config: ReviewConfig):
        moving = ReviewConfig(pool=config.pool, data=config.data, web="0", move=True)
        first = begin(moving)
        first.queue.decide("anna", {path(0): 0}, "label", "ok")
        first.queue.decide("anna", {path(2): 0}, "reject")
        assert first.close() == 1
        assert config.pool
        assert not (config.pool / path(0)).exists()
        assert (config.pool / path(2)).is_file()
        assert labels(config) == {digest(0): "ok"}

    def test_a_renamed_class_is_renamed_in_all_images(self, config: ReviewConfig):
        other = LabelledFolder(config.data).add(picture(50), "ok", "phone", suffix=".png")
        first = begin(config)
        first.queue.decide("anna", {path(0): 0}, "label", "ok")
        first.settle()
        first.queue.rename_class("anna", "ok", "gut")
        first._log.close()  # killed before it is done
        review(config, replay=True)
        assert other.label == "ok"
        assert labels(config) == {digest(50): "gut", digest(0): "gut"}


class TestSuspects:
    @pytest.fixture
    def photos(self, tmp_path: Path) -> ReviewConfig:
        folder = LabelledFolder(tmp_path / "photos")
        for number in range(4):
            folder.add(picture(number), "ok" if number < 3 else "bad", "gate", f"series {number}", suffix=".png")
        return ReviewConfig(data=tmp_path / "photos", web="0")

    def doubt(self, config: ReviewConfig) -> list[Item]:
        rows = LabelledFolder(config.data).rows()
        return [Item(row.path, label=row.label, suggested="bad", reason="label") for row in rows]

    def test_labels_are_corrected_confirmed_taken_out_and_given_back(self, photos: ReviewConfig):
        before = sorted(LabelledFolder(photos.data).rows(), key=lambda row: row.time)
        first = begin(photos, self.doubt(photos))
        first.start()
        a, b, c, _ = (row.path for row in before)
        first.queue.decide("anna", {a: 0}, "label", "bad")
        first.queue.decide("anna", {b: 0}, "label", "ok")
        first.queue.decide("anna", {c: 0}, "reject")
        first.close()
        assert labels(photos) == {digest(0): "bad", digest(1): "ok", digest(3): "bad"}
        again = begin(photos, self.doubt(photos))
        assert again.queue.left() == 2  # the one that moved, as bad as it was, and the one that is bad
        for _ in range(3):
            again.queue.undo("anna")
        again.close()
        assert sorted(LabelledFolder(photos.data).rows(), key=lambda row: row.time) == before

    @pytest.mark.parametrize("error", [OSError(5, "Input/output error"), ZeroDivisionError("a fault of the program")])
    def test_a_fault_in_learning_is_said_and_stops_nothing(
        self, photos: ReviewConfig, monkeypatch: pytest.MonkeyPatch, error: Exception
    ):
        monkeypatch.setattr(run, "RETRY_S", 0.05)
        review = begin(photos, self.doubt(photos))

        def fails() -> None:
            raise error

        monkeypatch.setattr(review._choice, "learn", fails)
        review.start()
        until(lambda: review.error is not None)
        review.queue.decide("anna", {review.queue.items[0].path: 0}, "label", "bad")
        until(lambda: not review.queue.decisions.unplaced)
        assert labels(photos)[digest(0)] == "bad"
        assert str(error) in str(review.error)
        monkeypatch.undo()
        review.close()

    def test_labels_that_nobody_typed_are_taken_as_they_are(self, tmp_path: Path):
        config = ReviewConfig(data=tmp_path / "photos", web="0", classes=("e\u0301",))
        composed, decomposed, long = "\u00e9", "e\u0301", "n" * 80
        config.data.mkdir()
        for number in range(3):
            (config.data / f"{number}.png").write_bytes(picture(number))
        rows = f"path,label\n0.png,{decomposed}\n1.png,{long}\n2.png,ok\n"
        (config.data / "data.csv").write_text(rows, "utf-8")
        model = "model " * 20
        review = begin(config, [replace(each, suggested=model) for each in self.doubt(config)])
        assert review.queue.classes == [decomposed, long, "ok", model]
        for at, label in enumerate((long, model, composed)):  # what is typed means the one that is there
            review.queue.decide("anna", {f"{at}.png": 0}, "label", label)
        assert review.queue.counts() == {long: 1, model: 1, decomposed: 1}
        with pytest.raises(UsageError, match="1 to 64 printable"):
            review.queue.add_class("anna", "x" * 65)
        review.close()
        assert labels(config) == {digest(0): long, digest(1): model, digest(2): decomposed}

    def test_an_image_of_the_same_name_in_another_class_is_left_alone(self, tmp_path: Path):
        config = ReviewConfig(data=tmp_path / "photos", web="0")
        for number, label in enumerate(("apple", "pear")):
            (config.data / label).mkdir(parents=True)
            (config.data / label / "0001.png").write_bytes(picture(number))
        (config.data / "data.csv").write_text("path,label\napple/0001.png,apple\npear/0001.png,pear\n")
        review = begin(config, self.doubt(config))
        review.queue.decide("anna", {"apple/0001.png": 0}, "reject")
        review.settle()
        assert labels(config) == {digest(1): "pear"}
        review.queue.undo("anna")
        review.settle()
        assert labels(config) == {digest(0): "apple", digest(1): "pear"}
        review.queue.decide("anna", {"apple/0001.png": review.queue.decisions.version("apple/0001.png")}, "reject")
        review.settle()
        (config.data / ".removed" / "apple" / "0001.png").unlink()
        review.queue.undo("anna")
        review.close()
        assert labels(config) == {digest(1): "pear"}
        assert review.gone == {"apple/0001.png"}

    @pytest.mark.parametrize("kind", ["label", "reject"])
    def test_killed_before_it_is_noted_it_is_not_done_twice(self, photos: ReviewConfig, kind: str):
        first = begin(photos, self.doubt(photos))
        item = first.queue.items[0].path
        first.queue.decide("anna", {item: 0}, kind, "bad")
        first.queue.placed = lambda *_: None  # type: ignore[method-assign]  # as if killed before it
        first.settle()
        done = labels(photos)
        first._log.close()
        review(photos, [], replay=True)
        assert labels(photos) == done
        events = read_log(review_folder(photos, True) / "log.jsonl")
        assert events[-1]["do"] == "placed"

    def test_a_folder_without_a_list_is_not_made_a_mess_of(self, tmp_path: Path):
        (tmp_path / "photos" / "ok").mkdir(parents=True)
        (tmp_path / "photos" / "ok" / "1.png").write_bytes(picture(1))
        for config, suspects in (
            (ReviewConfig(data=tmp_path / "photos"), []),
            (ReviewConfig(pool=make_pool(tmp_path / "pool"), data=tmp_path / "photos"), None),
        ):
            with pytest.raises(DataError, match="edgecls data import"):
                review(config, suspects, replay=True)
        with pytest.raises(UsageError, match="name a pool"):
            review(ReviewConfig(data=tmp_path / "photos"))


class TestLooks:
    def test_they_are_found_once(self, tmp_path: Path, bundle: Callable[[str, str], Artifact]):
        pool = make_pool(tmp_path / "pool")
        (pool / "gate" / "broken.jpg").write_bytes(b"no picture")
        items = [*(item.path for item in read_pool(pool)), "gate/broken.jpg"]
        with load(bundle("onnx", "fp32").path, tensors=("embedding",)) as model:
            heard: dict[str, object] = {}
            extractor = FeatureExtractor(pool, tmp_path / "own", Thumbnails(pool, tmp_path / "thumbnails"), model)
            extractor.find(items[:5], heard.update)
            extractor.find(items, heard.update)
            assert set(heard) == set(items) - {"gate/broken.jpg"}
            assert set(extractor.unreadable) == {"gate/broken.jpg"}
            for item in items[:-1]:
                (pool / item).write_bytes(b"not read again")
            again: dict[str, object] = {}
            FeatureExtractor(pool, tmp_path / "own", Thumbnails(pool, tmp_path / "thumbnails"), model).find(
                items[:-1], again.update
            )
            assert set(again) == set(heard)

    def test_thumbnails_are_small_and_those_of_the_picture_that_is_there(self, tmp_path: Path):
        (tmp_path / "a.png").write_bytes(cv2.imencode(".png", np.zeros((600, 900, 3), np.uint8))[1].tobytes())
        thumbnails = Thumbnails(tmp_path, tmp_path / "own")
        small = thumbnails.get("a.png")
        assert cv2.imdecode(np.frombuffer(small, np.uint8), 1).shape == (160, 240, 3)
        (kept,) = (tmp_path / "own").rglob("*.jpg")
        kept.write_bytes(small[:100])  # torn by a power cut
        assert thumbnails.get("a.png") == small == kept.read_bytes()
        (tmp_path / "a.png").write_bytes(picture(1))
        assert thumbnails.get("a.png") != small
