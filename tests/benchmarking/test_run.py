from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgecls.benchmarking import conditions, suite
from edgecls.benchmarking.config import BenchmarkConfig, TimingConfig
from edgecls.benchmarking.run import gain_over, remember, time_artifacts
from edgecls.errors import UsageError
from edgecls.runtime import store
from edgecls.runtime.store import Artifact

QUICK = TimingConfig(rounds=2, seconds=0.05)


@pytest.fixture
def candidates(trained: Artifact, bundle: Callable[[str, str], Artifact]) -> list[Artifact]:
    return [trained, bundle("onnx", "fp32"), bundle("onnx", "int8"), bundle("tensorrt", "int8")]


def test_each_candidate_is_timed_or_says_why_not(candidates: list[Artifact]):
    rows = time_artifacts(candidates, QUICK)
    assert [row.name for row in rows] == ["torch-fp32", "onnx-fp32", "onnx-int8", "tensorrt-int8"]
    for row in rows:
        assert (row.latency is None) == bool(row.reason)
        assert row.size_bytes > 10_000
        if row.latency:
            assert 0 < row.latency.p50_ms <= row.latency.p90_ms <= row.latency.p99_ms
            assert len(row.round_p50_ms) == 2


def test_the_result_names_the_machine_and_is_json(candidates: list[Artifact], tmp_path: Path):
    config = BenchmarkConfig(rounds=2, seconds=0.05)
    results = suite.run(suite.candidates(candidates[:2], config), config)
    values = suite.record(results, config, conditions.now())
    suite.write(values, tmp_path / "result.json")
    record = json.loads((tmp_path / "result.json").read_text())
    assert record == json.loads(json.dumps(values))
    assert record["machine"]["cores"] >= 1
    assert record["rows"][1]["top1"] == candidates[1].card.quality.top1
    assert "onnxruntime" in record["versions"]


def test_the_fastest_verified_bundle_on_this_machine_is_the_default(
    candidates: list[Artifact], trained: Artifact, monkeypatch: pytest.MonkeyPatch
):
    rows = time_artifacts(candidates, QUICK)
    remember(rows)
    timed = [row for row in rows if row.latency and not row.artifact.is_run]
    fastest = min(timed, key=lambda row: row.latency.p50_ms)
    others = {bundle.path: bundle.card for bundle in store.bundles_of(trained.path)}
    chosen = store.candidates(trained.path)[0]
    assert store.find(fastest.artifact.path).card.quality.latency_ms == fastest.latency.p50_ms
    assert chosen.card.quality.latency_ms == min(
        card.quality.latency_ms
        for path, card in others.items()
        if store.find(path).backend.available() is None and card.quality.recommended is not False
    )
    assert store.candidates(None)[0].path == chosen.path


def test_a_benchmark_beside_float32_renews_the_verdict(bundle: Callable[[str, str], Artifact], tmp_path: Path):
    """Another machine may judge otherwise than the one that built the bundle."""
    places = []
    for precision in ("int8", "fp32"):
        places.append(tmp_path / precision)
        shutil.copytree(bundle("onnx", precision).path, places[-1])
    rows = time_artifacts([store.find(path) for path in places], TimingConfig(rounds=2, seconds=0.05))
    slow = replace(rows[0], round_p50_ms=(3.0, 2.0))
    fast = replace(rows[1], round_p50_ms=(1.0, 1.5))
    assert gain_over(slow, fast) == pytest.approx(0.5)
    remember([slow, fast])
    quality = store.find(places[0]).card.quality
    assert (quality.gain, quality.recommended) == (pytest.approx(0.5), False)
    remember([replace(slow, round_p50_ms=(0.5,)), fast])
    assert store.find(places[0]).card.quality.recommended is True
    assert store.find(places[1]).card.quality.recommended is None


@pytest.mark.parametrize("values", [{"rounds": 0}, {"seconds": 0}, {"threads": 0}])
def test_values_that_make_no_sense_are_refused(values: dict):
    with pytest.raises(UsageError):
        time_artifacts([], TimingConfig(**values))
