"""Figures by what a manifest says of the images, and in which of its values a new model is worse."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from edgecls.artifact.card import write_card
from edgecls.data.splits import Sample
from edgecls.errors import DataError, UsageError
from edgecls.evaluation.metrics import drop
from edgecls.evaluation.slices import (
    MAX_VALUES,
    NOWHERE,
    OTHERS,
    Cut,
    compare_slices,
    cuts_of,
    evaluate_slices,
)
from edgecls.runtime.store import Artifact

Cli = Callable[..., Result]


def manifest(path: Path, header: str, rows: Sequence[Sequence[object]]) -> tuple[Path, list[Sample]]:
    """A manifest, and a sample of each row, whose key comes first."""
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header.split(","), *rows])
    return path, [Sample(str(row[0]), 0) for row in rows]


def cut(column: str, path: Path, samples: list[Sample]) -> tuple[dict[str, list[int]], list[str]]:
    cuts, remarks = cuts_of(path, samples, (column,))
    return {each.value: each.positions.tolist() for each in cuts}, remarks


class TestCuts:
    def test_each_value_is_a_slice(self, tmp_path: Path):
        rows = [(f"{n}.jpg", "a", "test", "north" if n % 3 else "south") for n in range(6)]
        found, remarks = cut("Camera", *manifest(tmp_path / "m.csv", "path,label,split,camera", rows))
        assert found == {"south": [0, 3], "north": [1, 2, 4, 5]}
        assert remarks == []

    def test_images_without_a_value_are_a_slice_too(self, tmp_path: Path):
        rows = [("0.jpg", "a", "1"), ("1.jpg", "a", "")]
        found, _ = cut("camera", *manifest(tmp_path / "m.csv", "path,label,camera", rows))
        assert found == {"1": [0], NOWHERE: [1]}

    def test_many_numbers_become_quartiles_and_it_is_said(self, tmp_path: Path):
        rows = [(f"{n}.jpg", "a", f"{n / 10}") for n in range(100)]
        found, remarks = cut("lux", *manifest(tmp_path / "m.csv", "path,label,lux", rows))
        assert list(found) == ["0 to 2.4", "over 2.4 to 4.9", "over 4.9 to 7.4", "over 7.4 to 9.9"]
        assert [len(positions) for positions in found.values()] == [25] * 4
        assert remarks == ["lux: its 100 numbers are put together in 4 ranges"]

    def test_few_numbers_stay_and_mostly_equal_ones_are_no_error(self, tmp_path: Path):
        rows = [(f"{n}.jpg", "a", n % 3) for n in range(9)]
        assert list(cut("camera", *manifest(tmp_path / "m.csv", "path,label,camera", rows))[0]) == ["0", "1", "2"]
        rows = [(f"{n}.jpg", "a", max(0, n - 80)) for n in range(100)]
        found, _ = cut("lux", *manifest(tmp_path / "m.csv", "path,label,lux", rows))
        assert sorted(position for positions in found.values() for position in positions) == list(range(100))

    def test_of_many_values_the_rare_ones_are_one_slice_and_it_is_said(self, tmp_path: Path):
        rows = [(f"{n}.jpg", "a", f"serial {n % 40}" if n < 60 else "common") for n in range(80)]
        found, [remark] = cut("serial", *manifest(tmp_path / "m.csv", "path,label,serial", rows))
        assert len(found) == MAX_VALUES + 1
        assert len(found[OTHERS]) == 80 - 20 - sum(len(p) for v, p in found.items() if v not in (OTHERS, "common"))
        assert remark == f"serial: 41 values, of which the {MAX_VALUES} most frequent are shown and the rest as others"

    def test_a_value_that_only_other_splits_have_is_said(self, tmp_path: Path):
        path, samples = manifest(tmp_path / "m.csv", "path,label,camera", [("0.jpg", "a", "1"), ("1.jpg", "a", "2")])
        _, remarks = cut("camera", path, samples[:1])
        assert remarks == ["camera: none of the images that are looked at is of 2"]

    def test_what_cannot_be_cut_is_said(self, tmp_path: Path):
        path, samples = manifest(tmp_path / "m.csv", "path,label,camera", [("0.jpg", "a", "1"), ("1.jpg", "a", "")])
        with pytest.raises(UsageError, match="has no column 'shift'; it has camera"):
            cuts_of(path, samples, ("camera", "shift"))
        with pytest.raises(UsageError, match="`by` needs `data`, a manifest"):
            cuts_of(None, samples, ("camera",))
        with pytest.raises(DataError, match="none of the 1 images that are looked at has a value of 'camera'"):
            cuts_of(path, samples[1:], ("camera",))
        plain, samples = manifest(tmp_path / "p.csv", "path,label", [("0.jpg", "a")])
        with pytest.raises(UsageError, match="it has none besides path, label and split"):
            cuts_of(plain, samples, ("camera",))


@pytest.fixture
def two_cameras() -> tuple[list[Cut], np.ndarray, np.ndarray]:
    """100 images of each of two cameras: all answers right on the first, 60 on the second."""
    labels = np.arange(200) % 4
    given = labels.copy()
    given[100:140] = (labels[100:140] + 1) % 4
    cuts = [Cut("camera", "1", np.arange(100)), Cut("camera", "2", np.arange(100, 200))]
    return cuts, np.eye(4, dtype=np.float32)[given], labels


def test_the_worst_slice_comes_first_with_intervals(two_cameras):
    worst, best = evaluate_slices(*two_cameras)
    assert (worst.name, worst.images, worst.top1) == ("camera=2", 100, 0.6)
    assert (best.name, best.top1, best.macro_f1) == ("camera=1", 1.0, 1.0)
    for low, value, high in ((*worst.top1_interval, worst.top1), (*worst.macro_f1_interval, worst.macro_f1)):
        assert low < high
        assert low < value or high > value
    assert worst.top1_interval[0] == pytest.approx(0.502, abs=0.001)  # Wilson, 60 of 100
    assert worst.macro_f1_interval[0] < 0.6 < worst.macro_f1_interval[1]


def test_macro_f1_is_of_the_classes_that_a_slice_holds(two_cameras):
    _, scores, labels = two_cameras
    [only] = evaluate_slices([Cut("light", "dim", np.flatnonzero(labels[:100] == 2))], scores, labels)
    assert only.macro_f1 == 1.0


def test_a_loss_in_one_slice_is_found_and_others_are_not_decided(two_cameras):
    cuts, second, labels = two_cameras
    first = np.eye(4, dtype=np.float32)[labels]
    worse, same = compare_slices(cuts, first, second, labels)
    assert (worse.name, worse.first, worse.second, worse.verdict) == ("camera=2", 1.0, 0.6, "worse")
    assert worse.drop == drop(second[100:], first[100:], labels[100:])
    assert worse.drop.points == pytest.approx(40)
    assert (same.name, same.verdict, same.drop.points) == ("camera=1", "not decided", 0.0)
    assert [each.verdict for each in compare_slices(cuts, second, first, labels)] == ["not decided", "better"]
    json.dumps(worse.to_json())


class TestCommands:
    @pytest.fixture
    def marked(self, digit_images: Path) -> Path:
        """A manifest of the digits, three of each class for testing: zeros and ones are the second camera's."""
        rows = [
            (path.relative_to(digit_images), name := path.parent.name, "test" if number % 4 else "train",
             2 if name in ("zero", "one") else 1)
            for number, path in enumerate(sorted(digit_images.rglob("*.png")))
        ]  # fmt: skip
        return manifest(digit_images / "m.csv", "path,label,split,camera", rows)[0]

    @pytest.fixture
    def swapped(self, bundle: Callable[[str, str], Artifact], copy_of: Callable[[Artifact], Path]) -> Path:
        """A bundle that takes zeros for ones and the other way round."""
        good = bundle("onnx", "fp32")
        path = copy_of(good)
        write_card(replace(good.card, classes=("one", "zero", *good.card.classes[2:])), path)
        return path

    def test_evaluate_tells_each_slice_in_words_json_and_page(
        self, cli: Cli, swapped: Path, marked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        result = cli("evaluate", swapped, marked, "--by", "camera", "--json", "all.json")
        assert result.exit_code == 0, result.output
        lines = [line.split() for line in result.output.splitlines() if line.startswith("camera=")]
        assert [line[:3] for line in lines] == [["camera=2", "6", "0.00"], ["camera=1", "24", lines[1][2]]]
        worst, best = json.loads((tmp_path / "all.json").read_text())["slices"]
        assert (worst["column"], worst["value"], worst["images"], worst["top1"]) == ("camera", "2", 6, 0.0)
        assert best["top1_interval"][0] < best["top1"]
        page = (tmp_path / "evaluation.html").read_text()
        assert page.index("<td>camera=2</td>") < page.index("<td>camera=1</td>")

    def test_compare_says_where_the_new_one_is_worse(
        self, cli: Cli, bundle: Callable[[str, str], Artifact], swapped: Path, marked: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):  # fmt: skip
        monkeypatch.chdir(tmp_path)
        good = bundle("onnx", "fp32").path
        result = cli("compare", good, swapped, "--data", marked, "--by", "camera", "--json", "all.json")
        assert result.exit_code == 0, result.output
        assert "worse in camera=2: top-1 100.00 % → 0.00 % on 6 images, a drop of 100.00 points" in result.output
        assert "no difference that these images could show in camera=1" in result.output
        worse, same = json.loads((tmp_path / "all.json").read_text())["slices"]
        assert (worse["verdict"], same["verdict"]) == ("worse", "not decided")
        assert worse["drop"]["low_points"] > 0
        assert '<td class="bad">worse</td>' in (tmp_path / "comparison.html").read_text()
        assert "better in camera=2" in cli("compare", swapped, good, "--data", marked, "--by", "camera").output

    def test_what_cannot_be_is_one_line(
        self, cli: Cli, trained: Artifact, marked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        loose = tmp_path / "loose"
        loose.mkdir()
        next(marked.parent.rglob("*.png")).rename(loose / "0.png")
        model = trained.path
        for arguments, code, words in (
            (("evaluate", model, marked, "--by", "camera,shift"), 2, "--by: "),
            (("evaluate", model, "--by", "camera"), 2, "--by needs DATA"),
            (("compare", model, model, "--by", "camera"), 2, "--by needs --data"),
            (("compare", model, model, "--data", loose, "--by", "camera"), 3, "holds images without classes"),
        ):
            result = cli(*arguments)
            assert (result.exit_code, len(result.stderr.splitlines())) == (code, 1), result.stderr
            assert words in result.stderr
