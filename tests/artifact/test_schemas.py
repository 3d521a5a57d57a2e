"""The published schemas and the program: what it writes is described, what it refuses to read is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator
from typer.testing import Result

import edgecls
from edgecls.artifact import card, measurements
from edgecls.artifact.card import Card, Confidence, read_card
from edgecls.artifact.golden import Golden
from edgecls.artifact.measurements import MEASUREMENTS_FILE, Measurements, Timing, keep_confidence, keep_timing
from edgecls.artifact.schemas import NAMES, schema
from edgecls.artifact.terms import Output, Precision
from edgecls.benchmarking import conditions, regression, suite
from edgecls.benchmarking.config import BenchmarkConfig
from edgecls.errors import ArtifactError, UsageError
from edgecls.fields import parse_json
from edgecls.imaging.preprocess import Interpolation, Resize
from edgecls.importers.config import ImportConfig
from edgecls.importers.model import import_model
from edgecls.runtime.store import Artifact
from edgecls.streaming.config import EACH_FRAME, LoopConfig
from edgecls.streaming.decision import State
from edgecls.streaming.loop import Stream
from edgecls.streaming.sinks.files import EventSink
from edgecls.streaming.sources import open_source
from tests.artifact.test_card import CARD, WRONG, edited
from tests.benchmarking.test_suite import measured
from tests.schemas import allows, assert_described

Cli = Callable[..., Result]


def parts(part: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object in a schema, with its place."""
    if isinstance(part, dict):
        yield path, part
    for key, each in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        yield from parts(each, f"{path}/{key}")


