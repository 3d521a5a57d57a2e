"""What is exported in any format is imported as the same samples."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from edgecls.data.dataset import open_dataset
from edgecls.data.exchange import LabelExportConfig, LabelImportConfig, export_labels, import_labels
from edgecls.data.formats.base import is_line
from edgecls.data.formats.registry import FORMATS, recognised
from edgecls.data.layout import index_dataset
from edgecls.errors import DataError
from edgecls.files import sha256
from edgecls.rows import read_rows

OUT = {"csv": "x.csv", "jsonl": "x.jsonl", "label-studio": "x.json", "coco": "x.json", "cvat": "x.xml"}


def content(manifest: Path) -> Counter[tuple[str, ...]]:
    """What each line says, with the image itself in place of its name."""
    return Counter(
        (sha256(manifest.parent / row["path"]), row["label"], row.get("split", ""), row.get("camera", ""))
        for _, row in read_rows(manifest)
    )


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("named", [True, False], ids=["named", "found out"])
def test_export_and_import_give_the_same_samples(odd: Path, tmp_path: Path, name: str, named: bool):
    exported = export_labels(LabelExportConfig(data=odd, format=name, out=tmp_path / "out" / OUT.get(name, "x")))
    images = None if FORMATS[name].is_folder else odd
    assert recognised(exported.out) is FORMATS[name]
    config = LabelImportConfig(
        labels=exported.out, images=images, out=tmp_path / "back.csv", format=name if named else "auto"
    )
    back = import_labels(config)
    assert (len(back.images), back.left_out) == (10, 0)
    expected = content(odd / "data.csv")
    if not FORMATS[name].keeps_columns:
        expected = Counter((*row[:3], "") for row in expected.elements())
        assert any("no place for camera" in remark for remark in exported.remarks)
    assert content(tmp_path / "back.csv") == expected


@pytest.mark.parametrize("name", FORMATS)
def test_without_splits_none_are_made_up(photos: Path, tmp_path: Path, name: str):
    exported = export_labels(LabelExportConfig(data=photos, format=name, out=tmp_path / "out" / OUT.get(name, "x")))
    images = None if FORMATS[name].is_folder else photos
    import_labels(LabelImportConfig(labels=exported.out, images=images, out=tmp_path / "back.csv"))
    assert {row.get("split") for _, row in read_rows(tmp_path / "back.csv")} == {None}
    assert len(open_dataset(str(tmp_path / "back.csv"), 0).splits["train"]) == 16


def test_a_manifest_beside_the_images_is_what_training_reads(odd: Path, tmp_path: Path):
    (odd / "data.csv").rename(tmp_path / "data.csv")
    done = import_labels(LabelImportConfig(labels=tmp_path / "data.csv", images=odd))
    assert done.out == odd / "data.csv"
    index = index_dataset(str(done.out))
    assert index.classes == ("ok", "scratched, deeply", "Öl & Fett")
    assert {split: len(samples) for split, samples in index.splits.items()} == {"train": 4, "val": 3, "test": 3}


def test_one_format_becomes_another_without_a_stop_in_between(odd: Path, tmp_path: Path):
    export_labels(LabelExportConfig(data=odd, format="cvat", out=tmp_path / "a.xml"))
    export_labels(LabelExportConfig(data=tmp_path / "a.xml", images=odd, format="coco", out=tmp_path / "b.json"))
    import_labels(LabelImportConfig(labels=tmp_path / "b.json", images=odd, out=tmp_path / "back.csv"))
    assert content(tmp_path / "back.csv") == content(odd / "data.csv")


def test_copies_go_into_a_new_folder_with_their_manifest(odd: Path, tmp_path: Path):
    done = import_labels(LabelImportConfig(labels=odd, out=tmp_path / "new" / "data.csv", copy=True))
    assert content(tmp_path / "new" / "data.csv") == content(odd / "data.csv")
    assert {path.name for path in (tmp_path / "new").iterdir() if path.is_dir()} == {"sub folder"}
    assert len(done.images) == 10


@pytest.mark.parametrize("name", ["folders", "fiftyone"])
def test_images_of_one_name_in_several_folders_do_not_overwrite_each_other(photos: Path, tmp_path: Path, name: str):
    names = [f"{path.parent.name}/{path.name}" for path in sorted(photos.rglob("*.jpg"))]
    (photos / "m.csv").write_text("\n".join(["path,label", *(f"{each},same" for each in names)]))
    export_labels(LabelExportConfig(data=photos / "m.csv", format=name, out=tmp_path / "out"))
    copies = {sha256(path) for path in (tmp_path / "out").rglob("*.jpg")}
    assert copies == {sha256(photos / each) for each in names}
    assert len(names) == 24


@pytest.mark.parametrize("label", ["a/b", "..", ".hidden"])
def test_a_class_that_no_folder_can_be_named_after_is_refused_and_nothing_is_left(
    odd: Path, tmp_path: Path, label: str
):
    (odd / "data.csv").write_text(f"path,label\nplain.jpg,{label}\n")
    with pytest.raises(DataError, match="no folder can be named"):
        export_labels(LabelExportConfig(data=odd, format="folders", out=tmp_path / "out"))
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("name", FORMATS)
def test_a_name_with_a_line_break_is_left_out_of_every_format(photos: Path, tmp_path: Path, name: str):
    (photos / "dark" / "00.jpg").rename(photos / "dark" / "line\nbreak.jpg")
    done = export_labels(LabelExportConfig(data=photos, format=name, out=tmp_path / "out" / OUT.get(name, "x")))
    assert (len(done.images), done.left_out) == (23, 1)
    assert "left out: 1 whose name or label is no line of text, such as dark/line\\nbreak.jpg" in done.remarks


def test_what_is_no_line():
    assert is_line("ä b, 'c'")
    for text in ("", "a\nb", "a\r", "a\u2028b", "a\0", "\ud800", "a\x1b[0m"):
        assert not is_line(text)


def test_label_studio_is_told_local_files_by_their_names(odd: Path, tmp_path: Path):
    export_labels(LabelExportConfig(data=odd, format="label-studio", out=tmp_path / "x.json"))
    tasks = json.loads((tmp_path / "x.json").read_text())
    assert tasks[1]["data"] == {
        "image": "/data/local-files/?d=with%20space.png", "split": "val", "camera": "cam 1"
    }  # fmt: skip
    assert tasks[1]["annotations"][0]["result"][0]["value"] == {"choices": ["ok"]}
