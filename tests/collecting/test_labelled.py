"""A folder of labelled images grows: whole, in order, and the same for everybody who works on it."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from edgecls.collecting.labelled import LabelledFolder, read_labelled
from edgecls.collecting.labels import folder_name
from edgecls.collecting.table import COLUMNS, SHARES
from edgecls.data.dataset import open_dataset
from edgecls.data.layout import index_dataset
from edgecls.errors import DataError, OutputError, UsageError
from edgecls.imaging.folders import holds_labels
from edgecls.imaging.opencv import cv2
from edgecls.labels import clean_label
from tests.streaming.cameras import numbered

JPEG = cv2.imencode(".jpg", numbered(128))[1].tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> LabelledFolder:
    return LabelledFolder(tmp_path / "photos")


def lines(folder: LabelledFolder) -> list[dict[str, str]]:
    with folder.file.open(newline="", encoding="utf-8") as stream:
        return [*csv.DictReader(stream)]


def images(folder: LabelledFolder) -> set[str]:
    return {str(path.relative_to(folder.root)) for path in folder.root.rglob("*.jpg") if ".removed" not in path.parts}


def require_consistent(folder: LabelledFolder) -> None:
    """Every row has its image, every image its row, and no image is there twice."""
    rows, unlisted = read_labelled(folder.root)
    assert unlisted == []
    assert len({row.path for row in rows}) == len(rows)
    assert {row.path for row in rows} == images(folder)
    assert all((folder.root / row.path).read_bytes() == JPEG for row in rows)


def in_a_process(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Python code beside this test, that has `folder` and JPEG."""
    begin = """
        import sys; from pathlib import Path
        from edgecls.collecting.labelled import LabelledFolder
        from tests.collecting.test_labelled import JPEG
        folder = LabelledFolder(Path(sys.argv[1]))
    """
    command = [sys.executable, "-c", textwrap.dedent(begin) + textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class TestAdding:
    def test_an_image_lies_in_the_folder_of_its_label_and_has_a_row(self, folder: LabelledFolder):
        row = folder.add(JPEG, "scratched", "camera 0")
        assert (folder.root / row.path).read_bytes() == JPEG
        assert row.path.startswith("scratched/")
        assert row.path.endswith("_camera-0_0.jpg")
        (line,) = lines(folder)
        assert tuple(line) == COLUMNS
        assert line["path"] == row.path
        assert (line["label"], line["source"], line["split"]) == ("scratched", "camera 0", "train")
        assert line["time"].endswith("+00:00")
        assert line["group"] == Path(row.path).stem

    def test_images_of_one_moment_get_names_of_their_own(self, folder: LabelledFolder):
        from datetime import datetime, timezone

        moment = datetime(2026, 1, 2, 3, 4, 5, 678000, timezone.utc)
        paths = [folder.add(JPEG, "ok", "door", time=moment).path for _ in range(3)]
        assert paths == [f"ok/20260102T030405678_door_{number}.jpg" for number in range(3)]
        require_consistent(folder)

    def test_counts_are_of_images_splits_and_series(self, folder: LabelledFolder):
        first = folder.add(JPEG, "ok", "door")
        folder.add(JPEG, "ok", "door", first.group)
        folder.add(JPEG, "ok", "door")
        folder.add(JPEG, "empty", "door")
        counts = folder.counts()
        assert (counts["ok"].images, counts["ok"].series, counts["ok"].splits) == (3, 2, {"train": 2, "val": 1})
        assert counts["empty"].images == 1
        assert LabelledFolder(folder.root).counts() == counts

    def test_a_series_stays_in_one_split_and_every_split_gets_some(self, folder: LabelledFolder):
        draw = random.Random(0)
        for _ in range(12):
            group = None
            for _ in range(draw.randint(1, 6)):
                group = folder.add(JPEG, "ok", "door", group).group
        splits: dict[str, set[str]] = {}
        for row in folder.rows():
            splits.setdefault(row.group, set()).add(row.split)
        assert all(len(names) == 1 for names in splits.values())
        assert len({name for names in splits.values() for name in names}) == 3

    def test_three_series_are_enough_for_three_splits(self, folder: LabelledFolder):
        assert [folder.add(JPEG, "ok", "door").split for _ in range(3)] == ["train", "val", "test"]

    def test_shares_are_kept_in_the_long_run(self, folder: LabelledFolder):
        for _ in range(100):
            folder.add(JPEG, "ok", "door")
        splits = folder.counts()["ok"].splits
        assert all(abs(splits[name] - 100 * share) <= 2 for name, share in SHARES.items())

    def test_the_splits_do_not_depend_on_who_asks(self, tmp_path: Path):
        one = LabelledFolder(tmp_path / "one")
        alone = [one.add(JPEG, "ok", "door").split for _ in range(20)]
        in_turn = [LabelledFolder(tmp_path / "many").add(JPEG, "ok", "door").split for _ in range(20)]
        assert alone == in_turn


LABELS = [
    "ok", "ok/ä b", "..", ".", "CON", "con.txt", "a:b", "100%", "a\\b", " x ", "ends.", "日本", "🙂" * 40, '"a,b"',
    "train", "-rf", "*", "~", "a%2Fb", "a/b", "ok/ok", "=1+1", "ä" * 64,
]  # fmt: skip


class TestLabels:
    @pytest.mark.parametrize("label", LABELS)
    def test_any_label_that_can_be_read_is_kept_as_it_is(self, folder: LabelledFolder, label: str):
        row = folder.add(JPEG, label, "door")
        assert row.label == label.strip()
        assert lines(folder)[0]["label"] == label.strip()
        assert (folder.root / row.path).resolve().parent.parent == folder.root.resolve()
        require_consistent(folder)
        assert index_dataset(str(folder.root)).classes == (label.strip(),)

    def test_labels_do_not_share_a_folder(self):
        names = [folder_name(clean_label(label)) for label in LABELS]
        assert len(set(names)) == len(names)
        for name in names:
            assert len(name.encode()) <= 200
            assert not set(name) & set('/\\:*?"<>|')
            assert name[0] not in "."
            assert name[-1] not in ". "

    @pytest.mark.parametrize("label", ["", " ", "a\nb", "a\0b", "\u202eabc", "x" * 65, "\ud800"])
    def test_what_nobody_can_read_is_no_label(self, folder: LabelledFolder, label: str):
        with pytest.raises(UsageError, match="a class takes a name") as refused:
            folder.add(JPEG, label, "door")
        assert len(str(refused.value).splitlines()) == 1
        assert not folder.root.exists() or images(folder) == set()

    def test_one_label_typed_in_two_ways_is_one(self, folder: LabelledFolder):
        assert folder.add(JPEG, "a\u0308", "door").label == folder.add(JPEG, "ä", "door").label

    @pytest.mark.parametrize("source", ["rtsp://me@host/a b", "../../etc", "", "日本", "x" * 999])
    def test_any_camera_can_be_named(self, folder: LabelledFolder, source: str):
        row = folder.add(JPEG, "ok", source)
        assert row.path.count("/") == 1
        assert lines(folder)[0]["source"] == source


class TestChanging:
    def test_another_label_moves_the_image_and_keeps_its_split(self, folder: LabelledFolder):
        first, other = folder.add(JPEG, "ok", "door"), folder.add(JPEG, "ok", "door")
        folder.relabel([first.path, "ok/none.jpg"], "bad/one")
        moved, kept = folder.rows()
        assert (moved.label, moved.split, moved.group) == ("bad/one", first.split, first.group)
        assert moved.path.startswith("bad%2Fone/")
        assert kept == other
        require_consistent(folder)

    def test_a_removed_image_is_kept_apart(self, folder: LabelledFolder):
        row = folder.add(JPEG, "ok", "door")
        folder.remove([row.path])
        assert folder.rows() == []
        assert folder.counts() == {}
        assert (folder.root / ".removed" / row.path).read_bytes() == JPEG
        require_consistent(folder)

    def test_everything_can_be_undone(self, folder: LabelledFolder):
        first, second = folder.add(JPEG, "ok", "door"), folder.add(JPEG, "ok", "door")
        begin = folder.rows()
        relabelled = folder.relabel([first.path], "bad")
        removed = folder.remove([second.path])
        assert folder.undo(removed) == 1
        assert folder.undo(relabelled) == 1
        assert sorted(folder.rows(), key=lambda row: row.path) == sorted(begin, key=lambda row: row.path)
        require_consistent(folder)

    def test_an_undone_image_is_gone(self, folder: LabelledFolder):
        from edgecls.collecting.labelled import Change

        rows = [folder.add(JPEG, "ok", "door") for _ in range(3)]
        assert folder.undo(Change(((None, rows[0]), (None, rows[2])))) == 2
        assert folder.rows() == [rows[1]]
        assert images(folder) == {rows[1].path}
        assert not (folder.root / ".removed").exists()

    def test_what_somebody_changed_since_then_is_not_undone(self, folder: LabelledFolder):
        from edgecls.collecting.labelled import Change

        row = folder.add(JPEG, "ok", "door")
        LabelledFolder(folder.root).relabel([row.path], "bad")
        assert folder.undo(Change(((None, row),))) == 0
        assert [row.label for row in folder.rows()] == ["bad"]
        removed = folder.remove([folder.rows()[0].path])
        assert (folder.undo(removed), folder.undo(removed)) == (1, 0)
        require_consistent(folder)

    def test_an_image_whose_file_was_deleted_does_not_come_back(self, folder: LabelledFolder):
        first, second = folder.add(JPEG, "ok", "door"), folder.add(JPEG, "ok", "door")
        removed = folder.remove([first.path, second.path])
        (folder.root / ".removed" / first.path).unlink()
        assert folder.undo(removed) == 1
        assert folder.rows() == [second]
        require_consistent(folder)


class TestWhatPeopleWrite:
    def test_further_columns_and_rows_are_kept(self, folder: LabelledFolder):
        folder.root.mkdir()
        folder.file.write_text('shift,path,Label,split\r\nnight,"my own.jpg",ok,val\r\n"a ""b""\nc",x.jpg,bad,\r\n')
        row = folder.add(JPEG, "ok", "door", further={"shift": "day"})
        folder.relabel(["x.jpg"], "worse")
        own, relabelled, added = lines(folder)
        assert (own["path"], own["label"], own["split"], own["shift"]) == ("my own.jpg", "ok", "val", "night")
        assert (relabelled["path"], relabelled["label"], relabelled["shift"]) == ("x.jpg", "worse", 'a "b"\nc')
        assert (added["path"], added["shift"], added["group"]) == (row.path, "day", row.group)

    def test_a_last_line_without_its_end_is_kept_where_it_is_whole(self, folder: LabelledFolder):
        folder.root.mkdir()
        folder.file.write_text("path,label,split,source,time,group\na.jpg,ok,train,,,")
        folder.add(JPEG, "ok", "door")
        assert lines(folder)[0]["path"] == "a.jpg"
        assert len(lines(folder)) == 2

    @pytest.mark.parametrize("cut", [1, 30, 60])
    @pytest.mark.parametrize("tail", [b"", b"\0\0\0"])
    def test_a_torn_last_line_is_mended(self, folder: LabelledFolder, cut: int, tail: bytes):
        first, torn = folder.add(JPEG, "ok", "door"), folder.add(JPEG, "ok", "door")
        whole = folder.file.read_bytes()
        folder.file.write_bytes(whole[: len(whole) - len(whole.splitlines()[-1]) - 1 + cut] + tail)
        rows, unlisted = read_labelled(folder.root)
        assert rows == [first]
        assert unlisted == [torn.path]
        added = folder.add(JPEG, "ok", "door")
        assert folder.rows() == [first, added]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("file;label\n", "line 1: the columns must be named"),
            ("path,label\na.jpg,\n", "line 2: no label"),
            ("path,label\n,ok\n", "line 2: no path"),
            ("path,label\na.jpg,ok\na.jpg,bad\n", "line 3: a.jpg stands there twice"),
        ],
    )
    def test_what_is_no_list_is_said_and_left_alone(self, folder: LabelledFolder, text: str, words: str):
        folder.root.mkdir()
        folder.file.write_text(text)
        with pytest.raises(DataError, match=words):
            folder.add(JPEG, "ok", "door")
        assert folder.file.read_text() == text
        assert images(folder) == set()

    @pytest.mark.parametrize("inside", [True, False])
    def test_images_elsewhere_are_left_where_they_are(self, folder: LabelledFolder, tmp_path: Path, inside: bool):
        (tmp_path / "mine.jpg").write_bytes(JPEG)
        path = "../mine.jpg" if inside else str(tmp_path / "mine.jpg")
        folder.root.mkdir()
        folder.file.write_text(f"path,label\n{path},ok\n")
        removed = folder.remove([path])
        assert (folder.rows(), (tmp_path / "mine.jpg").read_bytes()) == ([], JPEG)
        assert folder.undo(removed) == 1
        assert [row.path for row in folder.rows()] == [path]


