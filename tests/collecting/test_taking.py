"""From frames to pictures: each at most once, series together, nothing that only repeats, and undoing."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecls.clock import now_ns
from edgecls.collecting import taking as taking_module
from edgecls.collecting.config import CollectConfig
from edgecls.collecting.labelled import LabelledFolder
from edgecls.collecting.run import collect
from edgecls.collecting.taking import Taking
from edgecls.errors import OutputError, SourceError, UsageError
from edgecls.imaging.decode import read_image
from edgecls.imaging.opencv import cv2
from edgecls.imaging.small import small_grey, unchanged
from edgecls.streaming.config import CameraOptions, ReconnectPolicy
from edgecls.streaming.frames import Frame, Geometry, Region


def scene(place: int, size: tuple[int, int] = (160, 120)) -> np.ndarray:
    """A bright thing on a grey table, somewhere else for each number."""
    image = np.full((size[1], size[0], 3), 90, np.uint8)
    left, top = place * 37 % (size[0] - 30), place * 53 % (size[1] - 30)
    image[top : top + 30, left : left + 30] = (40, 200, 220)
    return image


@pytest.fixture
def frames() -> itertools.count:
    return itertools.count()


def frame(number: int, place: int | None = None) -> Frame:
    return Frame(scene(number if place is None else place), number, now_ns(), number / 25)


@pytest.fixture
def taking(tmp_path: Path) -> Taking:
    return Taking(LabelledFolder(tmp_path / "photos"), "door", ("ok", "bad"))


def images(taking: Taking) -> dict[str, int]:
    return {label: count.images for label, count in taking.counts().items()}


def test_pictures_of_one_press_are_one_series_in_one_split(taking: Taking):
    rows = [taking.take(frame(number), "ok", "first") for number in range(5)]
    assert len({row.group for row in rows if row}) == 1
    assert len({row.split for row in rows if row}) == 1
    assert images(taking) == {"ok": 5, "bad": 0}


def test_another_press_soon_after_goes_on_with_the_series_unless_the_class_or_the_person_is_another(
    taking: Taking, monkeypatch: pytest.MonkeyPatch
):
    def group(number: int, label: str, press: str, client: str) -> str:
        row = taking.take(frame(number), label, press, client)
        assert row is not None
        return row.group

    first = group(0, "ok", "1", "anna")
    assert group(1, "ok", "2", "anna") == first
    assert group(2, "bad", "3", "anna") != first
    assert group(3, "ok", "4", "ben") != first
    monkeypatch.setattr(taking_module, "CONTINUES_S", 0.0)
    assert group(4, "ok", "5", "anna") != first


def test_labels_of_the_folder_are_counted_as_they_are(taking: Taking, tmp_path: Path):
    decomposed, long = "e\u0301", "n" * 80
    root = taking._folder.root
    root.mkdir(parents=True, exist_ok=True)
    (root / "data.csv").write_text(f"path,label\n0.png,{decomposed}\n1.png,{long}\n", "utf-8")
    assert images(taking) | {decomposed: 1, long: 1} == images(taking)
    assert taking.add_class("\u00e9") == decomposed
    for number, label in enumerate((decomposed, long), start=1):
        row = taking.take(frame(number), label, f"press {number}")
        assert row is not None
        assert row.label == label
    assert images(taking) | {decomposed: 2, long: 2} == images(taking)


def test_no_frame_is_taken_twice(taking: Taking):
    assert taking.take(frame(0), "ok", "1", "anna") is not None
    assert taking.take(frame(0), "ok", "1", "anna") is None
    assert taking.take(frame(0), "bad", "2", "ben") is None
    assert images(taking) == {"ok": 1, "bad": 0}
    assert not taking.left_out


def test_what_does_not_move_is_left_out_of_a_series_and_counted(taking: Taking):
    kept = [taking.take(frame(number, place), "ok", "1") is not None for number, place in enumerate([3, 3, 4, 3, 5])]
    assert kept == [True, False, True, False, True]
    assert taking.left_out == {"ok": 2}


def test_it_is_kept_where_that_is_wanted(tmp_path: Path):
    taking = Taking(LabelledFolder(tmp_path), "door", keep_still=True)
    assert all(taking.take(frame(number, 3), "ok", "1") for number in range(3))


def test_the_first_picture_of_a_series_is_always_kept(taking: Taking):
    assert taking.take(frame(0, 3), "ok", "1", "anna") is not None
    assert taking.take(frame(1, 3), "ok", "2", "ben") is not None


class TestUndoing:
    def test_takes_back_the_last_press_of_the_same_person(self, taking: Taking):
        for number in range(3):
            taking.take(frame(number), "ok", "1", "anna")
        taking.take(frame(3), "bad", "2", "ben")
        taking.take(frame(4), "bad", "3", "anna")
        assert taking.undoable("anna") == ("bad", 1)
        assert taking.undo("anna") == ("bad", 1)
        assert taking.undo("anna") == ("ok", 3)
        assert taking.undo("anna") is None
        assert images(taking) == {"ok": 0, "bad": 1}
        assert [each.row.label for each in taking.recent] == ["bad"]

    def test_what_was_undone_can_be_taken_again(self, taking: Taking):
        taking.take(frame(0, 3), "ok", "1", "anna")
        taking.undo("anna")
        assert taking.take(frame(1, 3), "ok", "2", "anna") is not None

    def test_a_picture_that_somebody_relabelled_stays(self, taking: Taking, tmp_path: Path):
        row = taking.take(frame(0), "ok", "1", "anna")
        assert row is not None
        LabelledFolder(tmp_path / "photos").relabel([row.path], "bad")
        assert taking.undo("anna") == ("ok", 0)
        assert images(taking) == {"ok": 0, "bad": 1}


def test_a_failure_takes_nothing_and_counts_nothing(taking: Taking, tmp_path: Path):
    (tmp_path / "photos").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="cannot write"):
        taking.take(frame(0), "ok", "1", "anna")
    assert (taking.taken, taking.undoable("anna"), len(taking.recent)) == (0, None, 0)
    (tmp_path / "photos").unlink()
    assert taking.take(frame(0), "ok", "1", "anna") is not None


def test_noise_and_light_are_no_change_but_a_small_thing_is():
    generator = np.random.default_rng(0)
    table = generator.integers(60, 180, (480, 640, 3)).astype(np.uint8)
    table = cv2.GaussianBlur(table, (0, 0), 5)
    noisy = np.clip(table + generator.normal(8, 6, table.shape), 0, 255).astype(np.uint8)
    assert unchanged(small_grey(table), small_grey(noisy))
    scratched = noisy.copy()
    cv2.line(scratched, (200, 200), (230, 215), (250, 250, 250), 4)
    assert not unchanged(small_grey(table), small_grey(scratched))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Four seconds at 25 frames a second, another scene each second."""
    writer = cv2.VideoWriter(str(tmp_path / "line.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (160, 120))
    for number in range(100):
        writer.write(scene(number // 25))
    writer.release()
    return tmp_path / "line.avi"


class TestWithoutAPage:
    def test_a_video_gives_a_picture_so_often_and_a_series_so_long(self, video: Path, tmp_path: Path):
        config = CollectConfig(camera=str(video), label="ok", every_s=0.5, series_s=2.0, out=tmp_path / "photos")
        collected = collect(config)
        assert (collected.taken, collected.left_out) == (4, 4)
        assert collected.counts["ok"].series == 2
        assert collected.counts["ok"].splits == {"train": 2, "val": 2}

    def test_it_ends_after_so_many_pictures(self, video: Path, tmp_path: Path):
        config = CollectConfig(camera=str(video), label="ok", frames=3, out=tmp_path / "photos")
        assert collect(config).taken == 3

    def test_a_folder_gives_each_of_its_images(self, photos: Path, tmp_path: Path):
        collected = collect(CollectConfig(camera=str(photos / "dark"), label="dark", out=tmp_path / "out"))
        assert (collected.taken, collected.counts["dark"].series) == (12, 12)

    def test_a_video_that_was_taken_before_adds_nothing_whatever_it_is_called(self, video: Path, tmp_path: Path):
        config = CollectConfig(camera=str(video), label="ok", every_s=0.5, series_s=2.0, out=tmp_path / "photos")
        before = collect(config).counts
        video.rename(tmp_path / "copy.avi")
        for other in (config, replace(config, keep_still=True, every_s=1.0), replace(config, label="bad")):
            again = collect(replace(other, camera=str(tmp_path / "copy.avi")))
            assert (again.taken, again.counts["ok"]) == (0, before["ok"])
            assert set(again.known) == {"ok"}

    def test_more_pictures_of_a_video_go_on_with_its_series_in_their_splits(self, tmp_path: Path):
        writer = cv2.VideoWriter(str(tmp_path / "line.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (160, 120))
        for number in range(200):
            writer.write(scene(number))
        writer.release()
        config = CollectConfig(camera=str(tmp_path / "line.avi"), label="ok", series_s=2.0, out=tmp_path / "photos")
        first = collect(replace(config, every_s=0.4, frames=15))
        assert (first.taken, first.counts["ok"].series) == (15, 3)
        then = collect(replace(config, every_s=0.24, series_s=1.0))
        assert then.taken > 15
        rows = LabelledFolder(tmp_path / "photos").rows()
        splits = {row.group.partition("@")[2]: row.split for row in rows}
        assert splits | {"0ms": "train", "2000ms": "val", "4000ms": "test"} == splits
        assert sorted(splits) == ["0ms", "2000ms", "4000ms", "5000ms", "6000ms", "7000ms"]
        assert len({(row.group, row.split) for row in rows}) == len(splits)

    def test_a_folder_that_was_taken_before_adds_its_new_images(self, photos: Path, tmp_path: Path):
        dark = tmp_path / "dark"
        shutil.copytree(photos / "dark", dark)
        collect(CollectConfig(camera=str(dark), label="dark", out=tmp_path / "out"))
        new = sorted((photos / "bright").iterdir())[0]
        shutil.copy(new, dark / "a new one.png")
        shutil.copy(new, dark / "its copy.png")
        again = collect(CollectConfig(camera=str(dark), label="dark", out=tmp_path / "out"))
        assert (again.taken, again.left_out, dict(again.known)) == (1, 1, {"dark": 12})
        assert again.counts["dark"].images == 13

    def test_a_picture_that_was_taken_out_may_be_taken_again(self, photos: Path, tmp_path: Path):
        config = CollectConfig(camera=str(photos / "dark"), label="dark", out=tmp_path / "out")
        collect(config)
        folder = LabelledFolder(tmp_path / "out")
        folder.remove([folder.rows()[0].path])
        assert collect(config).taken == 1

    def test_what_is_kept_is_what_a_stream_with_the_same_options_looks_at(self, tmp_path: Path):
        cv2.imwrite(str(tmp_path / "one.png"), scene(7))
        geometry = Geometry(rotate=90, region=Region(0, 0.5, 1, 0.5))
        options = CameraOptions(geometry=geometry)
        collect(
            CollectConfig(camera=str(tmp_path / "one.png"), label="ok", camera_options=options, out=tmp_path / "out")
        )
        (path,) = (tmp_path / "out").rglob("*.jpg")
        kept, seen = read_image(path), geometry(scene(7))
        assert kept.shape == seen.shape
        assert np.abs(kept.astype(int) - seen).mean() < 3

    def test_a_camera_that_ends_keeps_what_was_taken(self, tmp_path: Path):
        with pytest.raises(SourceError):
            options = CameraOptions(reconnect=ReconnectPolicy(give_up_s=0.0))
            collect(CollectConfig(camera="http://127.0.0.1:9/none", label="ok", camera_options=options, out=tmp_path))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every_s": 2.0}, "`label`"),
        ({"classes": ("ok", "a\nb")}, "a class takes a name"),
        ({"label": " "}, "a class takes a name"),
        ({"web_token": "a", "web_token_file": Path("b")}, "not both"),
        ({"per_second": 0.0}, "`per_second`"),
        ({"web": "here"}, "`web` takes a port"),
    ],
)
def test_what_makes_no_sense_is_said(settings: dict[str, object], words: str, tmp_path: Path):
    with pytest.raises(UsageError, match=words):
        collect(CollectConfig(camera="nothing", out=tmp_path, **settings))


def test_a_page_needs_a_camera_or_a_video(photos: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="`label`"):
        collect(CollectConfig(camera=str(photos / "dark"), web="0", out=tmp_path / "out"))
