"""The measurement that people decide by: fresh processes, settings, answers, baselines and the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from edgecls.benchmarking import regression, selection, suite
from edgecls.benchmarking.config import BenchmarkConfig, Constraints
from edgecls.benchmarking.measure import Repetition, Task, measure
from edgecls.benchmarking.regression import compare
from edgecls.benchmarking.statistics import prediction_interval, slowdown
from edgecls.benchmarking.suite import BenchmarkResult, Candidate
from edgecls.cli.benchmark import parse_share
from edgecls.errors import ArtifactError, UsageError
from edgecls.runtime.store import Artifact
from tests.schemas import assert_described

QUICK = BenchmarkConfig(rounds=2, seconds=0.05)


def repetition(p50_ms: float, anchor_ms: float = 1.0, noise: float = 0.02, seed: int = 0) -> Repetition:
    samples = np.random.default_rng(seed).lognormal(np.log(p50_ms), noise, 50).tolist()
    return Repetition(samples, 1000 / p50_ms, 1.0, None, None, 10.0, 5.0, 0.0, 100.0, anchor_ms, 0.0, False)


def measured(
    artifact: Artifact, p50_ms: float, name: str = "onnx-fp32", rounds: int = 8, seed: int = 0, **more
) -> BenchmarkResult:
    """A candidate as if it had been measured; the whole machine is up to 30 % slower in some rounds."""
    generator = np.random.default_rng(seed)
    repetitions = []
    for number in range(rounds):
        pace = generator.uniform(1.0, 1.3)
        repetitions.append(repetition(p50_ms * pace, anchor_ms=pace, seed=100 * seed + number))
    return BenchmarkResult(Candidate(artifact, name, None, 1, 1), 1_000_000, tuple(repetitions), 300.0, **more)


class TestMeasuring:
    def test_each_candidate_is_visited_in_a_fresh_process(self, trained: Artifact, bundle: Callable[..., Artifact]):
        artifacts = [trained, bundle("onnx", "fp32"), bundle("tensorrt", "int8")]
        torch, onnx, tensorrt = suite.run(suite.candidates(artifacts, QUICK), QUICK)
        assert tensorrt.reason is not None or len(tensorrt.repetitions) == 2
        for result in (torch, onnx):
            assert len(result.repetitions) == 2
            assert result.latency.p50_ms <= result.latency.p99_ms <= result.latency.p999_ms
            assert result.cold_start_ms > min(each.load_ms for each in result.repetitions) > 0
        # What one process holds says nothing about another: a runtime without torch is small.
        assert torch.repetitions[0].peak_memory_mb > 2 * onnx.repetitions[0].peak_memory_mb

    def test_settings_multiply(self, bundle: Callable[..., Artifact]):
        config = BenchmarkConfig(threads=(None, 1), batches=(1, 4), streams=(1, None))
        found = suite.candidates([bundle("onnx", "fp32")], config)
        assert len(found) == 8
        assert [each.key for each in found[:3]] == ["onnx-fp32", "onnx-fp32, best streams", "onnx-fp32, batch 4"]
        assert found[-1].key == "onnx-fp32, batch 4, best streams, 1 threads"
        assert [each.is_plain for each in found].count(True) == 1

    @pytest.mark.parametrize(("streams", "batch"), [(1, 1), (2, 1), (None, 4)])
    def test_a_visit_counts_images_not_calls(self, bundle: Callable[..., Artifact], streams: int | None, batch: int):
        found = measure(Task(str(bundle("onnx", "int8").path), None, streams, batch, 0.1))
        assert found.images_per_s * 0.1 == pytest.approx(batch * len(found.samples_ms), rel=0.5)
        assert found.cpu_ms > 0

    def test_a_process_that_dies_is_told(self, bundle: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(suite.sys, "executable", "/bin/false")
        chosen = suite.candidates([bundle("onnx", "fp32")], QUICK)
        with pytest.raises(ArtifactError, match="its process ended with 1"):
            suite.run(chosen, QUICK)

    @pytest.mark.parametrize("values", [{"rounds": 1}, {"seconds": 0}, {"batches": (0,)}, {"streams": (-1,)}])
    def test_values_that_make_no_sense_are_refused(self, values: dict):
        with pytest.raises(UsageError):
            BenchmarkConfig(**values).check()

    def test_what_is_no_number_is_null_in_print_and_file(self, bundle: Callable[..., Artifact], tmp_path: Path):
        """One round, as of a candidate that failed in the second, has no spread."""
        record = {"rows": [measured(bundle("onnx", "fp32"), 1.0, rounds=1).to_json()]}
        suite.write(record, tmp_path / "b.json")
        assert (tmp_path / "b.json").read_text() == suite.as_text(record) + "\n"
        assert json.loads(suite.as_text(record))["rows"][0]["p50_interval_ms"]["high"] is None


class TestIntervals:
    def test_another_run_lies_in_the_interval_as_often_as_it_says(self):
        generator = np.random.default_rng(0)
        inside = 0
        for _ in range(2000):
            first, second = generator.lognormal(0, 0.1, (2, 5))
            inside += prediction_interval(first).contains(float(np.exp(np.log(second).mean())))
        assert inside / 2000 == pytest.approx(0.96, abs=0.02)

    def test_rounds_that_are_all_alike_leave_room_for_drift(self):
        assert prediction_interval([1.0, 1.0, 1.0]).low == pytest.approx(0.97, abs=0.001)

    def test_steady_rounds_give_a_narrow_interval(self):
        assert prediction_interval([1.0, 1.01, 0.99, 1.0]).width < 0.1
        assert prediction_interval([1.0, 2.0, 0.5, 1.0]).width > 1

    def test_a_slowdown_is_told_from_noise(self):
        generator = np.random.default_rng(0)
        before = generator.lognormal(0, 0.03, 10)
        found = slowdown(before, 1.15 * generator.lognormal(0, 0.03, 10))
        assert 0.08 < found.low < found.value < found.high < 0.22


class TestBaseline:
    def compared(self, artifact: Artifact, before: Result, now: Result) -> regression.Change:
        record = {"rows": [before.to_json()]}
        (change,) = compare(json.loads(json.dumps(record)), [now], 0.10, 0.01)
        return change

    def test_a_planted_slowdown_is_flagged_and_an_unchanged_run_is_not(
        self, bundle: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
    ):
        """Ten times each, on a machine whose pace varies by 30 % from round to round."""
        artifact = bundle("onnx", "fp32")
        for seed in range(10):
            monkeypatch.setattr(regression, "repeated", self.one_more(seed))
            before = measured(artifact, 1.0, seed=seed)
            assert self.compared(artifact, before, measured(artifact, 1.15, seed=50 + seed)).slower
            assert not self.compared(artifact, before, measured(artifact, 1.0, seed=80 + seed)).slower

    def one_more(self, seed: int) -> Callable[..., Result]:
        def repeated(result: Result, _seconds: float) -> BenchmarkResult:
            level = float(np.median([np.median(v.samples_ms) / v.anchor_ms for v in result.repetitions]))
            return replace(
                result, repetitions=(*result.repetitions, repetition(level, seed=1000 * seed + len(result.repetitions)))
            )

        return repeated

    def test_nothing_in_common_is_an_error(self, bundle: Callable[..., Artifact]):
        now = measured(bundle("onnx", "fp32"), 1.0, name="other")
        with pytest.raises(UsageError, match="has none of these candidates; it has onnx-fp32"):
            self.compared(bundle("onnx", "fp32"), measured(bundle("onnx", "fp32"), 1.0), now)

    @pytest.mark.parametrize(("text", "value"), [("10%", 0.1), ("0.25", 0.25), ("5 %", 0.05)])
    def test_shares_are_read(self, text: str, value: float):
        assert parse_share(text) == pytest.approx(value)

    @pytest.mark.parametrize("text", ["ten", "0", "-5%", "5000%"])
    def test_other_shares_are_refused(self, text: str):
        with pytest.raises(UsageError, match="`fail_if_slower`"):
            parse_share(text)

    @pytest.mark.parametrize("text", ["", "[]", '{"rows": []}', "{"])
    def test_what_is_no_measurement_is_refused(self, tmp_path: Path, text: str):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(ArtifactError):
            regression.read_baseline(tmp_path / "b.json")

    @pytest.mark.parametrize(
        ("record", "words"),
        [
            ({"rows": []}, "machine must be a JSON object, but is missing"),
            ({"machine": {}, "rows": None}, "rows must be a list"),
            ({"machine": {}, "rows": [3]}, "rows must be a list"),
            ({"machine": {}, "rows": [{"latency": None}]}, r"rows\[0\]\.key must be text"),
            ({"machine": {}, "rows": [{"key": "a", "latency": {}}]}, r"rows\[0\]\.latency\.p50_ms must be"),
            ({"machine": {}, "rows": [{"key": "a", "latency": {"p50_ms": 1}}]}, r"rows\[0\]\.rounds must be"),
            (
                {
                    "machine": {},
                    "rows": [{"key": "a", "latency": {"p50_ms": 1}, "rounds": [{"p10_ms": 1, "anchor_ms": 0}]}],
                },
                r"rows\[0\]\.rounds\[0\]\.anchor_ms must be a number above 0",
            ),
        ],
    )  # fmt: skip
    def test_a_baseline_that_lacks_what_is_compared_is_told_with_the_field(
        self, tmp_path: Path, record: dict, words: str
    ):
        (tmp_path / "b.json").write_text(json.dumps({"schema": suite.SCHEMA, **record}))
        with pytest.raises(ArtifactError, match=words):
            regression.read_baseline(tmp_path / "b.json")


class TestAnswers:
    @pytest.fixture
    def results(self, bundle: Callable[..., Artifact]) -> list[BenchmarkResult]:
        artifact = bundle("onnx", "fp32")
        return [
            measured(artifact, 5.0, "exact", top1=0.95),
            measured(artifact, 2.0, "quick", top1=0.93),
            measured(artifact, 3.0, "beaten", top1=0.92),
            replace(measured(artifact, 1.0, "small", top1=0.80), size_bytes=100_000),
        ]

    def test_the_front_holds_what_nothing_beats_in_both(self, results: list[BenchmarkResult]):
        assert [each.candidate.name for each in selection.pareto(results)] == ["small", "quick", "exact"]

    @pytest.mark.parametrize(
        ("limits", "name"),
        [
            ({}, "small"), ({"min_accuracy": 0.9}, "quick"), ({"min_accuracy": 0.94}, "exact"),
            ({"max_size_mb": 0.5}, "small"), ({"min_accuracy": 0.94, "max_latency_ms": 3.0}, None),
        ],
    )  # fmt: skip
    def test_the_fastest_that_keeps_to_the_limits_is_recommended(self, results, limits: dict, name: str | None):
        best = selection.recommended(results, Constraints(**limits))
        assert (best.candidate.name if best else None) == name

    @pytest.mark.parametrize("limits", [{"max_latency_ms": 0}, {"min_accuracy": 97}, {"max_size_mb": -1}])
    def test_limits_that_make_no_sense_are_refused(self, limits: dict):
        with pytest.raises(UsageError):
            Constraints(**limits).check()


class TestCommand:
    def test_it_measures_recommends_and_writes(
        self, cli: Callable[..., Result], bundle: Callable[..., Artifact], digit_images: Path, tmp_path: Path
    ):
        places = [bundle("onnx", "fp32").path, bundle("onnx", "int8").path]
        quick = ("--rounds", 2, "--seconds", 0.05, "--out", tmp_path)
        result = cli("benchmark", *places, *quick, "--batch", "1,4", "--streams", "1,auto", "--data", digit_images)
        assert result.exit_code == 0, result.output
        assert "fastest verified here: onnx-" in result.stdout
        record = json.loads((tmp_path / "benchmark.json").read_text())
        assert_described("benchmark", record)
        assert len(record["rows"]) == 8
        assert {part["name"] for part in record["selection"]["breakdown"]} == {"onnx-fp32", "onnx-int8"}
        assert set(record["selection"]["breakdown"][0]["steps_ms"]) == {
            "decode", "preprocess", "copy", "inference", "postprocess",
        }  # fmt: skip
        assert record["rows"][0]["top1"] > 0.8
        page = (tmp_path / "benchmark.html").read_text()
        assert page.count("<svg") == 4
        assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
            "http://creativecommons.org", ""
        ).replace("https://matplotlib.org", "")
        assert (tmp_path / "benchmark.png").read_bytes().startswith(b"\x89PNG")

        again_ = cli("benchmark", places[0], "--rounds", 3, "--seconds", 0.1, "--out", tmp_path / "again",
                     "--baseline", tmp_path / "benchmark.json", "--fail-if-slower", "900%")  # fmt: skip
        assert again_.exit_code == 0, again_.output
        assert "against the baseline" in again_.stdout
        against = json.loads((tmp_path / "again" / "benchmark.json").read_text())
        assert_described("benchmark", against)
        assert [change["key"] for change in against["selection"]["changes"]] == ["onnx-fp32"]

        before = record["rows"][0]
        for each in before["rounds"]:
            each["p10_ms"] /= 100
        (tmp_path / "planted.json").write_text(json.dumps({**record, "rows": [before]}))
        slower = cli("benchmark", places[0], *quick, "--baseline", tmp_path / "planted.json", "--fail-if-slower", "10%")
        assert slower.exit_code == 6
        assert "slower than the baseline: onnx-fp32 by" in slower.stderr

    @pytest.mark.parametrize(
        ("options", "code", "words"),
        [
            (("--rounds", 1), 2, "--rounds"), (("--batch", "auto"), 2, "--batch takes numbers"),
            (("--streams", "many"), 2, "--streams takes numbers"), (("--min-accuracy", 97), 2, "--min-accuracy"),
            (("--fail-if-slower", "10%"), 2, "give both"), (("--baseline", "/none.json"), 4, "cannot read"),
            (("--data", "/nowhere"), 3, "there is no"),
        ],
    )  # fmt: skip
    def test_mistakes_are_one_line_before_any_work(
        self, cli: Callable[..., Result], bundle: Callable[..., Artifact], options: tuple, code: int, words: str
    ):
        result = cli("benchmark", bundle("onnx", "fp32").path, *options)
        assert result.exit_code == code
        assert words in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1

    def test_limits_that_nothing_keeps_to_end_with_6(
        self, cli: Callable[..., Result], bundle: Callable[..., Artifact], tmp_path: Path
    ):
        result = cli("benchmark", bundle("onnx", "fp32").path, "--rounds", 2, "--seconds", 0.05, "--out", tmp_path,
                     "--max-size-mb", 0.001)  # fmt: skip
        assert result.exit_code == 6
        assert "no verified bundle that ran here keeps to at most 0.001 MB" in result.stderr
