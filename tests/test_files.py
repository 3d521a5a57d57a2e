from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecls.errors import OutputError, UsageError
from edgecls.files import (
    expanded,
    half_written,
    make_folder,
    new_file,
    new_folder,
    path_error,
    printable,
    read_bytes,
    read_text,
    sha256,
    shortened,
    take_name,
    write_bytes,
    write_text,
)


def write_file(path: Path) -> None:
    write_bytes(path, b"content")


def write_new_file(path: Path) -> None:
    with new_file(path) as temporary:
        temporary.write_bytes(b"content")


def write_new_folder(path: Path) -> None:
    with new_folder(path) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "a").write_bytes(b"content")


WRITERS = [write_file, write_new_file]


def test_a_new_folder_appears_only_when_it_is_whole(tmp_path: Path):
    target = tmp_path / "deep" / "result"
    with new_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert [path.name for path in target.parent.iterdir()] == ["result"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_folder_leaves_nothing_and_keeps_the_old_one(tmp_path: Path, error: type[BaseException]):
    target = tmp_path / "result"
    target.mkdir()
    (target / "old").write_text("kept")
    with pytest.raises(error), new_folder(target) as folder:
        (folder / "half").write_text("1")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert (target / "old").read_text() == "kept"


def test_a_finished_folder_replaces_the_old_one(tmp_path: Path):
    target = tmp_path / "result"
    for content in ("first", "second"):
        with new_folder(target) as folder:
            (folder / content).write_text(content)
    assert [path.name for path in target.iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "absent" / "x.json", "{}")


def test_a_written_file_is_whole(tmp_path: Path):
    write_text(tmp_path / "x.json", "one")
    write_text(tmp_path / "x.json", "two")
    assert (tmp_path / "x.json").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


# ── power cuts ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def system_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The calls that decide what a power cut leaves, in order, each with the name of the file or folder."""
    calls: list[tuple[str, str]] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def watched_fsync(handle: int) -> None:
        calls.append(("fsync", Path(f"/proc/self/fd/{handle}").readlink().name))
        fsync(handle)

    def watched_move(real: Callable[..., None]) -> Callable[..., None]:
        def move(source: Path, target: Path) -> None:
            calls.append(("rename", Path(target).name))
            real(source, target)

        return move

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "rename", watched_move(rename))
    monkeypatch.setattr(os, "replace", watched_move(replace))
    return calls


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_is_synced_then_named_then_its_folder_is_synced(
    tmp_path: Path, system_calls: list[tuple[str, str]], write: Callable[[Path], None]
):
    write(tmp_path / "x.bin")
    (first, temporary), *rest = system_calls
    assert first == "fsync"
    assert temporary.startswith(".x.bin.")
    assert rest == [("rename", "x.bin"), ("fsync", tmp_path.name)]


def test_a_folder_is_synced_from_the_inside_before_it_is_named(tmp_path: Path, system_calls: list[tuple[str, str]]):
    write_new_folder(tmp_path / "result")
    names = [name for _, name in system_calls]
    assert names[:2] == ["a", "deep"]
    assert names[2].startswith(".result.")
    assert system_calls[3:] == [("rename", "result"), ("fsync", tmp_path.name)]


def test_what_was_made_elsewhere_is_synced_before_it_takes_its_name(
    tmp_path: Path, system_calls: list[tuple[str, str]]
):
    (tmp_path / "trial").mkdir()
    (tmp_path / "trial" / "a").write_bytes(b"1")
    take_name(tmp_path / "trial", tmp_path / "best")
    assert system_calls == [("fsync", "a"), ("fsync", "trial"), ("rename", "best"), ("fsync", tmp_path.name)]


def test_new_parent_folders_are_synced_into_theirs(tmp_path: Path, system_calls: list[tuple[str, str]]):
    make_folder(tmp_path / "a" / "b")
    assert system_calls == [("fsync", tmp_path.name), ("fsync", "a")]


CRASHING = """
    import os, sys
    from pathlib import Path
    from edgecls.files import new_folder, write_bytes
    target = Path(sys.argv[1])
    for number in range(10**9):
        content = bytes([number % 251]) * 200_000
        write_bytes(target / "file", content)
        with new_folder(target / "folder") as folder:
            (folder / "a").write_bytes(content)
            (folder / "b").write_bytes(content)
        print(number, flush=True)
"""