class TestTraining:
    def test_takes_the_splits_of_the_list(self, folder: LabelledFolder):
        for label in ("ok", "bad/one"):
            for _ in range(5):
                folder.add(JPEG, label, "door")
        dataset = open_dataset(str(folder.root), 0)
        assert dataset.classes == ("bad/one", "ok")
        for split, samples in dataset.splits.items():
            assert {s.key for s in samples} == {row.path for row in folder.rows() if row.split == split}

    def test_a_row_without_a_file_and_a_file_without_a_row_are_said(self, folder: LabelledFolder):
        rows = [folder.add(JPEG, label, "door") for label in ("ok", "bad") for _ in range(5)]
        (folder.root / rows[3].path).unlink()
        (folder.root / "ok" / "mine.jpg").write_bytes(JPEG)
        (folder.root / "quarantine.csv").write_text(f"path,reason\n{rows[4].path},blurred\n")
        dataset = open_dataset(str(folder.root), 0)
        assert set(dataset.skipped) == {rows[3].path, rows[4].path, "ok/mine.jpg"}
        assert "data.csv" in dataset.skipped["ok/mine.jpg"]
        assert sum(map(len, dataset.splits.values())) == 8

    def test_another_data_csv_changes_nothing(self, photos: Path):
        (photos / "data.csv").write_text("temperature,pressure\n1,2\n")
        assert not holds_labels(photos)
        assert len(index_dataset(str(photos)).splits["train"]) == 24


