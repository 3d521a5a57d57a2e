"""A check that was interrupted or comes again reads what it has not seen, and finds what it would have found."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from edgecls.data import record as record_module
from edgecls.data.check import Report, check
from edgecls.data.layout import index_dataset
from edgecls.data.record import Seen, open_record
from edgecls.data.sources import FolderSource
from edgecls.errors import DataError, OutputError
from edgecls.imaging.opencv import cv2


def write_scene(path: Path, seed: int, quality: int = 90) -> None:
    """A JPEG file with large shapes, each seed another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    image = cv2.resize(shapes, (96, 64), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, quality])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with copies, near copies, a contradiction, and a file that is no picture."""
    root = tmp_path / "set"
    for seed in range(60):
        write_scene(root / ("cat" if seed % 2 else "dog") / f"{seed}.jpg", seed)
    shutil.copy(root / "cat/1.jpg", root / "cat/copy.jpg")
    shutil.copy(root / "cat/3.jpg", root / "dog/other.jpg")
    write_scene(root / "cat/near.jpg", 5, quality=40)
    (root / "dog/broken.jpg").write_bytes(b"no picture")
    return root


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the images that are decoded."""
    keys: list[str] = []
    read = FolderSource.read
    monkeypatch.setattr(FolderSource, "read", lambda source, key: keys.append(key) or read(source, key))
    return keys


def found(folder: Path, record: Path | None = None) -> Report:
    return check(index_dataset(str(folder)), record=record)


def test_findings_are_the_same_with_and_without_a_record(folder: Path, tmp_path: Path):
    record = tmp_path / "seen.db"
    wanted = found(folder)
    assert {f.kind for f in wanted.findings} == {"unreadable", "duplicates", "near-duplicates", "contradictions"}
    assert found(folder, record) == wanted
    assert found(folder, record) == wanted


def test_a_second_check_decodes_nothing_but_what_could_not_be_read(folder: Path, tmp_path: Path, reads: list[str]):
    found(folder, tmp_path / "seen.db")
    assert len(reads) == 64
    reads.clear()
    found(folder, tmp_path / "seen.db")
    assert reads == ["dog/broken.jpg"]


def test_a_changed_file_is_decoded_again_and_a_new_one_too(folder: Path, tmp_path: Path, reads: list[str]):
    record = tmp_path / "seen.db"
    found(folder, record)
    (folder / "dog/broken.jpg").unlink()
    write_scene(folder / "cat/7.jpg", 9)
    write_scene(folder / "cat/new.jpg", 100)
    reads.clear()
    changed = found(folder, record)
    assert sorted(reads) == ["cat/7.jpg", "cat/new.jpg"]
    assert changed == found(folder)


def test_a_change_of_the_time_alone_is_a_change(folder: Path, tmp_path: Path, reads: list[str]):
    record = tmp_path / "seen.db"
    (folder / "dog/broken.jpg").unlink()
    found(folder, record)
    os.utime(folder / "cat/1.jpg", ns=(1, 1))
    reads.clear()
    found(folder, record)
    assert reads == ["cat/1.jpg"]


