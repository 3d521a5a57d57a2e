"""What a check finds: each kind of trouble is planted, and nothing else is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from edgecls.data.check import Report, check
from edgecls.data.dataset import open_dataset
from edgecls.data.layout import index_dataset
from edgecls.imaging.opencv import cv2
from edgecls.report.data_page import write_page


def scene(seed: int) -> np.ndarray:
    """A picture (96, 128, 3) with large shapes, each seed another one."""
    generator = np.random.default_rng(seed)
    return cv2.resize(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three splits of two classes, all pictures different."""
    root = tmp_path / "set"
    for seed, (split, name, index) in enumerate(
        (split, name, index) for split in ("train", "val", "test") for name in ("cat", "dog") for index in range(6)
    ):
        path = root / split / name
        path.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path / f"{index}.png"), scene(seed))
    return root


def found(root: Path) -> Report:
    return check(index_dataset(str(root)))


def kinds(report: Report) -> dict[str, int]:
    return {finding.kind: finding.count for finding in report.findings}


def test_a_clean_set_has_nothing(folder: Path):
    report = found(folder)
    assert kinds(report) == {}
    assert not report.severe
    assert report.per_class["cat"] == {"train": 6, "val": 6, "test": 6}


def test_unreadable_and_truncated_files(folder: Path):
    content = (folder / "train/cat/0.png").read_bytes()
    (folder / "train/cat/0.png").write_bytes(content[: len(content) // 2])
    (folder / "train/dog/0.png").write_bytes(b"not a picture")
    report = found(folder)
    assert kinds(report) == {"unreadable": 2}
    assert report.severe
    assert "truncated" in report.quarantine["train/cat/0.png"]


def test_the_same_file_twice(folder: Path):
    shutil.copy(folder / "train/cat/1.png", folder / "train/cat/copy.png")
    report = found(folder)
    assert kinds(report) == {"duplicates": 1}
    assert list(report.quarantine) == ["train/cat/copy.png"]


def test_a_leak_between_splits_even_in_another_size_and_quality(folder: Path):
    image = cv2.imread(str(folder / "train/cat/1.png"))
    cv2.imwrite(str(folder / "test/cat/leak.jpg"), cv2.resize(image, (90, 70)), [cv2.IMWRITE_JPEG_QUALITY, 60])
    report = found(folder)
    assert kinds(report) == {"leaks between splits": 1}
    assert report.quarantine == {"train/cat/1.png": "nearly the same picture as test/cat/leak.jpg, in test"}


def test_one_picture_in_two_classes(folder: Path):
    shutil.copy(folder / "train/cat/1.png", folder / "train/dog/other.png")
    report = found(folder)
    assert kinds(report) == {"contradictions": 1}
    assert set(report.quarantine) == {"train/cat/1.png", "train/dog/other.png"}


def test_nearly_the_same_picture_in_one_class_does_no_harm_but_is_said(folder: Path):
    cv2.imwrite(str(folder / "train/cat/brighter.png"), cv2.convertScaleAbs(scene(1), alpha=1.0, beta=12))
    report = found(folder)
    assert kinds(report) == {"near-duplicates": 1}
    assert report.quarantine == {}


@pytest.mark.parametrize(
    ("other", "severe"), [("Cat", True), ("cat ", True), ("c_a_t", True), ("catt", False), ("class1", None)]
)
def test_misspelt_classes(folder: Path, other: str, severe: bool | None):
    (folder / "train" / other).mkdir()
    cv2.imwrite(str(folder / "train" / other / "0.png"), scene(99))
    report = found(folder)
    assert [finding.severe for finding in report.findings if finding.kind == "class names"] == (
        [] if severe is None else [severe]
    )


def test_numbered_classes_are_no_misspellings(tmp_path: Path):
    for seed, name in enumerate(("class1", "class2", "10", "100")):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "0.png"), scene(seed))
    assert kinds(found(tmp_path)) == {}


def test_imbalance_and_odd_sizes(folder: Path):
    for seed in range(100, 180):
        cv2.imwrite(str(folder / f"train/cat/{seed}.png"), scene(seed))
    cv2.imwrite(str(folder / "train/dog/tiny.png"), scene(500)[:20, :20])
    cv2.imwrite(str(folder / "train/dog/long.png"), cv2.resize(scene(501), (400, 50)))
    assert kinds(found(folder)) == {"imbalance": 1, "odd sizes": 2}


