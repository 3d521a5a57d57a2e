from __future__ import annotations

from pathlib import Path

import pytest

from edgecls.errors import OutputError
from edgecls.storage import make_folder, new_folder, write_text


def test_a_new_folder_appears_only_when_it_is_whole(tmp_path: Path):
    place = tmp_path / "deep" / "result"
    with new_folder(place) as folder:
        (folder / "a").write_text("1")
        assert not place.exists()
    assert (place / "a").read_text() == "1"
    assert [path.name for path in place.parent.iterdir()] == ["result"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_folder_leaves_nothing_and_keeps_the_old_one(tmp_path: Path, error: type[BaseException]):
    place = tmp_path / "result"
    place.mkdir()
    (place / "old").write_text("kept")
    with pytest.raises(error), new_folder(place) as folder:
        (folder / "half").write_text("1")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert (place / "old").read_text() == "kept"


def test_a_finished_folder_replaces_the_old_one(tmp_path: Path):
    place = tmp_path / "result"
    for content in ("first", "second"):
        with new_folder(place) as folder:
            (folder / content).write_text(content)
    assert [path.name for path in place.iterdir()] == ["second"]
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
