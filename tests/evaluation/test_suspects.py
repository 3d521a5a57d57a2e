"""Labels that are likely wrong, pictures in two classes, and hard images."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from edgecls.data.sources import DigitsSource
from edgecls.errors import DataError, UsageError
from edgecls.evaluation.confident_learning import estimated_errors, likely_wrong, out_of_fold
from edgecls.evaluation.config import SuspectsConfig
from edgecls.evaluation.suspects import find_suspects, merged, rank
from edgecls.imaging.opencv import cv2
from edgecls.runtime.store import Artifact


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Three clusters of 60 points in five dimensions, well apart."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 60)
    return (generator.normal(size=(180, 5)) + 6 * np.eye(5)[labels]).astype(np.float32), labels


class TestOutOfFold:
    def test_labels_that_were_flipped_are_those_taken_for_wrong(self, blobs):
        features, labels = blobs
        flipped = [3, 64, 130, 131, 170]
        noisy = labels.copy()
        noisy[flipped] = (labels[flipped] + 1) % 3
        probabilities = out_of_fold(features, noisy)
        assert probabilities.sum(axis=1) == pytest.approx(np.ones(180))
        assert estimated_errors(probabilities, noisy) == 5
        assert sorted(likely_wrong(probabilities, noisy)) == flipped

    def test_right_labels_raise_no_suspicion(self, blobs):
        features, labels = blobs
        assert likely_wrong(out_of_fold(features, labels), labels) == []

    def test_a_wrong_group_is_found_only_where_its_images_do_not_judge_each_other(self):
        # Ten frames of one film, all labelled 1: they show what class 0 shows, and something that no other image shows.
        generator = np.random.default_rng(1)
        labels = np.array([0] * 60 + [1] * 60 + [1] * 10)
        features = generator.normal(size=(130, 20)).astype(np.float32)
        features[:60, 0] += 4
        features[60:120, 1] += 4
        features[120:, [0, 7]] += (4, 12)
        alone, together = (
            out_of_fold(features, labels, groups)[120:, 1].mean()
            for groups in (list(range(130)), [*range(120), *["film"] * 10])
        )
        assert together < 0.3 < 0.7 < alone

    def test_the_seed_decides_the_folds(self, blobs):
        features, labels = blobs
        assert np.array_equal(out_of_fold(features, labels, seed=1), out_of_fold(features, labels, seed=1))
        assert not np.array_equal(out_of_fold(features, labels, seed=1), out_of_fold(features, labels, seed=2))

    @pytest.mark.parametrize(
        ("labels", "groups"), [([0] * 8, None), ([0] * 7 + [1], None), ([0] * 4 + [1] * 4, [*"abcd", *"zzzz"])]
    )
    def test_what_cannot_be_compared_is_said(self, labels: list[int], groups: list[str] | None):
        with pytest.raises(DataError, match="each class needs two groups of images"):
            out_of_fold(np.eye(8, dtype=np.float32), np.array(labels), groups)


class TestRanking:
    PROBABILITIES = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.05, 0.95], [0.6, 0.4]])
    LABELS = np.array([0, 0, 1, 1, 0, 1])

    def test_each_image_stands_there_once_with_its_first_reason(self):
        found = rank(self.PROBABILITIES, self.LABELS, alike=[(4, 2), (3, 4)], hardest=2)
        assert [(position, suggested, reason, other) for position, suggested, reason, _, other in found] == [
            (4, 1, "duplicate", 2), (5, 0, "label", None), (1, 0, "loss", None), (3, 1, "loss", None)
        ]  # fmt: skip

    def test_what_most_of_the_same_pictures_say_is_suggested(self):
        found = rank(self.PROBABILITIES, self.LABELS, alike=[(0, 1, 2)], hardest=0)
        assert found[0] == (2, 0, "duplicate", 1.0, 0)

    def test_of_equals_the_more_probable_label_is_suggested(self):
        assert rank(self.PROBABILITIES, self.LABELS, alike=[(4, 2)], hardest=0)[0][:3] == (4, 1, "duplicate")

    def test_a_hard_image_keeps_its_label_where_none_is_more_probable(self):
        hard = [each for each in rank(self.PROBABILITIES, self.LABELS, hardest=9) if each[2] == "loss"]
        assert all(suggested == self.LABELS[position] for position, suggested, *_ in hard)
        assert [each[3] for each in hard] == sorted((each[3] for each in hard), reverse=True)

    def test_groups_that_share_a_picture_become_one(self):
        groups = merged(["a", "b", "c", "d", "a"], [(1, 2), (2, 4)])
        assert len(set(groups)) == 2
        assert groups.count(groups[3]) == 1


class TestImages:
    @pytest.fixture
    def digits(self, tmp_path: Path) -> Path:
        """200 digits of five classes as files; three lie in the wrong folder, and one in two."""
        source, root, counts = DigitsSource(), tmp_path / "digits", [0] * 10
        for index, label in enumerate(source.labels):
            if label < 5 and counts[label] < 40:
                counts[label] += 1
                folder = root / str((label + 1) % 5 if counts[label] == 7 and label < 3 else label)
                folder.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / f"{label}-{counts[label]:02d}.png"), source.read(str(index)))
        shutil.copyfile(root / "3" / "3-20.png", root / "4" / "copy.png")
        return root

    def test_a_run_finds_what_lies_in_the_wrong_folder(self, digits: Path, trained: Artifact):
        found = find_suspects(SuspectsConfig(data=str(digits), model=trained.path, hardest=3))
        wrong = {each.key: (each.label, each.suggested) for each in found.ranked if each.reason == "label"}
        assert {key: wrong.get(key) for key in ("1/0-07.png", "2/1-07.png", "3/2-07.png")} == {
            "1/0-07.png": ("1", "0"), "2/1-07.png": ("2", "1"), "3/2-07.png": ("3", "2")
        }  # fmt: skip
        assert len(wrong) <= 6
        [copied] = [each for each in found.ranked if each.reason == "duplicate"]
        assert (copied.key, copied.suggested, copied.other) == ("4/copy.png", "3", "3/3-20.png")
        assert (found.images, found.count("loss")) == (201, 3)

    def test_what_is_in_quarantine_or_broken_is_not_judged(self, digits: Path, trained: Artifact):
        (digits / "quarantine.csv").write_text("path,reason\n1/0-07.png,known\n")
        (digits / "4" / "broken.png").write_bytes(b"")
        found = find_suspects(SuspectsConfig(data=str(digits), model=trained.path))
        assert "1/0-07.png" not in {each.key for each in found.ranked}
        assert list(found.skipped) == ["4/broken.png"]
        assert found.images == 200

    def test_the_group_column_of_a_manifest_keeps_images_from_judging_each_other(self, digits: Path, trained: Artifact):
        names = sorted(path.relative_to(digits).as_posix() for path in digits.rglob("*.png"))
        lines = [f"{name},{name[0]},{'film' if name[0] == '4' else name}" for name in names]
        (digits / "m.csv").write_text("\n".join(["path,label,group", *lines]))
        with pytest.raises(DataError, match="each class needs two groups"):
            find_suspects(SuspectsConfig(data=str(digits / "m.csv"), model=trained.path))

    def test_the_command_prints_and_writes_the_list(
        self, digits: Path, trained: Artifact, cli: Callable[..., Result], tmp_path: Path
    ):
        done = cli("data", "suspects", digits, "--model", trained.path, "--hardest", 2, "--out", tmp_path / "s.csv")
        assert done.exit_code == 0, done.output
        assert "duplicate: 1, the same picture in another class" in done.stdout
        assert "1/0-07.png: 1, rather 0" in done.stdout
        with (tmp_path / "s.csv").open() as stream:
            listed = list(csv.DictReader(stream))
        assert listed[0] | {"split": ""} == {
            "key": "4/copy.png", "split": "", "label": "4", "suggested": "3", "reason": "duplicate", "score": "1.0",
            "other": "3/3-20.png",
        }  # fmt: skip
        scores = [float(each["score"]) for each in listed if each["reason"] == "label"]
        assert scores == sorted(scores, reverse=True)

    def test_mistakes_are_one_line(self, digits: Path, trained: Artifact, cli: Callable[..., Result]):
        with pytest.raises(UsageError, match="`folds`"):
            find_suspects(SuspectsConfig(data=str(digits), model=trained.path, folds=1))
        done = cli("data", "suspects", digits, "--model", trained.path, "--group-by", "(")
        assert done.exit_code == 2
        assert "--group-by '(' is no regular expression" in done.stderr
