from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecls.artifact.card import Card, Lineage, Quality, Runtime, check_files, read_card, write_card
from edgecls.artifact.golden import Golden
from edgecls.errors import ArtifactError, VerificationError
from edgecls.imaging.preprocess import Preprocess
from edgecls.runtime.store import Artifact
from edgecls.runtime.verification import verify

CARD = Card(
    arch="resnet18",
    classes=("red apple", "pear"),
    preprocess=Preprocess(48, 64),
    target="onnx",
    precision="int8",
    runtime=Runtime("onnxruntime", "1.0", "", "a note"),
    lineage=Lineage(created="2026-01-01", files={"model.onnx": "ab"}, parent="cd", calibration={"images": 9}),
    quality=Quality(split="test", images=10, top1=0.9, agreement=1.0),
)


def test_a_card_survives_the_disk(tmp_path: Path):
    write_card(CARD, tmp_path)
    assert read_card(tmp_path) == CARD


def test_the_contract_of_input_and_output_is_written_out(tmp_path: Path):
    io = CARD.to_json()["io"]
    assert io["input"] == {"name": "image", "dtype": "uint8", "layout": "NHWC", "shape": [-1, 48, 64, 3]}
    assert io["output"] == {"name": "scores", "dtype": "float32", "layout": "NC", "shape": [-1, 2]}


def test_a_card_of_schema_1_is_read_as_one_of_today(tmp_path: Path):
    record = CARD.to_json()
    record["schema"] = 1
    record["lineage"]["ladder"] = [{"rung": "first", "gain": 1.2}, {"rung": "second", "gain": None}]
    record["lineage"]["recipe"] = {"rung": "first", "samples": 300}
    del record["lineage"]["candidates"]
    (tmp_path / "card.json").write_text(json.dumps(record))
    card = read_card(tmp_path)
    assert [each["candidate"] for each in card.lineage.candidates or ()] == ["first", "second"]
    assert card.lineage.recipe == {"candidate": "first", "samples": 300}
    assert card.to_json()["schema"] == 2
    write_card(card, tmp_path)
    assert read_card(tmp_path) == card


def test_a_newer_schema_is_refused_with_the_way_out(tmp_path: Path):
    (tmp_path / "card.json").write_text(json.dumps({**CARD.to_json(), "schema": 99}))
    with pytest.raises(ArtifactError, match=r"schema 99.*pip install --upgrade edgecls"):
        read_card(tmp_path)


def test_fields_of_a_later_minor_version_are_ignored(tmp_path: Path):
    record = CARD.to_json()
    record["quality"]["sharpness"] = 3
    (tmp_path / "card.json").write_text(json.dumps(record))
    assert read_card(tmp_path).quality.top1 == 0.9


@pytest.mark.parametrize(
    "content", ["{}", "[1]", '{"schema": 1, "classes": "abc"}', "not json", '{"schema": 1}', '"text"']
)
def test_a_foreign_card_is_one_clear_error(tmp_path: Path, content: str):
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"card\.json"):
        read_card(tmp_path)


def test_a_folder_without_a_card_is_no_artifact(tmp_path: Path):
    with pytest.raises(ArtifactError, match="neither a run nor a bundle"):
        read_card(tmp_path)


def test_the_embedded_card_leaves_out_what_the_file_cannot_know():
    inside = Card.from_embedded(CARD.embedded(), "model.onnx")
    assert inside.classes == CARD.classes
    assert inside.lineage.parent == "cd"
    assert not inside.lineage.files
    assert not inside.verified


def test_model_info_separates_labels_by_blanks():
    assert CARD.model_info()["labels"] == "red_apple pear"
    assert CARD.model_info()["resize_type"] == "crop"