def test_how_files_are_stored(folder: Path):
    picture = Image.fromarray(scene(200))
    picture.convert("L").save(folder / "train/cat/grey.png")
    picture.convert("RGBA").save(folder / "train/cat/alpha.png")
    Image.fromarray(scene(201)).convert("CMYK").save(folder / "train/dog/press.jpg")
    cv2.imwrite(str(folder / "train/dog/deep.png"), scene(202)[:, :, 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene(203)).save(folder / "train/cat/turned.jpg", exif=exif)
    frames = [Image.fromarray(scene(204)), Image.fromarray(scene(205))]
    frames[0].save(folder / "train/cat/moving.gif", save_all=True, append_images=frames[1:])
    seen = kinds(found(folder))
    for kind in ("grey", "transparent", "CMYK", "16-bit", "turned by EXIF", "animated"):
        assert seen.pop(kind) >= 1, kind
    assert "unreadable" not in seen


def test_a_large_group_is_counted_whole_and_shown_in_part(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("edgecls.data.check.MAX_MEMBERS", 30)
    for index in range(40):
        shutil.copy(folder / "train/cat/1.png", folder / f"train/cat/copy{index}.png")
    layout = index_dataset(str(folder))
    report = check(layout)
    (finding,) = report.findings
    assert (finding.count, finding.sizes, len(finding.groups[0])) == (1, (41,), 30)
    assert len(report.quarantine) == 40
    write_page(report, layout.source, tmp_path / "d.html")
    assert "and 17 more of this group" in (tmp_path / "d.html").read_text()


class TestCommand:
    def test_a_quarantine_list_is_honoured_and_nothing_is_deleted(
        self, folder: Path, cli: Callable[..., Result], tmp_path: Path
    ):
        shutil.copy(folder / "train/cat/1.png", folder / "train/cat/copy.png")
        result = cli(
            "data", "check", folder, "--html", tmp_path / "d.html", "--json", tmp_path / "d.json", "--quarantine"
        )
        assert result.exit_code == 0, result.output
        assert "1 images" in result.output
        assert (folder / "train/cat/copy.png").exists()
        assert json.loads((tmp_path / "d.json").read_text())["quarantine"] == {
            "train/cat/copy.png": "the same file as train/cat/1.png"
        }
        assert "data:image/jpeg" in (tmp_path / "d.html").read_text()
        dataset = open_dataset(str(folder), 0)
        assert len(dataset.splits["train"]) == 12
        assert "is in quarantine: the same file" in dataset.skipped["train/cat/copy.png"]

    def test_strict_fails_on_what_is_severe(self, folder: Path, cli: Callable[..., Result], tmp_path: Path):
        (folder / "train/dog/0.png").write_bytes(b"")
        result = cli("data", "check", folder, "--html", tmp_path / "d.html", "--strict")
        assert result.exit_code == 3
        assert "! unreadable: 1" in result.output

    def test_a_place_that_is_not_there(self, cli: Callable[..., Result]):
        result = cli("data", "check", "nowhere")
        assert result.exit_code == 3
        assert "there is no folder nowhere; give a folder" in result.stderr

    @pytest.mark.parametrize("arguments", [(), ("--strict",)], ids=["plain", "strict"])
    def test_a_set_without_images_is_an_error_that_says_what_is_there(
        self, cli: Callable[..., Result], tmp_path: Path, arguments: tuple[str, ...]
    ):
        (tmp_path / "set" / "cat").mkdir(parents=True)
        (tmp_path / "set" / "cat" / "layers.psd").write_bytes(b"8BPS")
        result = cli("data", "check", tmp_path / "set", "--html", tmp_path / "d.html", *arguments)
        assert result.exit_code == 3
        assert "holds no images in class folders; its files are 1 .psd" in result.stderr
        assert not (tmp_path / "d.html").exists()

    def test_what_is_left_out_is_counted_by_its_suffix(self, folder: Path, cli: Callable[..., Result], tmp_path: Path):
        for name in ("a.psd", "b.psd", "Thumbs.db"):
            (folder / "train/cat" / name).write_bytes(b"x")
        result = cli("data", "check", folder, "--html", tmp_path / "d.html")
        assert "files left out: 3, no images that can be read: 2 .psd, 1 .db" in result.output
