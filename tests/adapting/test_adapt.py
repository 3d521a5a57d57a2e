"""Learning again on the device: what is learned, what is not forgotten, what is written and what never is."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

import edgecls
from edgecls.adapting.adapt import AdaptCallbacks, Adapted, adapt
from edgecls.adapting.config import AdaptConfig
from edgecls.adapting.memory import MEMORY_FILE, Memory, evenly
from edgecls.adapting.verdict import Verdict
from edgecls.artifact.card import read_card
from edgecls.artifact.reference import Reference
from edgecls.data.dataset import open_recorded
from edgecls.data.layout import DIGIT_NAMES
from edgecls.errors import ArtifactError, DataError, UsageError, VerificationError
from edgecls.exporting.bundle import export
from edgecls.exporting.config import ExportConfig
from edgecls.imaging.decode import read_image
from edgecls.imaging.opencv import cv2
from edgecls.runtime import store
from edgecls.runtime.explanation import open_explainer
from edgecls.runtime.store import Artifact
from edgecls.runtime.verification import verify
from tests.digit_photos import write_digits

FIVE = DIGIT_NAMES[:5]


class Hearing(AdaptCallbacks):
    def __init__(self) -> None:
        self.remarks: list[str] = []

    def remark(self, line: str) -> None:
        self.remarks.append(line)


@pytest.fixture(scope="module")
def bundles(taught: Artifact) -> dict[str, Artifact]:
    """The run of five digits in float and in int8."""
    configs = [
        ExportConfig(run=taught.path, target="onnx", precision=precision, max_drop_points=10.0)
        for precision in ("fp32", "int8")
    ]
    return {config.precision: export(config) for config in configs}


@pytest.fixture(scope="module")
def dim_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("dim"), FIVE, 60, 20, dim=True)


@pytest.fixture
def learn(bundles: dict[str, Artifact], tmp_path: Path) -> Callable[..., Adapted]:
    def go(data: Path, bundle: Path | None = None, callbacks: AdaptCallbacks | None = None, **given: object) -> Adapted:
        given = {"out": tmp_path / "adapted", **given}
        return adapt(AdaptConfig(bundle=bundle or bundles["fp32"].path, data=data, **given), callbacks)

    return go


def top1(bundle: Path, photos: Path) -> float:
    files = sorted(photos.rglob("*.png"))
    with edgecls.load(bundle) as model:
        return float(
            np.mean([model.predict(path).classes[model.predict(path).index] == path.parent.name for path in files])
        )


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_it_learns_what_is_new_without_forgetting(
    learn: Callable[..., Adapted], bundles: dict[str, Artifact], dim_photos: Path, tmp_path: Path, precision: str
) -> None:
    dim = write_digits(tmp_path / "dim_others", FIVE, 100, 20, dim=True)
    usual = write_digits(tmp_path / "others", FIVE, 100, 20)
    before = bundles[precision].path
    adapted = learn(dim_photos, before)
    path = adapted.artifact.path
    assert adapted.verdict.word in ("better", "equal")
    assert top1(path, dim) > top1(before, dim) + 0.1
    assert top1(path, usual) >= top1(before, usual) - 0.05
    assert verify(path).agreement == 1.0


def test_the_graph_is_a_valid_one_that_other_runtimes_read(learn: Callable[..., Adapted], dim_photos: Path) -> None:
    import onnx

    openvino = pytest.importorskip("openvino")
    path = learn(dim_photos).artifact.path
    model = onnx.load(path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [node.name for node in model.graph.node].count("edgecls_head") == 1
    golden = np.load(path / "golden.npz")
    scores = openvino.Core().compile_model(path / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(
        golden["images"]
    )
    assert scores["scores"] == pytest.approx(golden["scores"], abs=1e-3)
    assert edgecls.load(path / "model.onnx").card.classes == read_card(path).classes


def test_a_new_class_is_taken_in_and_the_bare_file_knows_it(
    learn: Callable[..., Adapted], bundles: dict[str, Artifact], tmp_path: Path
) -> None:
    photos = write_digits(tmp_path / "photos", DIGIT_NAMES[6:7], 0, 24, folder="a new one")
    write_digits(photos, FIVE, 60, 4)
    path = learn(photos, bundles["int8"].path).artifact.path
    assert read_card(path).classes == (*bundles["int8"].card.classes, "a new one")
    others = write_digits(tmp_path / "others", DIGIT_NAMES[6:7], 60, 20, folder="a new one")
    assert top1(path / "model.onnx", others) > 0.8


def test_the_next_turn_remembers_the_last_one(
    learn: Callable[..., Adapted], dim_photos: Path, bundles: dict[str, Artifact], tmp_path: Path
) -> None:
    first = learn(dim_photos, out=tmp_path / "first").artifact
    remembered = Memory.read(first.path, first.card)
    known = Memory.read(bundles["fp32"].path, bundles["fp32"].card)
    assert len(remembered.test) > len(known.test)
    photos = write_digits(tmp_path / "photos", DIGIT_NAMES[7:8], 0, 24)
    second = learn(photos, first.path, out=tmp_path / "second").artifact
    dim = write_digits(tmp_path / "others", FIVE, 100, 10, dim=True)
    assert top1(second.path, dim) > top1(first.path, dim) - 0.1
    assert second.card.lineage.parent == first.card.lineage.files["model.onnx"]


def test_the_card_says_where_it_comes_from_and_how_good_it_is(
    learn: Callable[..., Adapted], bundles: dict[str, Artifact], dim_photos: Path
) -> None:
    adapted = learn(dim_photos)
    card = read_card(adapted.artifact.path)
    assert card.lineage.parent == bundles["fp32"].card.lineage.files["model.onnx"]
    made = card.lineage.relearned
    assert made is not None
    digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in dim_photos.rglob("*.png"))
    assert made["digest"] == hashlib.sha256("".join(digests).encode()).hexdigest()
    assert made["new_images"] == 100
    assert made["verdict"] == adapted.verdict.word
    new = next(change for change in adapted.verdict.groups if change.name == "new images")
    assert (card.quality.images, card.quality.top1) == (new.images, pytest.approx(new.after))
    assert card.quality.agreement == 1.0


def test_it_has_a_reference_of_its_own_answers(
    learn: Callable[..., Adapted], bundles: dict[str, Artifact], dim_photos: Path, tmp_path: Path
) -> None:
    adapted = learn(dim_photos)
    path, card = adapted.artifact.path, adapted.artifact.card
    reference = Reference.read(path, card)
    assert reference is not None
    images = sum(change.images for change in adapted.verdict.groups)
    right = sum(change.images * change.after for change in adapted.verdict.groups)
    assert len(reference.labels) == images
    assert (reference.predicted == reference.labels).sum() == pytest.approx(right)
    others = sorted(write_digits(tmp_path / "others", FIVE, 100, 10, dim=True).rglob("*.png"))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with edgecls.load(path, unknown=True) as model:
        assert np.mean([model.predict(each).unknown for each in others]) < 0.2
        assert model.predict(noise).unknown


def test_of_too_few_held_out_images_there_is_no_reference_and_it_is_said(
    learn: Callable[..., Adapted], bundles: dict[str, Artifact], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(bundles["fp32"].path, bundle)
    memory = Memory.read(bundle, bundles["fp32"].card)
    replace(memory, test=memory.test[::10], test_labels=memory.test_labels[::10]).write(bundle)
    said: list[str] = []

    class Hearing(AdaptCallbacks):
        def remark(self, line: str) -> None:
            said.append(line)

    photos = write_digits(tmp_path / "photos", FIVE, 60, 8)
    adapted = learn(photos, bundle, callbacks=Hearing(), accept_worse=True).artifact
    assert Reference.read(adapted.path, adapted.card) is None
    assert any("least for a reference" in line for line in said)


def test_wrong_labels_make_it_worse_and_nothing_is_written(learn: Callable[..., Adapted], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name, wrong in zip(FIVE, (*FIVE[1:], FIVE[0]), strict=True):
        write_digits(photos, [name], 60, 60, folder=wrong)
    with pytest.raises(VerificationError, match="worse than before on old images"):
        learn(photos)
    assert not list(tmp_path.glob("*adapted*"))
    assert learn(photos, accept_worse=True).artifact.card.quality.note == "worse than the bundle that it learned from"


def with_near_copies(photos: Path, to: Path, taught: Artifact, split: str, count: int | None = None) -> Path:
    """A copy of a folder with pictures that nearly show what the first ones of a split do."""
    shutil.copytree(photos, to)
    recorded = open_recorded(taught.path)
    for sample in recorded.splits[split][:count]:
        nearly = np.maximum(recorded.read(sample), 1)
        cv2.imwrite(str(to / recorded.classes[sample.label] / f"again{Path(sample.key).name}"), nearly)
    return to


def test_held_out_old_images_are_not_learned_from(
    learn: Callable[..., Adapted], taught: Artifact, dim_photos: Path, tmp_path: Path
) -> None:
    photos = with_near_copies(dim_photos, tmp_path / "photos", taught, "test", 3)
    hearing = Hearing()
    made = learn(photos, callbacks=hearing).artifact.card.lineage.relearned
    assert made is not None
    assert made["new_images"] <= 100
    assert any("show nearly what held-out old ones show" in line for line in hearing.remarks)


def test_images_that_were_learned_or_judged_by_are_left_out(
    learn: Callable[..., Adapted], taught: Artifact, dim_photos: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(open_recorded(taught.path).source.location, photos)
    with pytest.raises(DataError, match="holds 0 new images"):
        learn(photos)
    shutil.copytree(dim_photos, photos, dirs_exist_ok=True)
    hearing = Hearing()
    first = learn(photos, callbacks=hearing).artifact
    assert first.card.lineage.relearned is not None
    assert first.card.lineage.relearned["new_images"] == 100
    assert any("200 of 300 images are known to the bundle already" in line for line in hearing.remarks)
    basis = next(line for line in hearing.remarks if line.startswith("judged by 30 held-out old images"))
    assert 10 <= int(basis.split(" and ")[1].split(" of 100 new ones")[0]) <= 25
    with pytest.raises(DataError, match="holds 0 new images"):
        learn(photos, first.path, out=tmp_path / "second")


def test_a_bundle_that_does_not_know_what_its_run_learned_says_so(
    learn: Callable[..., Adapted], bundles: dict[str, Artifact], dim_photos: Path, tmp_path: Path
) -> None:
    earlier = tmp_path / "earlier"
    shutil.copytree(bundles["fp32"].path, earlier)
    with np.load(earlier / MEMORY_FILE) as arrays:
        kept = {name: arrays[name] for name in arrays.files if name not in ("known", "knows_all")}
    np.savez(earlier / MEMORY_FILE, **kept)
    hearing = Hearing()
    first = learn(dim_photos, earlier, hearing).artifact
    assert any("does not say which images its run learned from" in line for line in hearing.remarks)
    memory = Memory.read(first.path, first.card)
    assert (len(memory.known), memory.knows_all) == (100, False)


def test_what_nearly_shows_a_learned_image_does_not_judge(
    learn: Callable[..., Adapted], taught: Artifact, dim_photos: Path, tmp_path: Path
) -> None:
    photos = with_near_copies(dim_photos, tmp_path / "photos", taught, "train")
    adapted = learn(photos)
    assert adapted.artifact.card.lineage.relearned is not None
    assert adapted.artifact.card.lineage.relearned["new_images"] > 200
    assert next(change.images for change in adapted.verdict.groups if change.name == "new images") <= 100


def test_it_says_where_no_new_image_judges(learn: Callable[..., Adapted], dim_photos: Path, tmp_path: Path) -> None:
    rows = ["path,label,group", *(f"{path},{path.parent.name},one series" for path in dim_photos.rglob("*.png"))]
    (tmp_path / "data.csv").write_text("\n".join(rows))
    hearing = Hearing()
    learn(tmp_path / "data.csv", callbacks=hearing)
    assert any("0 of 100 new ones: nothing tells how well the new is learned" in line for line in hearing.remarks)


def test_series_and_splits_of_a_manifest_are_kept(
    learn: Callable[..., Adapted], dim_photos: Path, tmp_path: Path
) -> None:
    rows = ["path,label,split"]
    for position, path in enumerate(sorted(dim_photos.rglob("*.png"))):
        rows.append(f"{path},{path.parent.name},{'test' if position % 4 == 0 else 'train'}")
    folder = tmp_path / "listed"
    folder.mkdir()
    (folder / "data.csv").write_text("\n".join(rows))
    adapted = learn(folder)
    assert next(change.images for change in adapted.verdict.groups if change.name == "new images") == 25


def test_classes_can_be_renamed_and_removed(learn: Callable[..., Adapted], dim_photos: Path) -> None:
    card = learn(dim_photos, rename=("two=a pair",), remove=("one",)).artifact.card
    assert set(card.classes) == {"zero", "a pair", "three", "four"}


def test_adapted_bundles_stand_beside_their_parent_and_are_not_taken_for_the_runs(
    bundles: dict[str, Artifact], taught: Artifact, dim_photos: Path
) -> None:
    paths = [adapt(AdaptConfig(bundle=bundles["fp32"].path, data=dim_photos)).artifact.path for _ in range(2)]
    try:
        assert [path.name for path in paths] == ["onnx-fp32-adapted", "onnx-fp32-adapted-2"]
        assert not {path.name for path in paths} & {each.path.name for each in store.bundles_of(taught.path)}
    finally:
        for path in paths:
            shutil.rmtree(path)


def test_what_cannot_be_adapted_says_why(
    learn: Callable[..., Adapted], taught: Artifact, bundles: dict[str, Artifact], dim_photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="edgecls retrain"):
        learn(dim_photos, taught.path)
    with pytest.raises(DataError, match="no folder"):
        learn(tmp_path / "nowhere")
    bare = tmp_path / "bare"
    shutil.copytree(bundles["fp32"].path, bare)
    (bare / MEMORY_FILE).unlink()
    with pytest.raises(ArtifactError, match=r"holds no memory\.npz"):
        learn(dim_photos, bare)
    (bare / MEMORY_FILE).write_bytes(b"PK rubbish")
    with pytest.raises(ArtifactError, match="damaged"):
        learn(dim_photos, bare)


def test_an_image_in_two_classes_is_refused_and_a_broken_one_is_left_out(
    learn: Callable[..., Adapted], dim_photos: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(dim_photos, photos)
    (photos / "one" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    made = learn(photos).artifact.card.lineage.relearned
    assert made is not None
    assert made["new_images"] == 100
    shutil.copy(next((photos / "two").iterdir()), photos / "one" / "copy.png")
    with pytest.raises(DataError, match="in another class"):
        learn(photos, out=tmp_path / "other")


def test_memory_of_another_network_is_refused(bundles: dict[str, Artifact], tmp_path: Path) -> None:
    card = bundles["fp32"].card
    memory = Memory.read(bundles["fp32"].path, card)
    replace(memory, train_labels=memory.train_labels + 5).write(tmp_path)
    with pytest.raises(ArtifactError, match="names a class that there is not"):
        Memory.read(tmp_path, card)
    memory.write(tmp_path)
    with pytest.raises(ArtifactError, match="weight is"):
        Memory.read(tmp_path, replace(card, classes=card.classes[:3]))


def test_what_is_remembered_is_nearly_what_was_seen(bundles: dict[str, Artifact], taught: Artifact) -> None:
    bundle = bundles["fp32"]
    memory = Memory.read(bundle.path, bundle.card)
    recorded = open_recorded(taught.path)
    assert len(memory.train) == len(recorded.splits["train"])
    agreed = memory.head.scores(memory.test).argmax(axis=1) == memory.test_labels
    assert agreed.mean() == pytest.approx(bundle.card.quality.top1, abs=0.05)


def test_memory_keeps_the_same_number_of_each_class() -> None:
    labels = np.repeat([0, 1, 2], [100, 10, 3])
    kept = labels[evenly(labels, np.arange(113), 30)]
    assert np.bincount(kept).tolist() == [17, 10, 3]


@pytest.mark.parametrize("step", ["computing embeddings", "fitting the last layer", "the verdict"])
def test_stopped_it_leaves_nothing_behind(
    learn: Callable[..., Adapted], dim_photos: Path, tmp_path: Path, step: str
) -> None:
    class Stopping(AdaptCallbacks):
        def step(self, line: str) -> None:
            if line == step:
                signal.raise_signal(signal.SIGINT)

        def judged(self, verdict: Verdict) -> None:
            self.step("the verdict")

    with pytest.raises(KeyboardInterrupt):
        learn(dim_photos, callbacks=Stopping())
    assert not list(tmp_path.iterdir())


def test_the_command_prints_the_verdict(
    cli: Callable[..., Result], bundles: dict[str, Artifact], dim_photos: Path, tmp_path: Path
) -> None:
    result = cli("adapt", bundles["fp32"].path, "--data", dim_photos, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "verdict: " in result.output
    assert "bundle: " in result.output
    assert "on the device" in cli("info", tmp_path / "out").output
    assert json.loads((tmp_path / "out" / "card.json").read_text())["lineage"]["relearned"]["new_images"] == 100


def test_what_explains_the_bundle_explains_the_new_one(
    taught: Artifact, learn: Callable[..., Adapted], dim_photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "explainable"
    bundle = export(ExportConfig(run=taught.path, target="onnx", explain=True, out=out))
    adapted = learn(dim_photos, bundle=bundle.path).artifact
    image = read_image(next(dim_photos.rglob("*.png")))
    with open_explainer(adapted) as explainer:
        assert explainer.name == "class activation map"
        pixels = adapted.card.preprocess(image)
        scores = explainer.classifier.session.infer(pixels[None])[0]
        means = [explainer.places(pixels, index).mean() for index in range(len(scores))]
    np.testing.assert_allclose(means, scores, atol=1e-2)  # a linear layer behind the mean over places