def test_a_changed_model_file_is_refused(trained: Artifact, copy_of: Callable[[Artifact], Path]):
    path = copy_of(trained)
    with (path / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x55")
    with pytest.raises(ArtifactError, match="SHA-256 differs"):
        check_files(read_card(path), path)


def test_a_missing_model_file_is_named(trained: Artifact, copy_of: Callable[[Artifact], Path]):
    path = copy_of(trained)
    (path / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"model\.safetensors is missing"):
        check_files(read_card(path), path)


def test_golden_inputs_hold_every_class_and_the_parents_scores(trained: Artifact):
    golden = Golden.read(trained.path)
    assert golden.images.shape == (16, 32, 32, 3)
    assert golden.scores.shape == (16, 10)
    with trained.open() as session:
        assert abs(session.infer(golden.images) - golden.scores).max() < 1e-4


def test_a_damaged_golden_file_is_an_error(tmp_path: Path):
    (tmp_path / "golden.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ArtifactError, match=r"golden\.npz is missing or damaged"):
        Golden.read(tmp_path)


def test_only_a_trained_run_is_a_parent(trained: Artifact):
    assert trained.card.is_parent
    assert not replace(CARD, lineage=Lineage(parent="cd")).is_parent


WRONG: dict[str, list[object]] = {
    "schema": [-1, 0, True, "1", 1.5],
    "arch": ["", 3, None],
    "target": ["", [], None, "../../x", ".hidden", "a b"],
    "precision": ["int4", 8, None],
    "output": ["scores", 3],
    "classes": [[], ["a", "a"], ["a", ""], ["a", 3], [["a"], ["b"]], "ab", {}, None],
    "preprocess": [None, [], "crop"],
    "preprocess.height_px": [0, -5, 1.5, "48", True, 10**9, None],
    "preprocess.width_px": [0, -64, 1e300, [64], None],
    "preprocess.resize": ["zoom", 3, None],
    "preprocess.interpolation": ["lanczos", [], None],
    "preprocess.mean": [[0.5, 0.5], [0.5, 0.5, "x"], [0.5, 0.5, 1e300], 0.5, None],
    "preprocess.std": [[0, 1, 1], [-1, 1, 1], [1, 1], [True, 1, 1], None],
    "preprocess.crop": [0, -1, 1.5, "1"],
    "preprocess.color": ["bgr"],
    "confidence": [3, ["x"], [], 0, ""],
    "quality": [0, [], ""],
    "lineage": [0, ""],
    "confidence.temperature": [0, -1, 1e300, "1", True],
    "confidence.threshold": [-0.1, 1.1, "x"],
    "runtime.name": [3],
    "runtime.batch": [[1, 2], [0, 1, 1], [3, 2, 1], [1, 1.5, 2], "1,1,8"],
    "runtime.workspace_mib": [0, 1.5, "64"],
    "lineage.files": [["model.onnx"], {"../model.onnx": "ab"}, {"/etc/passwd": "ab"}, {"model.onnx": 3}, {"a\x00": ""}],
    "lineage.parent": [3],
    "lineage.recipe": [["x"]],
    "lineage.candidates": [{"a": 1}, [3]],
    "quality.images": [-1, 1.5],
    "quality.top1": [1.1, -0.1, "good"],
    "quality.agreement": [2, "all"],
    "quality.max_score_difference": [-1],
    "quality.latency_ms": [-1],
    "quality.recommended": ["yes", 1],
    "io": [{"input": {}, "output": {}}, ["x"]],
}
"""Single fields and what they must not be."""


def edited(path: str, value: object) -> dict:
    record = json.loads(json.dumps(CARD.to_json()))
    *outer, name = path.split(".")
    inner = record
    for key in outer:
        inner = inner[key]
    inner[name] = value
    return record


@pytest.mark.parametrize(
    ("path", "value"), [(path, value) for path, values in WRONG.items() for value in values], ids=repr
)
def test_a_wrong_value_is_named_with_its_field(tmp_path: Path, path: str, value: object):
    (tmp_path / "card.json").write_text(json.dumps(edited(path, value)))
    with pytest.raises(ArtifactError) as caught:
        read_card(tmp_path)
    assert path.rpartition(".")[2] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["confidence.temperature", "confidence.threshold", "quality.top1", "preprocess.crop"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000], ids=lambda value: value[:9])
def test_numbers_that_are_none_are_refused(tmp_path: Path, path: str, value: str):
    (tmp_path / "card.json").write_text(json.dumps(edited(path, "HERE")).replace('"HERE"', value))
    with pytest.raises(ArtifactError, match=r"card\.json"):
        read_card(tmp_path)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "\x00", "\ufeff{}", ""], ids=lambda c: c[:6])