def test_a_removed_file_is_forgotten(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(record_module, "ROWS_AT_ONCE", 7)
    record = tmp_path / "seen.db"
    found(folder, record)
    for name in ("cat/1.jpg", "dog/2.jpg", "dog/broken.jpg"):
        (folder / name).unlink()
    assert found(folder, record) == found(folder)
    with sqlite3.connect(record) as connection:
        keys = {key.decode() for (key,) in connection.execute("SELECT key FROM image")}
        assert connection.execute("SELECT count(*) FROM small").fetchone() == (61,)
    assert len(keys) == 61
    assert "cat/1.jpg" not in keys


def test_names_that_are_not_utf_8(folder: Path, tmp_path: Path, reads: list[str]):
    (folder / "cat/1.jpg").rename(Path(os.fsdecode(os.fsencode(folder) + b"/cat/\xff.jpg")))
    record = tmp_path / "seen.db"
    assert found(folder, record) == found(folder)
    reads.clear()
    found(folder, record)
    assert reads == ["dog/broken.jpg"]


KILLED = """
import os, signal, sys
from pathlib import Path
from edgecls.data import record
from edgecls.data.check import check
from edgecls.data.layout import index_dataset
from edgecls.data.sources import FolderSource
record.COMMIT_S = 0
count, read = 0, FolderSource.read
def dying(source, key):
    global count
    count += 1
    if count == 250:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(source, key)
FolderSource.read = dying
check(index_dataset(sys.argv[1]), record=Path(sys.argv[2]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_a_check_that_was_killed_goes_on(folder: Path, tmp_path: Path, reads: list[str]):
    for seed in range(200, 500):
        write_scene(folder / "dog" / f"{seed}.jpg", seed)
    record = tmp_path / "seen.db"
    ended = subprocess.run([sys.executable, "-c", KILLED, folder, record], check=False)
    assert ended.returncode == -signal.SIGKILL
    again = found(folder, record)
    assert 364 - 250 <= len(reads) < 364, "it goes on, but not from the start"
    assert again == found(folder)


def test_what_was_seen_before_an_error_is_kept(folder: Path, tmp_path: Path, reads: list[str]):
    def cancel(step: str) -> None:
        if step.startswith("looking at image 33"):
            raise KeyboardInterrupt

    record = tmp_path / "seen.db"
    with pytest.raises(KeyboardInterrupt):
        check(index_dataset(str(folder)), cancel, record)
    reads.clear()
    found(folder, record)
    assert len(reads) == 32


class TestFile:
    @pytest.fixture
    def record(self, folder: Path, tmp_path: Path) -> Path:
        found(folder, tmp_path / "seen.db")
        return tmp_path / "seen.db"

    @pytest.fixture(autouse=True)
    def _untouched(self, folder: Path) -> Iterator[None]:
        before = sorted(folder.rglob("*"))
        yield
        assert sorted(folder.rglob("*")) == before

    def test_something_else(self, folder: Path, tmp_path: Path):
        other = tmp_path / "notes.txt"
        other.write_text("not a database" * 100)
        with pytest.raises(DataError, match=r"notes.txt is no record of a check, or damaged .*; remove it, or give"):
            found(folder, other)
        assert other.read_text() == "not a database" * 100

    def test_a_database_of_another_program(self, folder: Path, tmp_path: Path):
        other = tmp_path / "other.db"
        with sqlite3.connect(other) as connection:
            connection.execute("CREATE TABLE mine (x)")
        content = other.read_bytes()
        with pytest.raises(DataError, match=r"other.db is no record of a check; give another `record`"):
            found(folder, other)
        assert other.read_bytes() == content

    def test_another_version(self, folder: Path, record: Path):
        with sqlite3.connect(record) as connection:
            connection.execute("PRAGMA user_version = 99")
        with pytest.raises(DataError, match=r"is a record of version 99, and this edgecls writes version 1; remove it"):
            found(folder, record)

    def test_another_data_set(self, folder: Path, record: Path, tmp_path: Path):
        shutil.copytree(folder, tmp_path / "second")
        with pytest.raises(DataError, match=r"seen.db is the record of .*/set; give another `record`, or remove it"):
            found(tmp_path / "second", record)
        shutil.rmtree(tmp_path / "second")

    @pytest.mark.parametrize("part", [0.001, 0.2, 0.5, 0.9])
    def test_a_damaged_one_gives_the_right_findings_or_one_error(self, folder: Path, record: Path, part: float):
        content = bytearray(record.read_bytes())
        start = int(part * len(content)) // 4096 * 4096
        content[start : start + 4096] = b"\xa5" * 4096
        record.write_bytes(content)
        try:
            report = found(folder, record)
        except DataError as error:
            assert "is no record of a check, or damaged" in str(error)
        else:
            assert report == found(folder)

    def test_a_truncated_one(self, folder: Path, record: Path):
        record.write_bytes(record.read_bytes()[:9000])
        with pytest.raises(DataError, match="damaged"):
            found(folder, record)

    def test_an_empty_one_is_new(self, folder: Path, tmp_path: Path):
        (tmp_path / "empty.db").touch()
        assert found(folder, tmp_path / "empty.db") == found(folder)

    def test_one_in_use(self, folder: Path, record: Path):
        with (
            open_record(record, str(folder)),
            pytest.raises(DataError, match=r"seen.db is in use by another check; wait for it"),
        ):
            found(folder, record)

    def test_a_place_that_cannot_be_written(self, folder: Path, tmp_path: Path):
        with pytest.raises(
            OutputError, match=r"cannot write .*: unable to open database file; choose another `record`"
        ):
            found(folder, tmp_path)


def test_rows_come_back_as_they_were(tmp_path: Path):
    seen = Seen(5, 2**62, 7, 8, bytes(range(32)), ("grey", "turned by EXIF"), 2**64 - 1, "")
    with open_record(tmp_path / "seen.db", "here") as record:
        row = record.keep("a, b", seen, bytes(1024))
        assert record.known(["a, b", "c"]) == {"a, b": (row, seen)}
        assert record.keep("a, b", seen._replace(error="gone"), b"", row) == row
        assert record.known(["a, b"])["a, b"][1].error == "gone"
        with pytest.raises(DataError, match="damaged"):
            record.copies(np.array([row]))
        with pytest.raises(DataError, match="1 small copies are missing"):
            record.copies(np.array([row + 1]))


def test_the_command_says_the_option(folder: Path, tmp_path: Path, cli: Callable[..., Result]):
    pages = "--html", tmp_path / "d.html"
    assert cli("data", "check", folder, *pages, "--record", tmp_path / "new" / "seen.db").exit_code == 0
    (tmp_path / "x.db").write_text("x" * 5000)
    result = cli("data", "check", folder, *pages, "--record", tmp_path / "x.db")
    assert result.exit_code == 3
    assert "give another --record" in result.stderr