def test_a_killed_writer_leaves_the_old_content_or_the_new(tmp_path: Path):
    for round_number in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CRASHING), str(tmp_path)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(1 + round_number):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        content = (tmp_path / "file").read_bytes()
        assert len(content) == 200_000
        assert len(set(content)) == 1
        if (tmp_path / "folder").exists():
            a, b = (tmp_path / "folder" / name for name in "ab")
            assert a.read_bytes() == b.read_bytes()
            assert a.stat().st_size == 200_000


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
@pytest.mark.parametrize("fault", ["signal=KILL", "error=EIO", "error=ENOSPC"])
def test_a_fault_in_any_step_keeps_the_old_content(tmp_path: Path, call: str, fault: str):
    (tmp_path / "x.bin").write_bytes(b"old")
    script = "import sys; from pathlib import Path; from edgecls.files import write_bytes\n"
    script += "write_bytes(Path(sys.argv[1]), b'new')"
    command = ["strace", "-f", "-o", "/dev/null", "-e", f"inject={call}:{fault}:when=1"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        [*command, sys.executable, "-c", script, str(tmp_path / "x.bin")],
        capture_output=True,
        text=True,
        env=environment,
    )
    if "ptrace" in ended.stderr and "not permitted" in ended.stderr:
        pytest.skip("strace may not trace here")
    assert ended.returncode != 0
    # Where the program was killed as the name was being given, the new content may have it already.
    assert (tmp_path / "x.bin").read_bytes() in ((b"old", b"new") if call == "rename" else (b"old",))
    if "KILL" not in fault:
        assert "OutputError" in ended.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]


def test_what_a_killed_process_left_is_found(tmp_path: Path):
    for name in ("run[1]", "n" * 255):
        path = tmp_path / name
        with new_folder(path) as folder:
            assert half_written(path) == [folder]
        assert half_written(path) == []


# ── what is no regular file ─────────────────────────────────────────────────────────────────────────────────────────


def null_device(folder: Path, name: str = "null.csv") -> Path:
    """A node of its own, so that a fault cannot take the machine's."""
    path = folder / name
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7 if "full" in name else 3))
        path.open("wb").close()
    except OSError as error:
        pytest.skip(f"no device node can be made here: {error}")
    return path


@pytest.mark.parametrize("write", WRITERS)
def test_output_to_a_device_goes_through_it(tmp_path: Path, write: Callable[[Path], None]):
    folder = null_device(tmp_path)
    write(folder)
    assert folder.is_char_device()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("linked", [False, True])
def test_a_full_device_is_an_error_and_stays(tmp_path: Path, write: Callable[[Path], None], linked: bool):
    if linked:
        path = tmp_path / "link.csv"
        path.symlink_to("/dev/full")
    else:
        path = null_device(tmp_path, "full.csv")
    with pytest.raises(OutputError, match="No space left"):
        write(path)
    assert path.is_char_device()
    assert path.is_symlink() is linked


@pytest.mark.parametrize("write", WRITERS)
def test_output_to_a_pipe_reaches_its_reader(tmp_path: Path, write: Callable[[Path], None]):
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write(path)
    assert os.read(reader, 100) == b"content"
    os.close(reader)
    assert path.is_fifo()


