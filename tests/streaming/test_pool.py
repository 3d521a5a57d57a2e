"""The pool on disk: whole pictures, an index, a bound that holds."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgecls.errors import OutputError, UsageError
from edgecls.imaging.opencv import cv2
from edgecls.streaming.pool import INDEX_FILE, LOOKED_FOR, Pool

TIME = "2026-11-28T12:00:00.000+00:00"
ROW = {"reasons": ["unsure"], "label": None, "best": "a"}
MIB = 1 << 20


def moment(seed: int) -> str:
    return f"2026-11-28T12:00:{seed:02d}.000+00:00"


def jpeg(seed: int, side: int = 200) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", pixels)[1].tobytes())


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / INDEX_FILE).read_text().splitlines()]


def test_a_picture_is_named_by_camera_and_time_and_has_a_line(tmp_path: Path):
    pool = Pool(tmp_path / "pool", MIB)
    path = pool.add("door", TIME, jpeg(1), ROW)
    assert path == tmp_path / "pool" / "door" / "20261128T120000.000Z.jpg"
    assert path.read_bytes() == jpeg(1)
    [row] = lines(tmp_path / "pool")
    assert row == {
        "path": "door/20261128T120000.000Z.jpg",
        "time": TIME,
        "camera": "door",
        **ROW,
        "bytes": len(jpeg(1)),
    }
    assert pool.rows() == [row]


def test_two_pictures_of_one_moment_both_stay(tmp_path: Path):
    pool = Pool(tmp_path, MIB)
    first, second = pool.add("door", TIME, jpeg(1), ROW), pool.add("door", TIME, jpeg(2), ROW)
    assert first != second
    assert (first.read_bytes(), second.read_bytes()) == (jpeg(1), jpeg(2))


@pytest.mark.parametrize("camera", ["../../up", "a/b", "rtsp://x", "..", "ä ö", "x" * 300], ids=str)
def test_no_cameras_name_leads_out_of_the_pool(tmp_path: Path, camera: str):
    path = Pool(tmp_path / "pool", MIB).add(camera, TIME, jpeg(1), ROW)
    assert path.resolve().parent.parent == (tmp_path / "pool").resolve()


def test_the_bound_holds_and_the_oldest_of_the_largest_group_goes_first(tmp_path: Path):
    pool = Pool(tmp_path, MIB)
    rare = pool.add("door", TIME, jpeg(0), {**ROW, "reasons": ["unknown"]})
    often = [pool.add("door", moment(seed), jpeg(seed), ROW) for seed in range(1, 60)]
    assert on_disk(tmp_path) <= MIB
    assert rare.exists()
    assert often[-1].exists()
    assert not often[0].exists()
    gone = [path for path in often if not path.exists()]
    assert gone == often[: len(gone)]
    left = {row["path"] for row in pool.rows()}
    assert left == {str(path.relative_to(tmp_path)) for path in (rare, *often) if path.exists()}


def test_what_a_human_called_wrong_goes_last(tmp_path: Path):
    pool = Pool(tmp_path, MIB)
    called = [
        pool.add("door", moment(seed), jpeg(seed), {**ROW, "reasons": ["wrong"], "label": "b"}) for seed in range(8)
    ]
    for seed in range(8, 60):
        pool.add("door", TIME, jpeg(seed), ROW)
    assert all(path.exists() for path in called)


def test_a_picture_that_is_larger_than_the_pool_is_refused(tmp_path: Path):
    with pytest.raises(OutputError, match="too few for one picture"):
        Pool(tmp_path, MIB).add("door", TIME, jpeg(1, 1200), ROW)
    with pytest.raises(UsageError, match="at least a megabyte"):
        Pool(tmp_path, 1000)


def test_a_pool_that_is_taken_away_is_made_anew(tmp_path: Path):
    pool = Pool(tmp_path / "pool", MIB)
    pool.add("door", TIME, jpeg(1), ROW)
    shutil.rmtree(tmp_path / "pool")
    path = pool.add("door", TIME, jpeg(2), ROW)
    assert path.read_bytes() == jpeg(2)
    assert len(lines(tmp_path / "pool")) == len(pool.rows()) == 1


def test_pictures_that_a_reviewer_took_away_make_room(tmp_path: Path):
    pool = Pool(tmp_path, MIB)
    paths = [pool.add("door", moment(seed), jpeg(seed), ROW) for seed in range(30)]
    for path in paths[10:]:
        path.unlink(missing_ok=True)
    before = [path for path in paths if path.exists()]
    for seed in range(30, 34):
        pool.add("door", moment(seed), jpeg(seed), ROW)
    assert all(path.exists() for path in before)
    assert len(pool.rows()) == len(before) + 4


def test_pictures_taken_away_of_many_make_room_before_others_go(tmp_path: Path):
    pool, small = Pool(tmp_path, MIB), jpeg(1, 8)
    paths = [pool.add(f"camera {at % 3}", moment(at % 60), small, ROW) for at in range(300)]
    time.sleep(0.05)  # a folder's time is as exact as a tick of the clock
    there = [path for path in paths if path.exists()]
    assert len(there) > 3 * LOOKED_FOR
    for path in there[-30:]:
        path.unlink()
    for at in range(20):
        pool.add("camera 1", moment(at), small, ROW)
    assert all(path.exists() for path in there[:-30])


def test_the_index_does_not_grow_without_end(tmp_path: Path):
    pool = Pool(tmp_path, MIB)
    small = jpeg(1, 8)
    for _ in range(1500):
        pool.add("door", TIME, small, ROW)
    assert (tmp_path / INDEX_FILE).stat().st_size <= MIB // 2
    assert on_disk(tmp_path) <= MIB


def test_half_a_line_of_a_killed_writer_is_passed_over(tmp_path: Path):
    pool = Pool(tmp_path, MIB)
    pool.add("door", TIME, jpeg(1), ROW)
    with (tmp_path / INDEX_FILE).open("a") as index:
        index.write('{"path": "door/half')
    other = Pool(tmp_path, MIB)
    other.add("door", TIME, jpeg(2), ROW)
    pool.add("door", TIME, jpeg(3), ROW)
    assert len(pool.rows()) == len(other.rows()) == 3


@pytest.mark.parametrize(
    "line", ['{"path": "../../victim.jpg"}', '{"path": "/etc/victim.jpg"}', "[]", "7", '{"path": 3}']
)
def test_a_strange_index_removes_nothing_outside(tmp_path: Path, line: str):
    victim = tmp_path / "victim.jpg"
    victim.write_bytes(b"precious")
    folder = tmp_path / "a" / "pool"
    folder.mkdir(parents=True)
    (folder / INDEX_FILE).write_text(f"{line}\n")
    pool = Pool(folder, MIB)
    for seed in range(60):
        pool.add("door", TIME, jpeg(seed), ROW)
    assert victim.read_bytes() == b"precious"
    assert on_disk(folder) <= MIB


def _fill(folder: str, camera: str) -> None:
    pool = Pool(Path(folder), MIB)
    for seed in range(40):
        pool.add(camera, TIME, jpeg(seed), ROW)


def test_the_bound_holds_for_two_processes_and_no_line_is_lost(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_fill, args=(str(tmp_path), camera)) for camera in ("door", "yard")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert on_disk(tmp_path) <= MIB
    rows = Pool(tmp_path, MIB).rows()
    assert {row["path"] for row in rows} == {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jpg")}
    assert {row["camera"] for row in rows} == {"door", "yard"}
    assert sum("removed" not in row for row in lines(tmp_path)) == 80


def test_a_full_disk_is_an_error_and_leaves_whole_files(tmp_path: Path):
    program = f"""
