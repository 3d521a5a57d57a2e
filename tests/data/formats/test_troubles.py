"""Label files as they come: each trouble is one line, and nothing is half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import Result

from edgecls.data.exchange import LabelExportConfig, LabelImportConfig, export_labels, import_labels
from edgecls.data.formats.registry import FORMATS
from edgecls.errors import DataError, EdgeclsError, OutputError, UsageError
from edgecls.rows import read_rows


def task(image: str, *choices: str, **more: Any) -> dict[str, Any]:
    results = [{"type": "choices", "value": {"choices": list(choices)}}] if choices else []
    return {"data": {"image": image}, "annotations": [{"result": results}], **more}


def imported(photos: Path, content: Any, name: str = "x.json", **config: Any) -> tuple[dict[str, str], list[str]]:
    """Labels by the path of their image, and the remarks."""
    file = photos.parent / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    out = photos.parent / "out.csv"
    out.unlink(missing_ok=True)
    done = import_labels(LabelImportConfig(labels=file, images=photos, out=out, **config))
    return {row["path"]: row["label"] for _, row in read_rows(out)}, list(done.remarks)


class TestCounted:
    def test_each_kind_of_trouble_is_one_line(self, photos: Path):
        tasks = [
            task("dark/00.jpg", "night"),
            task("dark/01.jpg"),
            task("dark/02.jpg", "night", "rain"),
            task("gone.jpg", "night"), task("gone too.jpg", "night"),
            task("../x.jpg", "night"),
            task("/data/upload/1/03.jpg", "night"),
            task("dark/04.jpg", "night"), task("dark/04.jpg", "night"),
            task("dark/05.jpg", "night"), task("dark/05.jpg", "day"),
            task("dark/06.jpg", "two\nlines"),
            task("dark/07.jpg", "night", data={"image": "dark/07.jpg", "split": "holdout"}),
        ]  # fmt: skip
        (photos / "quarantine.csv").write_text("path,reason\ndark/08.jpg,blurred\n")
        found, remarks = imported(photos, [*tasks, task("dark/08.jpg", "night")])
        assert found == {
            "photos/dark/00.jpg": "night", "photos/dark/04.jpg": "night", "photos/dark/07.jpg": "night"
        }  # fmt: skip
        folder = str(photos)
        assert [line.replace(folder, "ROOT") for line in remarks] == [
            "left out: 1 without a label, such as dark/01.jpg",
            "left out: 1 with several labels, of which a manifest holds one, such as dark/02.jpg",
            "left out: 2 not found below ROOT, such as gone.jpg",
            "left out: 1 outside of ROOT (`images` names another folder), such as ../x.jpg",
            "left out: 1 of which ROOT holds several by that name, such as /data/upload/1/03.jpg",
            "left out: 1 whose name or label is no line of text, such as dark/06.jpg",
            "left out: 1 in quarantine, such as dark/08.jpg",
            "left out: 1 named with one label and with another, such as dark/05.jpg",
            "named more than once: 2 images",
            "left without a split: 1 in one that is none of train, val, test (holdout)",
            "in ROOT but not among the labels: 16 images",
        ]

    def test_strict_writes_nothing_where_an_image_is_left_out(self, photos: Path):
        with pytest.raises(DataError, match="1 images would be left out; left out: 1 not found below"):
            imported(photos, [task("dark/00.jpg", "a"), task("gone.jpg", "a")], strict=True)
        assert not (photos.parent / "out.csv").exists()

    def test_where_nothing_is_left_it_says_why(self, photos: Path):
        with pytest.raises(
            DataError, match=r"x.json gives no image with one label; left out: 1 not found below .*gone"
        ):
            imported(photos, [task("gone.jpg", "a")])
        assert not (photos.parent / "out.csv").exists()


class TestLabelStudio:
    def test_skipped_answers_do_not_count_and_annotators_who_agree_give_one_label(self, photos: Path):
        agreed = task("dark/00.jpg", "night")
        agreed["annotations"] += [*task("", "night")["annotations"], {"was_cancelled": True, **task("", "day")}]
        agreed["annotations"][-1]["result"] = task("", "day")["annotations"][0]["result"]
        found, remarks = imported(photos, [agreed])
        assert found == {"photos/dark/00.jpg": "night"}
        assert not any("several" in line for line in remarks)

    def test_boxes_are_no_labels_of_images_and_old_exports_say_completions(self, photos: Path):
        box = {"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["lamp"]}}
        old = {"data": {"photo": "/data/upload/dark%2F00.jpg"}, "completions": [{"result": [box]}]}
        old["completions"][0]["result"].append({"type": "choices", "value": {"choices": ["night"]}})  # type: ignore[index]
        old["data"]["photo"] = "dark/00.jpg"  # type: ignore[index]
        assert imported(photos, [old])[0] == {"photos/dark/00.jpg": "night"}

    def test_its_short_json_and_its_csv(self, photos: Path):
        short = [
            {"image": "dark/00.jpg", "id": 1, "choice": "night", "annotator": 3, "camera": "left", "lead_time": 2.5},
            {"image": "dark/01.jpg", "id": 2, "choice": {"choices": ["night", "rain"]}},
        ]
        found, remarks = imported(photos, short)
        assert found == {"photos/dark/00.jpg": "night"}
        assert any("several labels" in line for line in remarks)
        assert next(read_rows(photos.parent / "out.csv"))[1]["camera"] == "left"
        table = 'annotator,choice,id,image\n3,night,1,dark/00.jpg\n3,"{""choices"":[""a"",""b""]}",2,dark/01.jpg\n'
        found, again = imported(photos, table, "x.csv")
        assert found == {"photos/dark/00.jpg": "night"}
        assert [line for line in again if "several" in line] == [line for line in remarks if "several" in line]


class TestOtherTools:
    def test_boxes_of_coco_give_the_category_of_their_image_and_are_spoken_of(self, photos: Path):
        record = {
            "images": [{"id": 5, "file_name": "dark/00.jpg", "width": 40, "height": 30}],
            "annotations": [{"id": n, "image_id": 5, "category_id": 9, "bbox": [0, 0, 5, 5]} for n in range(2)],
            "categories": [{"id": 9, "name": "night"}, {"id": 4, "name": "never used"}],
        }
        found, remarks = imported(photos, record, "instances_val2017.json")
        assert found == {"photos/dark/00.jpg": "night"}
        assert remarks[0] == "2 annotations have boxes or outlines; only their categories are read"
        assert next(read_rows(photos.parent / "out.csv"))[1]["split"] == "val"

    def test_fiftyone_takes_names_numbers_objects_lists_and_none(self, photos: Path):
        labels = {
            "dark/00": 1, "dark/01": "rain", "dark/02": {"label": 0, "attributes": {"camera": "left"}},
            "dark/03": None, "dark/04": [{"label": "a"}, {"label": "b"}],
        }  # fmt: skip
        found, _ = imported(photos, {"classes": ["day", "night"], "labels": labels}, "labels.json")
        assert list(found.values()) == ["night", "rain", "day"]
        assert [row.get("camera") for _, row in read_rows(photos.parent / "out.csv")] == [None, None, "left"]

    def test_fiftyone_may_keep_its_images_elsewhere(self, photos: Path):
        (photos.parent / "data.json").write_text(json.dumps({"u1": str(photos / "dark/00.jpg")}))
        found, _ = imported(photos, {"classes": None, "labels": {"u1": "night"}}, "labels.json")
        assert found == {"photos/dark/00.jpg": "night"}

    def test_cvat_leaves_shapes_alone_and_reads_attributes(self, photos: Path):
        text = (
            '<annotations><image id="0" name="dark/00.jpg" subset="Validation"><box label="lamp"/>'
            '<tag label="night"><attribute name="camera"> left </attribute></tag></image></annotations>'
        )
        found, remarks = imported(photos, text, "x.xml")
        assert found == {"photos/dark/00.jpg": "night"}
        assert remarks[0] == "1 shapes are not read: tags are labels of whole images"
        assert next(read_rows(photos.parent / "out.csv"))[1] | {"path": ""} == {
            "path": "", "label": "night", "split": "val", "camera": "left"
        }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.json", "{", "is no JSON"),
        ("x.json", "[" * 100_000, "nested too deeply"),
        ("x.json", '{"a": NaN}', "NaN is no JSON number"),
        ("x.json", "{}", "is of none of the formats that are known: a manifest as CSV,"),
        ("x.json", "3", "is of none of the formats"),
        ("x.json", "[1]", "must be a list of tasks"),
        ("x.json", '[{"data": {"text": "hello"}}]', "names no image"),
        ("x.json", '{"images": 1, "annotations": [], "categories": []}', "images must be a list of JSON objects"),
        ("x.json", '{"images": [{}], "annotations": [], "categories": []}', "an entry has no file_name"),
        (
            "x.json", '{"images": [], "categories": [], "annotations": [{"image_id": 1, "category_id": 2}]}',
            "has category 2, which is not among categories",
        ),
        ("x.json", '{"items": [], "categories": {}}', "no categories of labels"),
        (
            "x.json",
            '{"categories": {"label": {"labels": [{"name": "a"}]}}, '
            '"items": [{"id": "x", "annotations": [{"type": "label", "label_id": 1}]}]}',
            "item x has label 1 of 1",
        ),
        ("x.json", '{"classes": ["a"], "labels": {"x": 1}}', "there is a label 1, and there are 1 classes"),
        ("x.xml", "<annotations><image></annotations>", "is no XML: mismatched tag"),
        ("x.xml", "", "is no XML: no element found"),
        ("x.xml", "<svg/>", "holds svg, not CVAT's annotations"),
        ("x.xml", '<annotations><image id="1"/></annotations>', "an image has no name"),
        ("x.xml", '<annotations><track id="0"/></annotations>', "CVAT for images 1.1"),
        ("x.xml", '<!DOCTYPE a [<!ENTITY e "x">]><annotations>&e;</annotations>', "declares a document type"),
        ("x.xml", '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', "declares a document type"),
        ("x.csv", "path,label\n" + "a" * 200_000 + ",b\n", "line 2 is not CSV: field larger than field limit"),
        ("x.csv", "a,b\n1,2\n", "line 2: no path"),
        ("x.jsonl", "[]\n", "line 1 is not a JSON object"),
        ("x.psd", "", "is of none of the formats"),
    ],
    ids=lambda value: value[:30],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line(photos: Path, name: str, content: str, words: str):
    with pytest.raises(DataError) as refused:
        imported(photos, content, name)
    assert words in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert not (photos.parent / "out.csv").exists()


def test_a_list_of_imagenet_with_a_number_too_many(photos: Path):
    (photos / "synsets.txt").write_text("night\nday\n")
    (photos / "train.txt").write_text("dark/00.jpg 0\nbright/00.jpg 2\n")
    with pytest.raises(DataError, match=r"train.txt, line 2: 2 is no number of one of the 2 classes"):
        import_labels(LabelImportConfig(labels=photos / "train.txt"))


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("gone.json",), "there is no file or folder"),
            (("photos", "--images", "gone"), "--images is the folder that the images lie in"),
            (("photos", "--copy"), "--copy needs --out"),
            (("photos", "--out", "labels.json"), "--out is a manifest and ends in .csv"),
            (("photos", "--out", "there.csv"), "there.csv exists already; choose another --out or remove it"),
            (("photos", "--copy", "--out", "photos/data.csv"), "photos exists already"),
            (("photos", "--format", "voc"), "voc"),
            (("photos", "--format", "coco"), "cannot be read as text"),
        ],
    )
    def test_of_import(
        self, photos: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, arguments, words: str
    ):
        monkeypatch.chdir(photos.parent)
        Path("there.csv").write_text("mine")
        result = cli("data", "import", *arguments)
        assert result.exit_code in (2, 3, 8)
        assert words in result.stderr
        assert Path("there.csv").read_text() == "mine"
        assert {path.name for path in photos.iterdir()} == {"dark", "bright"}

    def test_a_file_that_exists_is_not_written_over(self, photos: Path):
        with pytest.raises(OutputError, match="exists already"):
            export_labels(LabelExportConfig(data=photos, format="folders", out=photos / "dark"))
        assert len(list((photos / "dark").iterdir())) == 12

    def test_of_configurations(self, photos: Path):
        with pytest.raises(UsageError, match="`format` takes"):
            export_labels(LabelExportConfig(data=photos, format="yolo", out=photos.parent / "x"))

    def test_the_commands_say_what_they_did(self, photos: Path, cli: Callable[..., Result], tmp_path: Path):
        done = cli("data", "export", photos, "--format", "coco", "--out", tmp_path / "x.json")
        assert done.exit_code == 0, done.output
        assert "class folders (also Ultralytics): 24 images in 2 classes" in done.stdout
        (photos / "dark" / "00.jpg").unlink()
        done = cli("data", "import", tmp_path / "x.json", "--images", photos)
        assert done.exit_code == 0, done.output
        assert "COCO-style JSON with categories of images: 23 images in 2 classes" in done.stdout
        assert "left out: 1 not found below" in done.stderr
        assert (photos / "data.csv").read_text().startswith("path,label\nbright/00.jpg,bright\n")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.just("dark/00.jpg"),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["data", "image", "annotations", "result", "value", "choices", "choice", "images", "categories", "id",
             "name", "file_name", "image_id", "category_id", "items", "label", "labels", "label_id", "type",
             "classes", "attr", "attributes", "path", "split", "x"]
        ), inner, max_size=5,
    ),
    max_leaves=25,
)  # fmt: skip


@given(content=ANYTHING, name=st.sampled_from([*FORMATS, "auto"]))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_is_read_or_refused_in_one_line(photos: Path, content: Any, name: str):
    try:
        found, _ = imported(photos, content, format=name)
    except EdgeclsError as error:
        assert len(str(error).splitlines()) == 1
        assert not (photos.parent / "out.csv").exists()
    else:
        assert list(found) == ["photos/dark/00.jpg"]


@given(body=st.lists(st.sampled_from(
    ["<image", ' name="dark/00.jpg"', ' name=""', ">", "/>", "</image>", '<tag label="a"', '<tag label="b">', "<tag>",
     "</tag>", "<attribute>", "</attribute>", '<attribute name="x">', "text", "&lt;", "&e;", "<!--", "-->", "<![CDATA[",
     "]]>", "<?x?>"]
), max_size=12))  # fmt: skip
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_xml_is_read_or_refused_in_one_line(photos: Path, body: list[str]):
    try:
        found, _ = imported(photos, f"<annotations>{''.join(body)}</annotations>", "x.xml")
    except DataError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert list(found) == ["photos/dark/00.jpg"]
