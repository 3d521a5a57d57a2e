"""Folders, globs, lists, manifests, tar and Parquet files mean the same images and get the same rows."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecls.bulk.listing import Inputs, entries
from edgecls.bulk.plan import Plan
from edgecls.bulk.shards import SHARD_IMAGES, shards
from edgecls.bulk.stores import Stores
from edgecls.errors import DataError, UsageError
from tests.bulk.conftest import Predict, answers_of, rows_of, write_tar

pytest.importorskip("pyarrow")
Form = Callable[[Path, list[Path]], object]


def _as_glob(folder: Path, paths: list[Path]) -> object:
    return f"{paths[0].parents[1]}/**/*.jp[g]"


def _as_manifest(folder: Path, paths: list[Path]) -> object:
    with (folder / "m.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["image", "label"], *([path, "x"] for path in paths)])
    return folder / "m.csv"


def _as_jsonl(folder: Path, paths: list[Path]) -> object:
    (folder / "m.jsonl").write_text(
        "".join(json.dumps({"uri": f"file://{path.parent}/./{path.name}"}) + "\n" for path in paths)
    )
    return folder / "m.jsonl"


def _as_parquet_manifest(folder: Path, paths: list[Path]) -> object:
    return _parquet(folder / "m.parquet", {"path": list(map(str, paths))})


def _as_bytes(folder: Path, paths: list[Path]) -> object:
    return _parquet(folder / "b.parquet", {"id": list(range(24)), "jpg": [path.read_bytes() for path in paths]}, 7)


def _as_hugging_face(folder: Path, paths: list[Path]) -> object:
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    return _parquet(folder / "h.parquet", {"image": images, "thumbnail": [b""] * 24})


def _as_tar(folder: Path, paths: list[Path]) -> object:
    members = [(f"{index:03d}.{kind}", content) for index, path in enumerate(paths)
               for kind, content in (("jpg", path.read_bytes()), ("json", b"{}"))]  # fmt: skip
    return write_tar(folder / "images.tar", members)


def _as_folder_of_all_kinds(folder: Path, paths: list[Path]) -> object:
    mixed = folder / "mixed"
    (mixed / "a").mkdir(parents=True)
    (mixed / "a" / "0.jpg").write_bytes(paths[0].read_bytes())
    write_tar(mixed / "b.tgz", [(path.name, path.read_bytes()) for path in paths[1:12]], "w:gz")
    _parquet(mixed / "c.parquet", {"image": [path.read_bytes() for path in paths[12:]]})
    _parquet(mixed / "answers.parquet", {"image": ["of", "another", "job"]})
    (mixed / "data.csv").write_text("path\nnowhere.jpg\n")
    return mixed


def _parquet(path: Path, columns: dict[str, list[object]], group: int | None = None) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


@pytest.mark.parametrize(
    "form",
    [
        _as_glob, _as_manifest, _as_jsonl, _as_parquet_manifest, _as_bytes, _as_hugging_face, _as_tar,
        _as_folder_of_all_kinds,
    ],
    ids=lambda form: form.__name__.removeprefix("_as_"),
)  # fmt: skip
def test_every_form_gives_the_rows_of_the_folder(
    form: Form, predict: Predict, photos: Path, paths: list[Path], tmp_path: Path
):
    assert predict(tmp_path / "folder", photos).total.images == 24
    assert predict(tmp_path / "other", form(tmp_path, paths)).total.images == 24
    assert answers_of(tmp_path / "other") == answers_of(tmp_path / "folder")


def test_one_table_has_the_rows_of_the_parts(cli: Callable, model: Path, paths: list[Path], tmp_path: Path):
    tar = _as_tar(tmp_path, paths)
    assert cli("predict", tar, "--model", model, "--out", tmp_path / "one.jsonl").exit_code == 0
    assert cli("predict", tar, "--model", model, "--out", f"{tmp_path}/parts/", "--format", "jsonl").exit_code == 0
    (part,) = (tmp_path / "parts").glob("part-*.jsonl")
    assert part.read_bytes() == (tmp_path / "one.jsonl").read_bytes()


def test_images_of_a_list_may_stand_anywhere(predict: Predict, photos: Path, paths: list[Path], tmp_path: Path):
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").pipe("/anywhere/0.jpg", paths[0].read_bytes())
    tar = write_tar(tmp_path / "more.tar", [(path.name, path.read_bytes()) for path in paths[2:]])
    lines = [
        "memory://anywhere/0.jpg",
        str(paths[1]),
        "",
        str(tar),
        "memory://anywhere/gone.jpg",
        str(photos / "gone.jpg"),
    ]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    summary = predict(tmp_path / "out", list_file=tmp_path / "list.txt")
    assert (summary.total.images, summary.total.unreadable) == (26, 2)
    gone = [row for row in rows_of(tmp_path / "out") if row["error"]]
    assert [row["image"] for row in gone] == [str(photos / "gone.jpg"), "memory://anywhere/gone.jpg"]


def test_names_in_a_tar_are_names(predict: Predict, paths: list[Path], tmp_path: Path):
    names = ("../../up.jpg", "/etc/absolute.jpg", "./here.jpg", "twice.jpg", "twice.jpg")
    tar = write_tar(tmp_path / "odd.tar", [(name, paths[0].read_bytes()) for name in names])
    assert predict(tmp_path / "out", tar).total.unreadable == 0
    assert sorted(row["image"] for row in rows_of(tmp_path / "out")) == sorted(f"{tar}/{name}" for name in names)


@pytest.mark.parametrize(
    ("mode", "images", "more_bytes"),
    [("w", 3, 0), ("w", 3, 100), ("w", 3, 700), ("w", 24, 0), ("w:gz", None, 0)],
    ids=["between two images", "in a header", "in an image", "before the end mark", "compressed"],
)
def test_a_tar_that_is_cut_off_keeps_its_images_and_says_so(
    predict: Predict, paths: list[Path], tmp_path: Path, mode: str, images: int | None, more_bytes: int
):
    content = paths[0].read_bytes()
    tar = write_tar(tmp_path / "cut.tar", [(path.name, content) for path in paths], mode)
    member_bytes = 512 + -(-len(content) // 512) * 512
    keep_bytes = tar.stat().st_size // 2 if images is None else images * member_bytes + more_bytes
    tar.write_bytes(tar.read_bytes()[:keep_bytes])
    summary = predict(tmp_path / "out", tar)
    assert summary.total.unreadable == 1
    (error,) = (row for row in rows_of(tmp_path / "out") if row["error"])
    assert error["image"] == str(tar)
    assert "cut off" in error["error"]
    assert images is None or summary.total.images == images + 1


def test_bad_images_have_rows_with_the_reason(predict: Predict, photos: Path, paths: list[Path], tmp_path: Path):
    paths[3].write_bytes(b"none")
    paths[4].write_bytes(paths[5].read_bytes()[:200])
    summary = predict(tmp_path / "out", photos)
    assert (summary.total.images, summary.total.unreadable) == (24, 2)
    reasons = {row["image"]: row["error"] for row in rows_of(tmp_path / "out") if row["error"]}
    assert list(reasons) == [str(paths[3]), str(paths[4])]
    assert "is truncated" in reasons[str(paths[4])]
    table = {"image": [None, b"", b"none", paths[0].read_bytes()]}
    assert predict(tmp_path / "rows", _parquet(tmp_path / "x.parquet", table)).total.unreadable == 3


def test_what_cannot_be_meant_is_one_line(predict: Predict, photos: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("no Parquet")
    table = _parquet(tmp_path / "t.parquet", {"label": ["a"]})
    two = _parquet(tmp_path / "two.parquet", {"left": [b"a"], "right": [b"a"]})
    (tmp_path / "m.csv").write_text('image\n\n""\n')
    out = tmp_path / "out"
    for arguments, error, words in (
        ((tmp_path / "empty",), DataError, "holds no images"),
        ((tmp_path / "*.jpg",), DataError, "holds no images"),
        ((tmp_path / "gone" / "*.jpg",), DataError, "there is no folder"),
        ((tmp_path / "gone.tar",), DataError, "there is no image or folder"),
        ((tmp_path / "text.parquet",), DataError, "cannot be read as Parquet"),
        ((table,), DataError, "none of its columns \\(label\\)"),
        ((two,), UsageError, "`column`"),
        ((tmp_path / "m.csv",), DataError, "names no image"),
        ((photos, photos / "dark"), UsageError, "named twice"),
        (("nope://bucket/x",), UsageError, "nope"),
    ):
        with pytest.raises(error, match=words):
            predict(out, *arguments)
    with pytest.raises(UsageError, match="inside of the input"):
        predict(photos / "out", photos)
    assert not list(out.glob("part-*"))


def test_a_hundred_thousand_entries_take_little_memory(tmp_path: Path, request: pytest.FixtureRequest):
    """What is held is a line for each shard and the names of one folder."""
    fsspec = pytest.importorskip("fsspec")

    class Endless(fsspec.AbstractFileSystem):
        protocol = "endless"

        def info(self, path: str, **options: object) -> dict[str, object]:
            return {"name": path, "size": 0, "type": "directory"}

        def ls(self, path: str, detail: bool = True, **options: object) -> list[dict[str, object]]:
            top = "/" not in self._strip_protocol(path)
            names = (f"{index:03d}" if top else f"{index:04d}.jpg" for index in range(100 if top else 1000))
            return [{"name": f"{path}/{name}", "size": 0, "type": "directory" if top else "file"} for name in names]

    fsspec.register_implementation("endless", Endless, clobber=True)
    (tmp_path / "list.csv").write_text("image\n" + "".join(f"{index:06d}.jpg\n" for index in range(20_000)))
    stores, left_out = Stores(), Counter[str]()
    for argument, images in (("endless://many", 100_000), (str(tmp_path / "list.csv"), 20_000)):
        tracemalloc.start()
        request.addfinalizer(tracemalloc.stop)
        with Plan(shards(entries(Inputs((argument,)), stores, left_out), stores, None), "job") as plan:
            assert sum(planned.rows or 0 for planned in plan.planned.values()) == images
            assert len(plan.planned) == -(-images // SHARD_IMAGES)
            _, peak_bytes = tracemalloc.get_traced_memory()
            assert peak_bytes < 4_000_000
            assert sum(1 for _ in plan.shards()) == len(plan.planned)
