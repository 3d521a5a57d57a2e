"""What is kept on a machine between two starts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from edgecls import cache
from edgecls.cache import Entry
from edgecls.errors import UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_what_was_written_is_read_by_whoever_depends_on_the_same():
    Entry.of("graphs", "model", 1.26).write(b"compiled")
    assert Entry.of("graphs", "model", 1.26).read() == b"compiled"
    for other in (("model", 1.27), ("mode", "l1.26"), ("model",)):
        assert Entry.of("graphs", *other).read() is None
    assert Entry.of("others", "model", 1.26).read() is None


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"x" + b[1:], lambda b: b[:-1] + b"x", lambda _: b""])
def test_what_is_damaged_is_not_used_and_not_kept(folder: Path, damage: Callable[[bytes], bytes]):
    entry = Entry.of("graphs", "model")
    entry.write(b"compiled")
    [file] = folder.glob("kept/*/*")
    file.write_bytes(damage(file.read_bytes()))
    assert entry.read() is None
    assert not file.exists()


def test_nothing_is_kept_where_that_is_switched_off(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(cache.VARIABLE, cache.OFF)
    entry = Entry.of("graphs", "model")
    entry.write(b"compiled")
    assert entry.read() is None
    assert not folder.exists()
    assert cache.sizes_bytes() == {}
    cache.clear()


def test_a_folder_that_cannot_be_written_is_no_failure(folder: Path):
    folder.write_text("a file stands in the way")
    entry = Entry.of("graphs", "model")
    entry.write(b"compiled")
    assert entry.read() is None
    assert folder.read_text() == "a file stands in the way"


def test_what_was_not_used_for_longest_makes_room(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(cache.SIZE_VARIABLE, "1")
    entries = [Entry.of("graphs", number) for number in range(3)]
    begun = time.time() - 10 * cache.USED_AGAIN_S
    for number, entry in enumerate(entries[:2]):
        entry.write(bytes(400_000))
        os.utime(entry._path, (begun + number, begun + number))
    assert entries[0].read()  # used again
    entries[2].write(bytes(400_000))
    assert [entry.read() is not None for entry in entries] == [True, False, True]


def test_one_entry_does_not_push_out_all_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(cache.SIZE_VARIABLE, "1")
    small, large = Entry.of("graphs", "small"), Entry.of("graphs", "large")
    small.write(b"compiled")
    large.write(bytes(600_000))
    assert small.read()
    assert large.read() is None


def test_what_a_killed_process_left_is_swept_and_files_of_others_stay(folder: Path):
    entry = Entry.of("graphs", "model")
    entry.write(b"compiled")
    abandoned, foreign = folder / "kept" / "graphs" / f".{entry.key}.bin.abc", folder / "kept" / "graphs" / "notes.txt"
    for file in (abandoned, foreign):
        file.write_text("x")
    os.utime(abandoned, (0, 0))
    entry.write(b"compiled again")
    assert not abandoned.exists()
    cache.clear()
    assert [path.name for path in folder.glob("kept/*/*")] == ["notes.txt"]


def test_files_of_others_beside_the_cache_are_never_touched(folder: Path):
    others = [folder / "project" / ".env", folder / "photos" / ("a" * 32), folder / "kept" / "graphs" / ("b" * 32)]
    for file in others:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
        os.utime(file, (0, 0))
    (folder / "kept").chmod(0o700)
    Entry.of("graphs", "model").write(b"compiled")
    cache.clear()
    assert all(file.exists() for file in others)


def test_a_folder_that_others_can_write_to_is_not_trusted(folder: Path, cli: Callable[..., Result]):
    entry = Entry.of("graphs", "model")
    entry.write(b"compiled")
    assert (folder / "kept").stat().st_mode & 0o777 == 0o700
    (folder / "kept").chmod(0o777)
    assert entry.read() is None
    assert "others can write to " in cli("cache").stdout


def test_a_pipe_in_the_place_of_an_entry_does_not_hang():
    entry = Entry.of("graphs", "model")
    entry.write(b"compiled")
    assert entry._path
    entry._path.unlink()
    os.mkfifo(entry._path)
    assert entry.read() is None


def test_a_home_is_found_and_a_relative_folder_of_caches_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(cache.VARIABLE, "~/own")
    assert cache.folder() == tmp_path / "own"
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.folder() == tmp_path / ".cache" / "edgecls"


def test_a_wrong_size_does_not_keep_a_model_from_being_opened(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(cache.SIZE_VARIABLE, "1GB")
    Entry.of("graphs", "model").write(b"compiled")
    assert Entry.of("graphs", "model").read() is None


def test_the_size_is_a_number(monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Result]):
    monkeypatch.setenv(cache.SIZE_VARIABLE, "1 GB")
    with pytest.raises(UsageError, match="EDGECLS_CACHE_MIB is a number of MiB, not '1 GB'"):
        cache.limit_bytes()
    shown = cli("cache")
    assert shown.exit_code == 2
    assert "EDGECLS_CACHE_MIB" in shown.output


def test_the_command_says_what_is_kept_and_deletes_it(folder: Path, cli: Callable[..., Result]):
    Entry.of("openvino", "model").write(bytes(2_000_000))
    Entry.of("verified", "model").write(b"")
    shown = cli("cache")
    assert "1 compiled graphs of openvino, 2.0 MB" in shown.stdout
    assert "1 bundles that gave right answers on this machine" in shown.stdout
    assert cli("cache", "--clear").exit_code == 0
    assert list(folder.glob("kept/*/*")) == []
    assert '"kept": {}' in cli("cache", "--json").stdout
