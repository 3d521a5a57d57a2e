"""What is found out about an artifact after it was made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecls.artifact.card import CARD_FILE, Confidence
from edgecls.artifact.measurements import (
    MEASUREMENTS_FILE,
    Measurements,
    Timing,
    keep_confidence,
    keep_timing,
    read_measurements,
)
from edgecls.errors import ArtifactError
from edgecls.runtime import store
from edgecls.runtime.machine import this_machine
from edgecls.runtime.store import Artifact


def test_each_machine_keeps_its_own(tmp_path: Path):
    assert read_measurements(tmp_path) == Measurements()
    slow, fast = Timing(9.0, 0.7, "2026-01-01"), Timing(1.0, None, "2026-01-02")
    keep_timing(tmp_path, "Pi", slow)
    keep_confidence(tmp_path, Confidence(1.5, 0.8))
    keep_timing(tmp_path, "Xeon", fast)
    assert read_measurements(tmp_path) == Measurements({"Pi": slow, "Xeon": fast}, Confidence(1.5, 0.8))


def test_a_gain_stays_where_float32_was_not_timed_again(tmp_path: Path):
    keep_timing(tmp_path, "Pi", Timing(9.0, 0.7, "2026-01-01"))
    keep_timing(tmp_path, "Pi", Timing(8.0, None, "2026-01-02"))
    assert read_measurements(tmp_path).timings["Pi"] == Timing(8.0, 0.7, "2026-01-02")


def test_processes_that_measure_at_a_time_lose_nothing(tmp_path: Path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom edgecls.artifact.measurements import Timing, keep_timing\n"
        "for number in range(20):\n    keep_timing(Path(sys.argv[1]), f'{sys.argv[2]} {number}', Timing(1.0))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name]) for name in ("a", "b", "c")]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(read_measurements(tmp_path).timings) == 60


def test_damaged_measurements_do_not_make_a_bundle_vanish(
    bundle: Callable[[str, str], Artifact], trained: Artifact, tmp_path: Path
):
    path = tmp_path / "run"
    shutil.copytree(bundle("onnx", "fp32").path.parent.parent, path)
    (path / "bundles" / "onnx-fp32" / MEASUREMENTS_FILE).write_text("nonsense")
    with pytest.raises(ArtifactError, match="delete it and measure again"):
        store.bundles_of(path)


def test_the_card_stays_as_it_is_and_the_artifact_is_what_was_measured(
    bundle: Callable[[str, str], Artifact], copy_of: Callable[[Artifact], Path]
):
    made = bundle("onnx", "int8")
    path = copy_of(made)
    before = (path / CARD_FILE).read_bytes()
    keep_timing(path, this_machine().name, Timing(0.25, 0.5))
    keep_timing(path, "another machine", Timing(99.0, 3.0))
    keep_confidence(path, Confidence(2.0, 0.9))
    card = store.find(path).card
    assert (card.quality.latency_ms, card.quality.gain, card.quality.recommended) == (0.25, 0.5, False)
    assert card.quality.latency_machine == this_machine().name
    assert card.quality.top1 == made.card.quality.top1
    assert card.confidence == Confidence(2.0, 0.9)
    assert (path / CARD_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("nonsense", "delete it and measure again"), ("[]", "must be a JSON object"), ("{}", "schema must be"),
        ({"schema": 2}, "has schema 2, .* pip install --upgrade edgecls"),
        ({"machines": {"a": {"latency_ms": -1, "measured": "now"}}}, "machines.a.latency_ms must be a number"),
        ({"machines": {"a": 1}}, "machines.a must be a JSON object"), ({"machines": 1}, "machines must be"),
        ({"machines": {"a": {"latency_ms": 1, "gain": "x", "measured": "now"}}}, "machines.a.gain must be"),
        ({"confidence": {"temperature": 0}}, "confidence.temperature must be"),
    ],
)  # fmt: skip
def test_a_damaged_file_names_field_and_value(tmp_path: Path, content: object, words: str):
    text = content if isinstance(content, str) else json.dumps({"schema": 1, **content})
    (tmp_path / MEASUREMENTS_FILE).write_text(text)
    with pytest.raises(ArtifactError, match=words):
        read_measurements(tmp_path)