def test_json_that_no_card_is_made_of_is_one_clear_error(tmp_path: Path, content: str):
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"card\.json"):
        read_card(tmp_path)


def test_a_card_that_is_a_pipe_does_not_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "card.json")
    with pytest.raises(ArtifactError, match=r"card\.json cannot be read"):
        read_card(tmp_path)


def test_a_card_from_before_the_kind_of_output_means_logits(tmp_path: Path):
    record = CARD.to_json()
    del record["output"]
    (tmp_path / "card.json").write_text(json.dumps(record))
    assert read_card(tmp_path).output == "logits"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scores", lambda scores: np.full_like(scores, np.nan)),
        ("scores", lambda scores: np.where(scores == scores.max(), np.inf, scores).astype(np.float32)),
        ("scores", lambda scores: scores[:, :5]),
        ("scores", lambda scores: scores[:3]),
        ("scores", lambda scores: scores.astype(np.float64)),
        ("images", lambda images: images[:0]),
        ("images", lambda images: images[:, :16]),
        ("images", lambda images: images.astype(np.float32)),
        ("images", lambda _: np.uint8(0)),
    ],
    ids=["nan", "inf", "fewer classes", "fewer images", "float64", "no image", "smaller", "float images", "scalar"],
)
def test_golden_inputs_that_do_not_fit_the_card_prove_nothing(
    trained: Artifact, copy_of: Callable[[Artifact], Path], name: str, change: Callable[[np.ndarray], np.ndarray]
):
    path = copy_of(trained)
    golden = Golden.read(path)
    Golden(**{"images": golden.images, "scores": golden.scores, name: change(getattr(golden, name))}).write(path)
    with pytest.raises(ArtifactError, match=r"golden\.npz"):
        Golden.read(path, trained.card)


def test_a_bundle_that_agrees_less_than_its_card_claims_fails_though_its_scores_may_differ(
    bundle: Callable[[str, str], Artifact], copy_of: Callable[[Artifact], Path]
):
    artifact = bundle("onnx", "fp32")
    path = copy_of(artifact)
    golden = Golden.read(path)
    Golden(golden.images, np.roll(golden.scores, 1, axis=1)).write(path)
    write_card(replace(artifact.card, quality=replace(artifact.card.quality, max_score_difference=1e9)), path)
    with pytest.raises(VerificationError, match="golden answers agree"):
        verify(Artifact(path, read_card(path)))
    assert verify(artifact).agreement == 1.0


def test_an_imported_network_from_before_the_kind_of_output_is_to_be_imported_again(tmp_path: Path):
    record = {**CARD.to_json(), "arch": "imported"}
    del record["output"]
    (tmp_path / "card.json").write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="import the network again"):
        read_card(tmp_path)


@pytest.mark.parametrize("value", ["1e999", "[" * 70 + "]" * 70, "NaN"], ids=["infinite", "deep", "nan"])
def test_what_is_passed_on_as_it_is_can_be_written_again(tmp_path: Path, value: str):
    (tmp_path / "card.json").write_text(json.dumps(edited("lineage.recipe", {"a": "HERE"})).replace('"HERE"', value))
    with pytest.raises(ArtifactError, match=r"card\.json"):
        read_card(tmp_path)