class TestSchemas:
    @pytest.mark.parametrize("name", NAMES)
    def test_each_is_a_schema_of_draft_2020_12_with_a_title(self, name: str):
        found = schema(name)
        Draft202012Validator.check_schema(found)
        assert found["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
        assert found["title"]

    @pytest.mark.parametrize("name", NAMES)
    def test_each_field_is_described(self, name: str):
        for path, part in parts(schema(name)):
            if not any(f"/{word}" in path for word in ("if", "then", "else")):
                for field, each in part.get("properties", {}).items():
                    again = part["properties"].keys() == {"kind"} or (field == "kind" and "$defs" in path)
                    assert "description" in each or again, f"{path}: {field}"

    def test_an_unknown_name_is_an_error_that_names_the_known_ones(self):
        with pytest.raises(UsageError, match="no schema 'car', only card, measurements"):
            schema("car")

    def test_a_schema_that_somebody_changes_stays_as_it_is_for_others(self):
        schema("card")["properties"].clear()
        assert schema("card")["properties"]

    def test_each_names_the_version_that_the_program_writes(self):
        versions = {"card": card.SCHEMA, "measurements": measurements.SCHEMA, "benchmark": suite.SCHEMA}
        for name in NAMES:
            assert schema(name)["$id"] == f"urn:edgecls:{name}:{versions.get(name, 1)}"
        for name, version in versions.items():
            assert schema(name)["properties"]["schema"]["const"] == version

    def test_choices_are_those_of_the_program(self):
        known = schema("card")["properties"]
        geometry = known["preprocess"]["properties"]
        assert tuple(known["precision"]["enum"]) == get_args(Precision)
        assert tuple(known["output"]["enum"]) == (*get_args(Output), None)
        assert tuple(geometry["resize"]["enum"]) == get_args(Resize)
        assert tuple(geometry["interpolation"]["enum"]) == get_args(Interpolation)
        assert schema("event")["$defs"]["state"]["properties"]["state"]["enum"] == [state.value for state in State]
        assert schema("benchmark")["$defs"]["row"]["properties"]["precision"]["enum"] == list(get_args(Precision))

    @pytest.mark.parametrize("name", ["card", "benchmark"])
    def test_a_field_that_the_program_wrote_and_no_schema_described_would_be_noticed(
        self, bundle: Callable[[str, str], Artifact], name: str
    ):
        rows = [measured(bundle("onnx", "fp32"), 1.0)]
        record = CARD.to_json() if name == "card" else suite.record(rows, BenchmarkConfig(), conditions.now())
        assert_described(name, record)
        for path, part in parts(record):
            if path not in ("/lineage/files", "/versions"):  # whose keys are names
                part["undescribed"] = 1
                with pytest.raises(AssertionError):
                    assert_described(name, record)
                del part["undescribed"]


class TestWhatIsWritten:
    def test_the_card_of_a_trained_run(self, trained: Artifact, cli: Cli):
        assert_described("card", json.loads((trained.path / "card.json").read_text()))
        assert_described("card", json.loads(cli("info", trained.path, "--json").stdout))

    def test_the_card_of_an_imported_run(self, trained: Artifact, digit_images: Path, tmp_path: Path):
        names = tmp_path / "classes.txt"
        names.write_text("\n".join(trained.card.classes))
        config = ImportConfig(
            file=trained.path / "model.safetensors", arch="simple_cnn", classes=names, data=str(digit_images),
            out=tmp_path / "run",
        )  # fmt: skip
        assert import_model(config).card.quality.top1 is not None
        assert_described("card", json.loads((tmp_path / "run" / "card.json").read_text()))

    @pytest.mark.parametrize(
        ("target", "precision"),
        [("onnx", "fp32"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "int8"), ("tensorrt", "int8")],
    )
    def test_the_card_of_a_bundle_and_the_one_inside_its_model_file(
        self, bundle: Callable[[str, str], Artifact], target: str, precision: str
    ):
        artifact = bundle(target, precision)
        assert_described("card", json.loads((artifact.path / "card.json").read_text()))
        assert_described("card", json.loads(artifact.card.embedded()))
        if precision == "int8":
            assert artifact.card.lineage.recipe
            assert artifact.card.lineage.calibration
            assert artifact.card.lineage.candidates

    def test_measurements(self, tmp_path: Path):
        keep_timing(tmp_path, "Pi", Timing(9.0, 0.7))
        keep_timing(tmp_path, "Xeon", Timing(1.0))
        assert_described("measurements", json.loads((tmp_path / MEASUREMENTS_FILE).read_text()))
        keep_confidence(tmp_path, Confidence(1.5, 0.8))
        assert_described("measurements", json.loads((tmp_path / MEASUREMENTS_FILE).read_text()))

    def test_a_benchmark_that_is_printed_and_what_it_leaves_beside_the_card(
        self, cli: Cli, bundle: Callable[[str, str], Artifact], copy_of: Callable[[Artifact], Path], tmp_path: Path
    ):
        path = copy_of(bundle("onnx", "int8"))
        result = cli("benchmark", path, "--rounds", 2, "--seconds", 0.05, "--out", tmp_path, "--json")
        assert result.exit_code == 0, result.output
        assert result.stdout == (tmp_path / "benchmark.json").read_text()
        assert_described("benchmark", json.loads(result.stdout))
        assert_described("measurements", json.loads((path / MEASUREMENTS_FILE).read_text()))

    def test_a_benchmark_with_candidates_that_could_not_be_timed_or_not_to_the_end(
        self, bundle: Callable[[str, str], Artifact]
    ):
        once = measured(bundle("onnx", "fp32"), 1.0, rounds=1, reason="it ended")
        never = replace(once, repetitions=(), cold_start_ms=None)
        record = suite.record([once, never], BenchmarkConfig(streams=(1, None)), conditions.now())
        assert_described("benchmark", json.loads(suite.as_text(record)))

    @pytest.fixture
    def model(self, bundle: Callable[[str, str], Artifact]) -> Iterator[edgecls.Classifier]:
        with edgecls.load(bundle("onnx", "fp32").path) as model:
            yield model

    @pytest.mark.parametrize("camera", ["demo", "digits"])
    def test_events_of_a_stream(self, camera: str, model: edgecls.Classifier, digit_images: Path, tmp_path: Path):
        source = open_source("demo" if camera == "demo" else str(digit_images), Golden.read(model.path))
        config = LoopConfig(smoothing=EACH_FRAME, snapshots=tmp_path / "snapshots", frames=30)
        lines = tmp_path / "events.jsonl"
        Stream([source], model, [EventSink(lines)], config).run(threading.Event())
        events = [json.loads(line) for line in lines.read_text().splitlines()]
        for event in events:
            assert_described("event", event)
        assert {event["kind"] for event in events} == {"event_ended", "state"}
        assert {event["state"] for event in events if event["kind"] == "state"} == {"live"}
        assert all(Path(event["snapshot"]).is_file() for event in events if event["kind"] == "event_ended")

    @pytest.mark.parametrize("top", [1, 3, 99])
    @pytest.mark.parametrize("threshold", [0.0, 1.0])
    def test_answers_for_images(
        self, cli: Cli, bundle: Callable[[str, str], Artifact], copy_of: Callable[[Artifact], Path], photos: Path,
        tmp_path: Path, top: int, threshold: float,
    ):  # fmt: skip
        (photos / "dark" / "03.jpg").write_bytes(b"no image")
        path = copy_of(bundle("onnx", "fp32"))
        keep_confidence(path, Confidence(3.0, threshold))
        out = tmp_path / "answers.jsonl"
        printed = cli("predict", photos, "--model", path, "--top", top, "--json")
        assert printed.exit_code == cli("predict", photos, "--model", path, "--top", top, "--out", out).exit_code == 3
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert rows == [json.loads(line) for line in printed.stdout.splitlines()]
        for row in rows:
            assert_described("prediction", row)
        assert sum("error" in row for row in rows) == 1
        assert sum("unsure" in row for row in rows) == (23 if threshold else 0)
        assert {len(row["top"]) for row in rows if "top" in row} == {min(top, 10)}


BEYOND_JSON_SCHEMA: list[tuple[str, object]] = [
    # JSON Schema cannot compare the numbers of a list, nor one field with another, and takes 48.0 for a whole number.
    ("runtime.batch", [3, 2, 1]),
    ("preprocess.height_px", 48.0),
    ("preprocess.width_px", 63),
    ("classes", ["a", "b", "c"]),
    ("schema", 2.0),
]
MORE_WRONG: dict[str, list[object]] = {
    "target": ["onnx\n", "é"],
    "classes": [["a", " "], ["a", "b\0"], ["a", "\t\n"], ["a", None]],
    "preprocess.height_px": [8193],
    "preprocess.mean": [[0.5, 0.5, -10001], [0.5, 0.5, None], [0.5] * 4],
    "preprocess.std": [[1, 1, 0.9e-6], [1, 1, 10001], [1, 1, "1"]],
    "preprocess.crop": [-0.0, True],
    "preprocess.color": ["RGB", 0],
    "output": ["", "Logits", True],
    "confidence.temperature": [0.0009, 1001, -1.0],
    "confidence.threshold": [1.0001, False],
    "runtime": [[], "", "onnxruntime", False],
    "runtime.version": [1.0, []],
    "runtime.batch": [[1, 1, 65537], [1, 1, None], [1, 1, 1, 1], {}, [True, 1, 1]],
    "runtime.workspace_mib": [16777217, True],
    "lineage.created": [2026],
    "lineage.files": [{"": "ab"}, {".": "ab"}, {"..": "ab"}, {"a\\b": "ab"}, {"a": None}, "model.onnx"],
    "lineage.parent": ["", []],
    "lineage.data": ["", False],
    "lineage.calibration": ["", 9],
    "lineage.candidates": ["", [None]],
    "quality.split": ["", 1],
    "quality.images": [2**53 + 1, True],
    "quality.top1": [True],
    "quality.macro_f1": [1.1],
    "quality.drop_points": [-100.1, 100.1],
    "quality.drop_interval_points": [-0.1, 200.1],
    "quality.drop_low_points": [-100.1, 100.1, "x"],
    "quality.drop_high_points": [-100.1, 100.1, "x"],
    "quality.note": ["", 1],
    "quality.max_score_difference": [1.1e30],
    "quality.verified_with": [""],
    "quality.latency_ms": [1.1e9],
    "quality.latency_machine": ["", {}],
    "quality.gain": [-0.1, 1e7],
    "io": [{**CARD.to_json()["io"], "more": 1}, {}, "io"],
}
RIGHT: dict[str, list[object]] = {
    "arch": ["timm/resnet18", " "],
    "target": ["torch", "tensorrt_rtx", "a.b-c"],
    "classes": [["a\nb", "ü"]],
    "preprocess.mean": [[0, -10000, 10000]],
    "preprocess.std": [[1e-6, 1, 10000]],
    "preprocess.crop": [1, 1e-9, None],
    "preprocess.color": [None],
    "output": ["probabilities", None],
    "confidence": [None, {}],
    "confidence.temperature": [0.001, 1000, None],
    "confidence.threshold": [0, 1, None],
    "runtime": [None, {}],
    "runtime.name": ["", None],
    "runtime.batch": [[1, 1, 65536], [1.0, 2.0, 2.0], None],
    "runtime.workspace_mib": [1, 16777216],
    "lineage": [None, {}],
    "lineage.created": ["", None],
    "lineage.files": [None, {}, {"a\n": "", "...": "ab"}],
    "lineage.recipe": [None, {"candidate": 3, "anything": []}],
    "lineage.calibration": [None, {"images": None}],
    "lineage.candidates": [None, [], [{"gain": "x"}]],
    "quality": [None, {}],
    "quality.images": [0, 2**53],
    "quality.drop_points": [-100, 100],
    "quality.max_score_difference": [1e30],
    "quality.latency_ms": [0, 1e9],
    "quality.recommended": [True, False],
    "io": [None],
    "later": [1],
}


def reads(record: Any) -> bool:
    """Whether the program takes a record for a card."""
    try:
        Card.from_json(parse_json(json.dumps(record)), "card.json")
    except ArtifactError:
        return False
    return True


def without_io(path: str, value: object) -> dict[str, Any]:
    """The card with a field changed, and without what repeats classes and preprocessing, unless that is changed."""
    record = edited(path, value)
    if path != "io":
        del record["io"]
    return record


def cases(*tables: dict[str, list[object]]) -> list[tuple[str, object]]:
    return [(path, value) for table in tables for path, values in table.items() for value in values]


class TestCards:
    @pytest.mark.parametrize(
        ("path", "value"), [case for case in cases(WRONG, MORE_WRONG) if case not in BEYOND_JSON_SCHEMA], ids=repr
    )
    def test_a_wrong_value_is_refused_by_reader_and_schema(self, path: str, value: object):
        record = without_io(path, value)
        assert not reads(record)
        assert not allows("card", record)

    @pytest.mark.parametrize(("path", "value"), cases(RIGHT), ids=repr)
    def test_an_unusual_value_is_taken_by_reader_and_schema(self, path: str, value: object):
        record = without_io(path, value)
        assert reads(record)
        assert allows("card", record)

    @pytest.mark.parametrize(("path", "value"), BEYOND_JSON_SCHEMA, ids=repr)
    def test_what_json_schema_cannot_say_is_refused_by_the_reader_alone(self, path: str, value: object):
        record = edited(path, value)
        assert not reads(record)
        assert allows("card", record)

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
    def test_what_is_no_number_gets_past_no_json_parser_that_refuses_it(self, number: str):
        """A validator sees values, not text: Python's would compare NaN with the bounds, and find nothing wrong."""
        text = json.dumps(edited("quality.top1", "HERE")).replace('"HERE"', number)
        with pytest.raises(ValueError, match="no JSON number"):
            parse_json(text)

    @pytest.mark.parametrize("output", [None, "missing", "logits", "probabilities"])
    def test_an_imported_network_must_say_what_its_scores_are(self, output: str | None):
        record = {**edited("arch", "imported"), "output": output}
        if output == "missing":
            del record["output"]
        assert reads(record) == allows("card", record) == (output in get_args(Output))

    @pytest.mark.parametrize("name", list(CARD.to_json()))
    def test_what_may_be_missing_is_the_same_for_reader_and_schema(self, name: str):
        for record in (CARD.to_json(), *([CARD.to_json()[name]] if isinstance(CARD.to_json()[name], dict) else [])):
            whole = CARD.to_json()
            if record.keys() == whole.keys():
                del whole[name]
                assert reads(whole) == allows("card", whole)
                continue
            for field in record:
                whole = CARD.to_json()
                del whole[name][field]
                assert reads(whole) == allows("card", whole), field

    def test_a_card_of_version_1_is_read_but_described_by_no_schema_of_today(self, tmp_path: Path):
        (tmp_path / "card.json").write_text(json.dumps({**CARD.to_json(), "schema": 1}))
        assert read_card(tmp_path).schema == 2
        assert not allows("card", {**CARD.to_json(), "schema": 1})
        assert_described("card", read_card(tmp_path).to_json())


TIMING = {"latency_ms": 1.5, "gain": None, "measured": "2026-01-01T00:00:00+00:00"}


class TestMeasurements:
    @pytest.mark.parametrize(
        ("record", "right"),
        [
            ({}, True), ({"machines": None, "confidence": None}, True), ({"machines": {}, "later": 1}, True),
            ({"machines": {"": TIMING}}, True), ({"machines": {"a": {**TIMING, "gain": 1e6, "latency_ms": 0}}}, True),
            ({"confidence": {}}, True), ({"confidence": {"temperature": 1000, "threshold": 1}}, True),
            ({"schema": 0}, False), ({"schema": None}, False), ({"schema": "1"}, False), ({"schema": True}, False),
            ({"schema": 2}, False), ({"machines": []}, False), ({"machines": 1}, False),
            ({"machines": {"a": None}}, False),
            ({"machines": {"a": {}}}, False), ({"machines": {"a": [TIMING]}}, False),
            ({"machines": {"a": {**TIMING, "latency_ms": None}}}, False),
            ({"machines": {"a": {**TIMING, "latency_ms": -1}}}, False),
            ({"machines": {"a": {**TIMING, "latency_ms": 1.1e9}}}, False),
            ({"machines": {"a": {**TIMING, "latency_ms": True}}}, False),
            ({"machines": {"a": {**TIMING, "gain": "x"}}}, False),
            ({"machines": {"a": {**TIMING, "gain": 1e7}}}, False),
            ({"machines": {"a": {**TIMING, "measured": ""}}}, False),
            ({"machines": {"a": {**TIMING, "measured": 2026}}}, False),
            ({"confidence": []}, False), ({"confidence": {"temperature": 0}}, False),
            ({"confidence": {"temperature": -1}}, False), ({"confidence": {"threshold": 1.1}}, False),
        ],
    )  # fmt: skip
    def test_reader_and_schema_refuse_the_same(self, record: dict[str, Any], right: bool):
        whole = {"schema": 1, **record}
        assert allows("measurements", whole) == right
        if right:
            Measurements.from_json(whole, "measurements.json")
            return
        with pytest.raises(ArtifactError):
            Measurements.from_json(whole, "measurements.json")


class TestBaselines:
    """A baseline's reader looks at what it compares and at nothing else: it takes more than the schema allows."""

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (["schema"], 1), (["machine"], None), (["machine"], []), (["rows"], None), (["rows"], {}), (["rows"], [3]),
            (["rows", 0, "key"], ""), (["rows", 0, "key"], None), (["rows", 0, "latency"], 3),
            (["rows", 0, "latency", "p50_ms"], -1), (["rows", 0, "latency", "p50_ms"], "1"),
            (["rows", 0, "rounds"], []), (["rows", 0, "rounds"], None), (["rows", 0, "rounds", 0], 1),
            (["rows", 0, "rounds", 0, "p10_ms"], 0), (["rows", 0, "rounds", 0, "p10_ms"], None),
            (["rows", 0, "rounds", 0, "anchor_ms"], 0), (["rows", 0, "rounds", 0, "anchor_ms"], True),
        ],
    )  # fmt: skip
    def test_what_the_reader_refuses_the_schema_refuses(
        self, bundle: Callable[[str, str], Artifact], tmp_path: Path, path: list[Any], value: object
    ):
        result = measured(bundle("onnx", "fp32"), 1.0)
        whole = json.loads(suite.as_text(suite.record([result], BenchmarkConfig(), conditions.now())))
        assert allows("benchmark", whole)
        (tmp_path / "b.json").write_text(json.dumps(whole))
        assert regression.read_baseline(tmp_path / "b.json") == whole
        inner: Any = whole
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        assert not allows("benchmark", whole)
        (tmp_path / "b.json").write_text(json.dumps(whole))
        with pytest.raises(ArtifactError):
            regression.read_baseline(tmp_path / "b.json")


