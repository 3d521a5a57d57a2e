from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgecls.card import Card, Golden, Lineage, Quality, Runtime, check_files, read_card, write_card
from edgecls.errors import ArtefactError
from edgecls.preprocess import Preprocess
from edgecls.runs import Artefact

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


def test_a_newer_schema_is_refused_with_the_way_out(tmp_path: Path):
    (tmp_path / "card.json").write_text(json.dumps({**CARD.to_json(), "schema": 99}))
    with pytest.raises(ArtefactError, match=r"schema 99.*pip install --upgrade edgecls"):
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
    with pytest.raises(ArtefactError, match=r"card\.json"):
        read_card(tmp_path)


def test_a_folder_without_a_card_is_no_artefact(tmp_path: Path):
    with pytest.raises(ArtefactError, match="neither a run nor a bundle"):
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


def test_a_changed_model_file_is_refused(trained: Artefact, copy_of: Callable[[Artefact], Path]):
    place = copy_of(trained)
    with (place / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x55")
    with pytest.raises(ArtefactError, match="SHA-256 differs"):
        check_files(read_card(place), place)


def test_a_missing_model_file_is_named(trained: Artefact, copy_of: Callable[[Artefact], Path]):
    place = copy_of(trained)
    (place / "model.safetensors").unlink()
    with pytest.raises(ArtefactError, match=r"model\.safetensors is missing"):
        check_files(read_card(place), place)


def test_golden_inputs_hold_every_class_and_the_parents_scores(trained: Artefact):
    golden = Golden.read(trained.place)
    assert golden.images.shape == (16, 32, 32, 3)
    assert golden.scores.shape == (16, 10)
    with trained.open() as session:
        assert abs(session.infer(golden.images) - golden.scores).max() < 1e-4


def test_a_damaged_golden_file_is_an_error(tmp_path: Path):
    (tmp_path / "golden.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ArtefactError, match=r"golden\.npz is missing or damaged"):
        Golden.read(tmp_path)


def test_only_a_trained_run_is_a_parent(trained: Artefact):
    assert trained.card.is_parent
    assert not replace(CARD, lineage=Lineage(parent="cd")).is_parent