class TestAtOnce:
    def test_processes_lose_and_double_nothing(self, folder: LabelledFolder):
        adding = """
            rows = [folder.add(JPEG, f"class {number % 3}", "door") for number in range(40)]
            folder.relabel([row.path for row in rows[:10]], "moved")
            folder.remove([row.path for row in rows[10:15]])
        """
        processes = [in_a_process(adding, folder.root) for _ in range(3)]
        for process in processes:
            assert process.communicate() == ("", "")
        assert Counter(row.label == "moved" for row in folder.rows()) == {False: 3 * 25 - 30 + 30, True: 30}
        require_consistent(folder)

    def test_threads_lose_and_double_nothing(self, folder: LabelledFolder):
        threads = [threading.Thread(target=lambda: [folder.add(JPEG, "ok", "d") for _ in range(15)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(folder.rows()) == 60
        require_consistent(folder)

    def test_a_killed_process_leaves_whole_files_and_no_lock(self, folder: LabelledFolder):
        working = """
            import itertools
            for number in itertools.count():
                row = folder.add(JPEG, f"class {number % 2}", "door")
                if number % 5 == 0:
                    folder.relabel([row.path], "moved")
                print(number, flush=True)
        """
        pauses = random.Random(0)
        for _ in range(4):
            process = in_a_process(working, folder.root)
            assert process.stdout is not None
            for _ in range(5):
                process.stdout.readline()
            time.sleep(pauses.random() / 50)
            process.kill()
            process.communicate()
            rows, unlisted = read_labelled(folder.root)
            assert len(rows) >= 5
            assert len(unlisted) <= 4  # one for each kill at most
            for path in [*(row.path for row in rows), *unlisted]:
                assert (folder.root / path).read_bytes() == JPEG
        before = len(folder.rows())
        folder.add(JPEG, "ok", "door")
        assert len(folder.rows()) == before + 1


class TestAFullDisk:
    @pytest.mark.parametrize(("limit", "rows"), [(100, 0), (len(JPEG) - 1, 0), (2000, 5)])
    def test_is_one_error_and_leaves_whole_files(self, folder: LabelledFolder, limit: int, rows: int):
        """The limit is that of a file's size: it meets the image first, or the list when that has grown."""
        filling = """
            import resource
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
            from edgecls.errors import OutputError
            try:
                while True:
                    folder.add(JPEG, "ok", "door")
            except OutputError as error:
                print(error)
        """
        told, errors = in_a_process(filling, folder.root, limit).communicate()
        assert errors == ""
        assert len(told.splitlines()) == 1
        assert "cannot write" in told
        if folder.file.exists():
            assert len(lines(folder)) >= rows
            require_consistent(folder)
        else:
            assert rows == 0
        assert [path for path in folder.root.rglob("*") if path.is_file() and path.name.startswith(".ok")] == []
        folder.add(JPEG, "ok", "door")
        require_consistent(folder)

    def test_a_folder_that_cannot_be_written_is_said(self, tmp_path: Path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="cannot write"):
            LabelledFolder(tmp_path / "file").add(JPEG, "ok", "door")
