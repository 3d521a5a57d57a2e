"""Which file a label file means, however it speaks of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgecls.data.formats.base import NamedImage
from edgecls.data.formats.places import AMBIGUOUS, MISSING, OUTSIDE, Places
from tests.data.formats.conftest import write_image

HERE = ("a/one.jpg", "b/one.jpg", "b/two words.jpg", "1a2b3c4d-kept.jpg", "ten%20.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for index, name in enumerate(HERE):
        write_image(tmp_path / "root" / name, index)
    write_image(tmp_path / "beside.jpg", 9)
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a/one.jpg", "a/one.jpg"),
        ("./b/../a/one.jpg", "a/one.jpg"),
        ("ten%20.png", "ten%20.png"),
        ("/data/upload/7/9f8e7d6c-two%20words.jpg", "b/two words.jpg"),
        ("/data/upload/7/1a2b3c4d-kept.jpg", "1a2b3c4d-kept.jpg"),
        ("http://box:8080/data/upload/7/9f8e7d6c-two%20words.jpg", "b/two words.jpg"),
        ("/data/local-files/?d=shop/photos/b/two%20words.jpg", "b/two words.jpg"),
        ("s3://bucket/photos/a/one.jpg", "a/one.jpg"),
        ("https://host/x/b/two%20words.jpg?token=1#x", "b/two words.jpg"),
        ("/home/somebody/photos/b/one.jpg", "b/one.jpg"),
        (r"C:\photos\b\two words.jpg", "b/two words.jpg"),
    ],
)
def test_names_of_files_below_the_root(root: Path, name: str, found: str):
    assert Places(root).find(NamedImage(name, ("x",))) == (found, "")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone.jpg", MISSING), ("one.jpg", MISSING), ("", MISSING), ("a", MISSING), ("a\0b", MISSING),
        ("/home/somebody/gone.jpg", MISSING), ("http://[x/gone.jpg", MISSING), ("\ud800.jpg", MISSING),
        ("x" * 5000, MISSING), ("/" + "x" * 5000, MISSING), ("/\ud800", MISSING),
        ("/data/upload/7/one.jpg", AMBIGUOUS), ("/data/upload/7/9f8e7d6c-one.jpg", AMBIGUOUS),
        ("../beside.jpg", OUTSIDE), ("a/../../beside.jpg", OUTSIDE), ("/etc/passwd", OUTSIDE),
        ("/data/local-files/?d=../beside.jpg", OUTSIDE), ("file:///x/%2e%2e/beside.jpg", OUTSIDE),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_names_of_what_is_not_below_the_root(root: Path, name: str, reason: str):
    assert Places(root).find(NamedImage(name, ("x",))) == ("", reason)


def test_a_path_in_full_is_found_through_a_link_and_without(root: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(root)
    for given in (root, tmp_path / "link"):
        for named in (root, tmp_path / "link"):
            assert Places(given).find(NamedImage(str(named / "a/one.jpg"), ())) == ("a/one.jpg", "")
    assert Places(root).find(NamedImage(str(tmp_path / "beside.jpg"), ())) == ("", OUTSIDE)


def test_a_format_may_keep_images_in_a_folder_and_name_them_without_suffix(root: Path):
    places = Places(root)
    assert places.find(NamedImage("one.jpg", (), within=("x", "b", "a"))) == ("b/one.jpg", "")
    assert places.find(NamedImage("two words", (), within=("b",), bare=True)) == ("b/two words.jpg", "")
    write_image(root / "b" / "two words.png", 7)
    assert Places(root).find(NamedImage("two words", (), within=("b",), bare=True)) == ("", AMBIGUOUS)


def test_a_file_that_is_no_image_is_never_found(root: Path):
    (root / "secret.txt").write_text(json.dumps("x"))
    assert Places(root).find(NamedImage("secret.txt", ("x",))) == ("", MISSING)
