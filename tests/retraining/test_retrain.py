"""Learning again: what is learned from, what stays held out, and what is never written."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from edgecls.data.dataset import open_dataset, open_recorded
from edgecls.data.layout import DIGIT_NAMES
from edgecls.errors import DataError, UsageError, VerificationError
from edgecls.evaluation import embeddings
from edgecls.evaluation.inference import PreparedImages, labels_of, scores_on
from edgecls.imaging.opencv import cv2
from edgecls.retraining.config import RetrainConfig
from edgecls.retraining.images import mix
from edgecls.retraining.retrain import RetrainCallbacks, Retrained, retrain
from edgecls.runtime import store
from edgecls.runtime.store import Artifact
from edgecls.training.config import TrainConfig
from edgecls.training.loop import train
from tests.digit_photos import write_digits

FIVE = DIGIT_NAMES[:5]


class Hearing(RetrainCallbacks):
    def __init__(self) -> None:
        self.remarks: list[str] = []
        self.steps: list[str] = []

    def remark(self, line: str) -> None:
        self.remarks.append(line)

    def step(self, line: str) -> None:
        self.steps.append(line)


@pytest.fixture(scope="module")
def dim_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("dim"), FIVE, 60, 30, dim=True)


@pytest.fixture
def learn(taught: Artifact, tmp_path: Path) -> Callable[..., Retrained]:
    def go(data: Path, run: Path | None = None, hearing: RetrainCallbacks | None = None, **given: object) -> Retrained:
        config = RetrainConfig(run=run or taught.path, data=str(data), out=tmp_path / "learned", **given)
        return retrain(config, hearing)

    return go


@pytest.fixture(scope="module")
def dim_learned(taught: Artifact, dim_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Retrained:
    """What the run learned from digits in dim light."""
    out = tmp_path_factory.mktemp("dim_learned") / "run"
    return retrain(RetrainConfig(run=taught.path, data=str(dim_photos), out=out))


def top1(run: Artifact, photos: Path) -> float:
    from edgecls.data.layout import index_dataset

    index = index_dataset(str(photos))
    samples = index.splits["train"]
    classes = [run.card.classes.index(name) for name in index.classes]
    wanted = np.array([classes[label] for label in labels_of(samples)])
    return float((scores_on(run, index.source, samples).argmax(axis=1) == wanted).mean())


def keys(run: Artifact, split: str) -> list[str]:
    return [sample.key for sample in open_recorded(run.path).splits[split]]


def test_it_learns_what_is_new_and_keeps_what_it_knew(dim_learned: Retrained, taught: Artifact, tmp_path: Path) -> None:
    others = write_digits(tmp_path / "others", FIVE, 100, 20, dim=True)
    retrained = dim_learned
    assert retrained.verdict.word == "better"
    assert top1(retrained.artifact, others) > top1(taught, others) + 0.1
    assert {change.name for change in retrained.verdict.groups} == {"old images", "new images"}
    assert retrained.artifact.is_run


def test_what_was_held_out_stays_held_out_and_new_images_are_held_out_too(
    dim_learned: Retrained, taught: Artifact
) -> None:
    learned = dim_learned.artifact
    for split in ("val", "test"):
        assert [f"0/{key}" for key in keys(taught, split)] == [key for key in keys(learned, split) if key[0] == "0"]
    assert [key for key in keys(learned, "test") if key.startswith("1/")]
    everything = [key for split in ("train", "val", "test") for key in keys(learned, split)]
    assert len(everything) == len(set(everything)) == 200 + 150


def test_the_verdict_stands_in_the_card_and_in_the_evaluation(dim_learned: Retrained, taught: Artifact) -> None:
    retrained = dim_learned
    record = json.loads((retrained.artifact.path / "evaluation.json").read_text())["relearned"]
    assert record == json.loads((retrained.artifact.path / "card.json").read_text())["lineage"]["relearned"]
    assert (record["verdict"], record["new_images"], record["old_images"]) == ("better", 150, 200)
    assert record["parent"] == taught.card.lineage.files["model.safetensors"]
    assert len(record["groups"]) == 2


def test_a_near_copy_of_a_held_out_image_is_not_learned_from(
    learn: Callable[..., Retrained], taught: Artifact, dim_photos: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(dim_photos, photos)
    recorded = open_recorded(taught.path)
    held_out = recorded.splits["test"][0]
    image = recorded.read(held_out)
    copy = photos / recorded.classes[held_out.label] / "copy.jpg"
    cv2.imwrite(str(copy), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    hearing = Hearing()
    learned = learn(photos, hearing=hearing).artifact
    everything = [key for split in ("train", "val", "test") for key in keys(learned, split)]
    assert not [key for key in everything if key.endswith("copy.jpg")]
    assert any("nearly what held-out images" in line for line in hearing.remarks)
    assert "copy.jpg" in "".join(open_recorded(learned.path).skipped)


def test_series_are_not_torn_apart(learn: Callable[..., Retrained], dim_photos: Path, tmp_path: Path) -> None:
    rows = ["path,label,group"]
    for position, path in enumerate(sorted(dim_photos.rglob("*.png"))):
        rows.append(f"{path},{path.parent.name},{path.parent.name}-{position % 5}")
    manifest = tmp_path / "series.csv"
    manifest.write_text("\n".join(rows))
    learned = learn(manifest).artifact
    series = dict(line.split(",")[::2] for line in rows[1:])
    splits: dict[str, set[str]] = {}
    for split in ("train", "val", "test"):
        for key in keys(learned, split):
            if key.startswith("1/"):
                splits.setdefault(series[key.removeprefix("1/")], set()).add(split)
    assert all(len(each) == 1 for each in splits.values())
    assert {"train", "test"} <= set().union(*splits.values())


def test_what_continues_a_held_out_series_of_the_run_is_not_learned_from(tmp_path: Path) -> None:
    def listed(root: Path, count: int, split_of: Callable[[int], str]) -> Path:
        rows = ["path,label,split,group"]
        for path in sorted(root.rglob("*.png")):
            number = int(path.name[:4]) % count
            rows.append(f"{path.relative_to(root)},{path.parent.name},{split_of(number)},series {number}")
        (root / "data.csv").write_text("\n".join(rows))
        return root

    photos = write_digits(tmp_path / "photos", FIVE[:3], 0, 40)
    listed(photos, 5, lambda number: {0: "test", 1: "val"}.get(number, "train"))
    run, _ = train(TrainConfig(data=str(photos), arch="simple_cnn", size_px=32, epochs=1, out=tmp_path / "run"))
    new = listed(write_digits(tmp_path / "new", FIVE[:3], 60, 40, dim=True), 12, lambda _: "")
    mixture = mix(store.find(run), RetrainConfig(run=run, data=str(new)))
    columns, splits = mixture.dataset.columns, mixture.dataset.splits
    old, new_ones = (
        {
            name: {columns[s.key]["group"] for s in splits[name] if (s.key in mixture.new_keys) is is_new}
            for name in splits
        }
        for is_new in (False, True)
    )
    assert (old["val"], old["test"]) == ({"series 1"}, {"series 0"})
    assert not {"series 0", "series 1"} & set().union(*new_ones.values())
    assert {"series 2", "series 3", "series 4"} <= new_ones["train"]
    assert new_ones["test"]
    left_out = [path for path in new.rglob("*.png") if int(path.name[:4]) % 12 < 2]
    remark = f"{len(left_out)} new images are of series that the run holds out; they are left out"
    assert remark in mixture.remarks


def test_a_new_class_is_taken_in_behind_the_old_ones(
    learn: Callable[..., Retrained], taught: Artifact, tmp_path: Path
) -> None:
    photos = write_digits(tmp_path / "photos", DIGIT_NAMES[6:7], 0, 40, folder="a new one")
    learned = learn(photos)
    assert learned.artifact.card.classes == (*taught.card.classes, "a new one")
    assert top1(learned.artifact, write_digits(tmp_path / "others", DIGIT_NAMES[6:7], 60, 20, folder="a new one")) > 0.8
    assert "new images" in {change.name for change in learned.verdict.groups}


def test_the_next_turn_goes_on_from_there_and_computes_new_images_only(
    dim_learned: Retrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = dim_learned.artifact
    computed: list[int] = []

    class Counted(PreparedImages):
        def at(self, positions: Iterable[int]) -> Iterator[np.ndarray]:
            read = list(positions)
            computed.append(len(read))
            return super().at(read)

    monkeypatch.setattr(embeddings, "PreparedImages", Counted)
    photos = write_digits(tmp_path / "photos", FIVE, 120, 8, dim=True)
    again = retrain(RetrainConfig(run=learned.path, data=str(photos), out=tmp_path / "again")).artifact
    assert computed == [40]
    assert {key.partition("/")[0] for key in keys(again, "train")} == {"0", "1", "2"}


def test_all_layers_can_learn(learn: Callable[..., Retrained], dim_photos: Path, tmp_path: Path) -> None:
    others = write_digits(tmp_path / "others", FIVE, 100, 20, dim=True)
    learned = learn(dim_photos, freeze="none", epochs=2, accept_worse=True).artifact
    assert learned.card.lineage.relearned is not None
    assert learned.card.lineage.relearned["how"].endswith("all layers")
    assert (learned.path / "metrics.csv").is_file()
    assert top1(learned, others) > 0.5


def test_wrong_labels_make_it_worse_and_nothing_is_written(
    learn: Callable[..., Retrained], taught: Artifact, tmp_path: Path, runs_folder: Path
) -> None:
    photos = tmp_path / "photos"
    for name, wrong in zip(FIVE, (*FIVE[1:], FIVE[0]), strict=True):
        write_digits(photos, [name], 60, 60, folder=wrong)
    with pytest.raises(VerificationError, match="worse than before on old images"):
        learn(photos)
    assert not list(tmp_path.glob("*learned*"))
    accepted = learn(photos, accept_worse=True)
    assert accepted.verdict.word == "worse"
    assert accepted.artifact.card.quality.note == "worse than the run that it learned from"


def test_a_class_under_another_name_is_noticed(
    learn: Callable[..., Retrained], taught: Artifact, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(open_recorded(taught.path).source.location, photos)
    (photos / "two").rename(photos / "a pair")
    write_digits(photos, FIVE[:1], 60, 10)
    with pytest.raises(UsageError, match="`rename` two=a pair"):
        learn(photos)
    learned = learn(photos, rename=("two=a pair",))
    assert learned.artifact.card.classes == tuple("a pair" if name == "two" else name for name in taught.card.classes)


def test_classes_can_be_merged_and_removed(learn: Callable[..., Retrained], taught: Artifact, dim_photos: Path) -> None:
    learned = learn(dim_photos, rename=("one=zero",), remove=("two",)).artifact
    assert set(learned.card.classes) == {"zero", "three", "four"}
    labels = {key: label for split in ("train", "test") for key, label in _named(learned, split)}
    assert {label for key, label in labels.items() if "/one/" in f"/{key}"} == {"zero"}
    assert not [key for key in labels if "two/" in key]


def test_a_split_class_leaves_its_held_out_images_held_out(
    learn: Callable[..., Retrained], taught: Artifact, tmp_path: Path
) -> None:
    recorded = open_recorded(taught.path)
    photos = tmp_path / "photos"
    for position, path in enumerate(sorted((Path(recorded.source.location) / "two").iterdir())):
        place = photos / f"two {'even' if position % 2 else 'odd'}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    learned = learn(photos, remove=("two",), accept_worse=True).artifact
    assert {"two even", "two odd"} < set(learned.card.classes)
    held_out = {Path(sample.key).name for sample in recorded.splits["test"] if sample.key.startswith("two/")}
    assert held_out <= {Path(key).name for key in keys(learned, "test")}
    assert not held_out & {Path(key).name for key in keys(learned, "train") if "two" in key}


def test_a_corrected_label_is_taken(
    learn: Callable[..., Retrained], taught: Artifact, dim_photos: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(dim_photos, photos)
    recorded = open_recorded(taught.path)
    moved = next(sample for sample in recorded.splits["train"] if sample.key.startswith("one/"))
    shutil.copy(Path(recorded.source.location) / moved.key, photos / "four")
    hearing = Hearing()
    learned = learn(photos, hearing=hearing).artifact
    assert dict(_named(learned, "train"))[f"0/{moved.key}"] == "four"
    assert any("1 of them have another class now" in line for line in hearing.remarks)


def _named(run: Artifact, split: str) -> list[tuple[str, str]]:
    recorded = open_recorded(run.path)
    return [(sample.key, recorded.classes[sample.label]) for sample in recorded.splits[split]]


def test_images_that_are_gone_are_a_choice(
    taught: Artifact, dim_photos: Path, tmp_path: Path, copy_of: Callable[[Artifact], Path]
) -> None:
    run = copy_of(taught)
    record = json.loads((run / "data.json").read_text())
    moved = record["location"]
    (run / "data.json").write_text(json.dumps({**record, "location": str(tmp_path / "gone")}))
    with pytest.raises(DataError, match="no longer at .*`old_data`.*`without_old`"):
        retrain(RetrainConfig(run=run, data=str(dim_photos), out=tmp_path / "a"))
    found = retrain(RetrainConfig(run=run, data=str(dim_photos), old_data=Path(moved), out=tmp_path / "b"))
    assert found.verdict.groups[0].name == "old images"
    without = retrain(RetrainConfig(run=run, data=str(dim_photos), without_old=True, out=tmp_path / "c"))
    assert [change.name for change in without.verdict.groups] == ["new images"]


def test_without_old_images_those_of_some_classes_are_enough_for_the_last_layer(
    learn: Callable[..., Retrained], taught: Artifact, tmp_path: Path
) -> None:
    photos = write_digits(tmp_path / "photos", FIVE[:2], 60, 20, dim=True)
    hearing = Hearing()
    learned = learn(photos, without_old=True, hearing=hearing).artifact
    assert learned.card.classes == taught.card.classes
    assert any("no images of four, three, two: they keep their weights" in line for line in hearing.remarks)
    usual = write_digits(tmp_path / "usual", FIVE[2:], 100, 20)
    assert top1(learned, usual) > top1(taught, usual) - 0.1
    with pytest.raises(DataError, match="no images of four, three, two: .*`freeze` backbone"):
        retrain(RetrainConfig(run=taught.path, data=str(photos), without_old=True, freeze="none", out=tmp_path / "b"))


def test_photos_in_the_runs_own_folder_may_have_grown(tmp_path: Path) -> None:
    photos = write_digits(tmp_path / "photos", FIVE[:3], 0, 20)
    run, _ = train(TrainConfig(data=str(photos), arch="simple_cnn", size_px=32, epochs=2, out=tmp_path / "run"))
    write_digits(photos, FIVE[:3], 60, 12, dim=True)
    mixture = mix(store.find(run), RetrainConfig(run=run, data=str(photos)))
    assert (mixture.count(new=False), mixture.count(new=True)) == (60, 36)
    assert mixture.dataset.source.location == str(photos)


def test_nothing_new_is_said(learn: Callable[..., Retrained], taught: Artifact) -> None:
    with pytest.raises(DataError, match="0 images that the run does not know yet"):
        learn(Path(open_recorded(taught.path).source.location))


def test_the_embedded_digits_and_files_make_one_data_set(trained: Artifact, dim_photos: Path, tmp_path: Path) -> None:
    config = RetrainConfig(run=trained.path, data=str(dim_photos), out=tmp_path / "run", accept_worse=True)
    learned = retrain(config).artifact
    dataset = open_dataset(str(learned.path), 0)
    assert dataset.read(dataset.splits["test"][0]).shape == (64, 64, 3)
    assert dataset.splits == open_recorded(learned.path).splits


def test_its_settings_train_it_anew(dim_learned: Retrained, tmp_path: Path) -> None:
    from edgecls.training.config import read_config

    learned = dim_learned.artifact
    settings = {**read_config(learned.path / "config.toml"), "epochs": 1}
    path, _ = train(TrainConfig(**settings, out=tmp_path / "anew"))
    assert open_recorded(path).splits == open_recorded(learned.path).splits


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_leaves_nothing_behind(taught: Artifact, dim_photos: Path, tmp_path: Path, number: int) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "edgecls", "retrain", str(taught.path), "--data", str(dim_photos)]
    command += ["--freeze", "none", "--epochs", "2000", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**_environment(), "TMPDIR": str(scratch)}
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert not (tmp_path / "out").exists()
    assert not list(scratch.glob("edgecls-*"))


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def test_the_command_prints_the_verdict(
    cli: Callable[..., Result], taught: Artifact, dim_photos: Path, tmp_path: Path
) -> None:
    result = cli("retrain", taught.path, "--data", dim_photos, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "old images: equal" in result.output
    assert "verdict: better" in result.output
    assert "learned again" in cli("info", tmp_path / "run").output


def test_it_says_where_no_new_image_is_held_out_by_the_splits_that_they_bring(
    learn: Callable[..., Retrained], taught: Artifact, dim_photos: Path, tmp_path: Path
) -> None:
    old = Path(open_recorded(taught.path).source.location)
    rows = ["path,label,split", *(f"{path},{path.parent.name},test" for path in sorted(old.rglob("*.png"))[::9])]
    rows += [f"{path},{path.parent.name},train" for path in sorted(dim_photos.rglob("*.png"))]
    manifest = tmp_path / "all.csv"
    manifest.write_text("\n".join(rows))
    hearing = Hearing()
    learned = learn(manifest, hearing=hearing, accept_worse=True).artifact
    assert any("none of the 150 new images is held out" in line for line in hearing.remarks)
    assert not [key for key in keys(learned, "test") if key.endswith("dim.png")]