def test_a_pipe_without_a_reader_is_an_error_and_no_wait(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="nobody reads from it"):
        write_file(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("to_file", [False, True])
def test_output_to_standard_output_goes_on_where_it_is(tmp_path: Path, name: str, to_file: bool):
    script = (
        "import sys; from pathlib import Path; from edgecls.files import write_bytes; print('before');"
        "write_bytes(Path(sys.argv[1]), b'content\\n'); print('after')"
    )
    caught = tmp_path / "caught"
    with caught.open("wb") as stream:
        ended = subprocess.run(
            [sys.executable, "-c", script, name], check=True, stdout=stream if to_file else subprocess.PIPE
        )
    message = caught.read_bytes() if to_file else ended.stdout
    assert message == b"before\ncontent\nafter\n"


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("there", [False, True])
def test_output_to_a_link_keeps_the_link(tmp_path: Path, write: Callable[[Path], None], there: bool):
    (tmp_path / "kept").mkdir()
    target, link = tmp_path / "kept" / "real.csv", tmp_path / "link.csv"
    if there:
        target.write_bytes(b"old")
    link.symlink_to("kept/real.csv")
    write(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"content"


def test_a_folder_written_to_a_link_keeps_the_link(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_new_folder(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "deep" / "a").exists()


@pytest.mark.parametrize("write", [*WRITERS, write_new_folder])
def test_output_that_would_replace_something_else_is_refused(tmp_path: Path, write: Callable[[Path], None]):
    folder = tmp_path / "there"
    if write is write_new_folder:
        folder.write_bytes(b"kept")
    else:
        folder.mkdir()
    with pytest.raises(OutputError, match="it is (a|no) folder"):
        write(folder)
    assert folder.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_folder_never_replaces_a_device(tmp_path: Path):
    path = null_device(tmp_path)
    with pytest.raises(OutputError, match="no folder"):
        write_new_folder(path)
    assert path.is_char_device()


@pytest.mark.parametrize("name", ["n" * 300, "n" * 5000, "nul\0", "loop/x"])
@pytest.mark.parametrize("write", [*WRITERS, write_new_folder])
def test_a_name_that_cannot_be_is_an_output_error(tmp_path: Path, write: Callable[[Path], None], name: str):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError) as caught:
        write(tmp_path / name)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "new\nline", os.fsdecode(b"\xff.csv")])
@pytest.mark.parametrize("write", [*WRITERS, write_new_folder])
def test_every_name_that_can_be_is_written(tmp_path: Path, write: Callable[[Path], None], name: str):
    write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "socket"])
@pytest.mark.parametrize("read", [read_bytes, read_text, sha256])
def test_only_regular_files_are_read(tmp_path: Path, kind: str, read: Callable[[Path], object]):
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
    with pytest.raises(OSError, match=f"no regular file but a {kind}"):
        read(path)


def test_reading_ends_at_a_limit(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_bytes(path, 4)


@pytest.mark.parametrize("name", ["n" * 300, "n" * 5000, "nul\0", "absent"])
def test_names_that_cannot_be_read_are_system_errors(tmp_path: Path, name: str):
    with pytest.raises(OSError) as caught:
        read_bytes(tmp_path / name)
    assert caught.value.strerror


def test_text_is_read_with_and_without_a_byte_order_mark(tmp_path: Path):
    path = tmp_path / "x"
    for content in (b"\xef\xbb\xbfcr\xc3\xa8me", b"cr\xc3\xa8me"):
        path.write_bytes(content)
        assert read_text(path) == "crème"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(OSError, match="no text in UTF-8"):
        read_text(path)


# ── names in messages ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_home_that_does_not_exist_is_a_usage_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert expanded("~/x") == Path("/somewhere/x")
    with pytest.raises(UsageError, match="there is no user nosuchuser"):
        expanded("~nosuchuser/x")


def test_names_in_messages_are_short_and_printable():
    assert printable("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert len(shortened("n" * 5000)) < 300
    assert shortened(os.fsdecode(b"\xff")) == "\\udcff"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(36, "File name too long", "n" * 5000), "cannot use nnn"),
        (OSError(2, "No such file or directory"), "the system refuses"),
        (ValueError("embedded null byte"), "NUL"),
        (RuntimeError("Could not determine home directory."), "home folder"),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"), "rename it"),
        (ValueError("something else"), None),
    ],
)
def test_errors_over_paths_are_told_as_such(error: Exception, message: str | None):
    found = path_error(error)
    assert found is None if message is None else message in (found or "")
    assert len(found or "") < 400


def test_a_folder_that_replaces_another_is_there_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target, new = tmp_path / "target", tmp_path / "new"
    for folder, text in ((target, "old"), (new, "new")):
        folder.mkdir()
        (folder / "x").write_text(text)
    renamed: list[Path] = []
    monkeypatch.setattr(Path, "rename", lambda self, _to: renamed.append(self))
    take_name(new, target)
    assert (target / "x").read_text() == "new"
    assert not renamed, "a moment without the folder"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