import resource
from pathlib import Path
from edgecls.errors import OutputError
from edgecls.streaming.pool import Pool
pool = Pool(Path({str(tmp_path)!r}), 1 << 30)
pool.add("door", {TIME!r}, b"x" * 1000, {ROW!r})
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
try:
    pool.add("door", {TIME!r}, b"x" * 20000, {ROW!r})
except OutputError as error:
    print(error)
pool.add("door", {TIME!r}, b"y" * 1000, {ROW!r})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout
    assert sorted(path.stat().st_size for path in tmp_path.rglob("*.jpg")) == [1000, 1000]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".") and path.name != ".lock"]
    assert len(Pool(tmp_path, 1 << 30).rows()) == 2


def test_a_picture_whose_line_cannot_be_written_does_not_stay(tmp_path: Path):
    pool = Pool(tmp_path, MIB)
    pool.add("door", moment(1), jpeg(1), ROW)
    index = tmp_path / INDEX_FILE
    content = index.read_bytes()
    index.unlink()
    index.mkdir()
    with pytest.raises(OutputError):
        pool.add("door", moment(2), jpeg(2), ROW)
    assert len(list((tmp_path / "door").iterdir())) == 1
    index.rmdir()
    index.write_bytes(content)
    pool.add("door", moment(2), jpeg(2), ROW)
    assert len(pool.rows()) == 2