EVENT = {
    "kind": "event_ended", "id": "door-1", "camera": "door", "label": "cat", "started": "2026-01-01T00:00:00+00:00",
    "start_s": 0.0, "end_s": 1.0, "first_frame": 0, "last_frame": 9, "frames": 10, "score": 0.9,
    "ended": "2026-01-01T00:00:01+00:00", "snapshot": None,
}  # fmt: skip
STATE = {"kind": "state", "camera": "door", "state": "live", "at": "2026-01-01T00:00:00+00:00", "reason": ""}
ANSWER = {"image": "a.jpg", "label": "cat", "score": 0.9, "top": [{"label": "cat", "score": 0.9}]}


class TestWhatIsNot:
    @pytest.mark.parametrize(
        "change",
        [{"kind": "state"}, {"kind": "event_started"}, {"ended": None}, {"frames": 0}, {"score": 1.1}, {"kind": 1}],
    )  # fmt: skip
    def test_an_event_that_no_stream_tells(self, change: dict[str, Any]):
        assert allows("event", EVENT)
        assert allows("event", {**EVENT, "kind": "event_started", "ended": None})
        assert not allows("event", {**EVENT, **change})

    @pytest.mark.parametrize("change", [{"kind": "event_ended"}, {"state": "asleep"}, {"at": None}, {"camera": 0}])
    def test_a_state_that_no_camera_has(self, change: dict[str, Any]):
        assert allows("event", STATE)
        assert not allows("event", {**STATE, **change})

    @pytest.mark.parametrize(
        "change",
        [{"error": "broken"}, {"top": []}, {"score": None}, {"unsure": False}, {"unsure": True}, {"label": ""}],
    )  # fmt: skip
    def test_an_answer_that_nobody_gives(self, change: dict[str, Any]):
        assert allows("prediction", ANSWER)
        assert allows("prediction", {"image": "a.jpg", "error": "a.jpg is not an image"})
        assert not allows("prediction", {**ANSWER, **change})
