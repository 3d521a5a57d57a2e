"""Frames worth a look: which are kept, how many, and that nothing else suffers."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgecls
from edgecls.artifact.golden import Golden
from edgecls.artifact.reference import REFERENCE_FILE, Reference
from edgecls.errors import UsageError
from edgecls.imaging.opencv import cv2
from edgecls.runtime.store import Artifact
from edgecls.streaming.config import EACH_FRAME, KeepConfig, LoopConfig, StreamConfig
from edgecls.streaming.loop import Stream, Summary
from edgecls.streaming.run import stream
from edgecls.streaming.sinks.keep import KeepSink
from edgecls.streaming.sources import open_source


@pytest.fixture(scope="module")
def video(bundle: Callable[[str, str], Artifact], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four digits for 40 frames each, with a camera's noise, then noise alone: two for 40 frames each."""
    images = Golden.read(bundle("onnx", "fp32").path).images[:4]
    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("video") / "digits.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (128, 128))
    strange = [generator.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(2)]
    for image in (*images, *strange):
        large = cv2.resize(image[:, :, ::-1], (128, 128), interpolation=cv2.INTER_CUBIC)
        for _ in range(40):
            writer.write(np.clip(large + generator.normal(0, 2, large.shape), 0, 255).astype(np.uint8))
    writer.release()
    return path


def run(model: Artifact, video: Path, pool: Path, reasons: tuple[str, ...], **settings: Any) -> list[dict[str, Any]]:
    """The pool's lines after a stream over the video."""
    keeping = KeepConfig(keep=reasons, keep_to=pool, **settings)
    config = StreamConfig(
        cameras=(f"door={video}",), model=model.path, keeping=keeping, smoothing=EACH_FRAME, max_fps=80
    )
    summary = stream(config)
    assert summary.decided == 240
    assert not any(sink.failed for sink in summary.sinks)
    index = pool / "pool.jsonl"
    return [json.loads(line) for line in index.read_text().splitlines()] if index.exists() else []


def test_what_is_unknown_is_kept_once_for_each_thing(
    bundle: Callable[[str, str], Artifact], video: Path, tmp_path: Path
):
    rows = run(bundle("onnx", "int8"), video, tmp_path / "pool", ("unknown",))
    strange = [row for row in rows if row["frame"] >= 160]
    assert 1 <= len(strange) <= 8  # of 80 frames
    assert len(rows) - len(strange) <= 2
    for row in rows:
        assert row["reasons"] == ["unknown"]
        assert not row["unknown"]  # which was not to be said
        assert row["novelty"] > 1
        assert row["camera"] == "door"
        assert row["label"] is None
        assert row["best"] == row["scores"][0][0]
        picture = cv2.imread(str(tmp_path / "pool" / row["path"]))
        assert picture.shape == (128, 128, 3)


def test_changes_of_the_decision_are_kept(bundle: Callable[[str, str], Artifact], video: Path, tmp_path: Path):
    rows = run(bundle("openvino", "fp32"), video, tmp_path / "pool", ("changed",))
    assert {row["reasons"][0] for row in rows} == {"changed"}
    assert 1 <= len(rows) <= 20


def test_a_random_sample_is_exempt_from_budgets_and_likeness(
    bundle: Callable[[str, str], Artifact], video: Path, tmp_path: Path
):
    rows = run(bundle("onnx", "int8"), video, tmp_path / "pool", ("sample=0.5",), keep_per_hour=1)
    assert 60 < len(rows) < 180
    assert all(row["reasons"] == ["sample"] for row in rows)


def test_an_hours_budget_holds(bundle: Callable[[str, str], Artifact], video: Path, tmp_path: Path):
    assert len(run(bundle("onnx", "int8"), video, tmp_path / "pool", ("unknown",), keep_per_hour=1)) <= 10  # classes


def test_a_model_without_a_record_keeps_by_small_copies(
    bundle: Callable[[str, str], Artifact], copy_of: Callable[[Artifact], Path], video: Path, tmp_path: Path
):
    path = copy_of(bundle("onnx", "int8"))
    (path / REFERENCE_FILE).unlink()
    artifact = Artifact(path, bundle("onnx", "int8").card)
    with pytest.raises(UsageError, match="export again"):
        run(artifact, video, tmp_path / "pool", ("unknown",))
    rows = run(artifact, video, tmp_path / "pool", ("changed",))
    assert len({row["frame"] // 40 for row in rows}) == len(rows)  # each thing once


class Frames(KeepSink):
    """Takes the pool away in the middle."""

    def write(self, *arguments: Any) -> None:
        if arguments[0].index == 80:
            shutil.rmtree(self.pool.folder)
        super().write(*arguments)


def streamed(artifact: Artifact, video: Path, sink: KeepSink) -> Summary:
    with edgecls.load(artifact.path, tensors=("embedding",), unknown=True) as model:
        source = open_source(str(video), None)
        return Stream([source], model, [sink], LoopConfig(smoothing=EACH_FRAME)).run(threading.Event())


def test_a_pool_that_is_taken_away_while_the_stream_runs(
    bundle: Callable[[str, str], Artifact], video: Path, tmp_path: Path
):
    sink = Frames(KeepConfig(keep=("sample=1",), keep_to=tmp_path / "pool"))
    sink.every_frame = True  # files wait for it
    summary = streamed(bundle("onnx", "int8"), video, sink)
    assert summary.decided == 240
    assert summary.sinks[0].error is None
    rows = [json.loads(line) for line in (tmp_path / "pool" / "pool.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == list(range(80, 240))
    assert len(list((tmp_path / "pool").rglob("*.jpg"))) == 160


def test_a_disk_that_refuses_is_told_once_and_the_stream_goes_on(
    bundle: Callable[[str, str], Artifact], video: Path, tmp_path: Path
):
    sink = KeepSink(KeepConfig(keep=("sample=1",), keep_to=tmp_path / "pool"))
    sink.pool.open()
    sink.pool.max_bytes = 1000  # less than one picture
    summary = streamed(bundle("onnx", "int8"), video, sink)
    assert summary.decided == 240
    assert 1 <= summary.sinks[0].failed <= 10  # what waited already
    assert "too few" in str(summary.sinks[0].error)


def test_what_is_called_wrong_is_kept_with_its_label(
    bundle: Callable[[str, str], Artifact], video: Path, tmp_path: Path
):
    artifact = bundle("onnx", "int8")
    sink = Frames(
        KeepConfig(keep_to=tmp_path / "pool"), artifact.card.name, Reference.read(artifact.path, artifact.card)
    )

    class Wrong(Frames):
        def wants(self, decision: Any) -> bool:
            return decision.changed

        def write(self, frame: Any, decision: Any) -> None:
            sink.keep_held(sink.hold(frame, decision), "seven")

    streamed(artifact, video, Wrong(KeepConfig(keep_to=tmp_path / "pool")))
    rows = sink.pool.rows()
    assert rows
    assert {(row["label"], *row["reasons"]) for row in rows} == {("seven", "wrong")}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": ("unsure",)}, "`keep` needs `keep_to`"),
        ({"keep": ("odd",), "keep_to": Path("x")}, "not 'odd'"),
        ({"keep": ("sample=0",), "keep_to": Path("x")}, "a share above 0"),
        ({"keep": ("sample=e",), "keep_to": Path("x")}, "a share above 0"),
        ({"keep": ("sample=2",), "keep_to": Path("x")}, "a share above 0"),
        ({"keep_max_bytes": 10}, "keep_max_bytes"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        KeepConfig(**settings).check()


def test_what_is_unsure_for_the_stream_is_kept_as_such(
    bundle: Callable[[str, str], Artifact], video: Path, tmp_path: Path
):
    config = StreamConfig(
        cameras=(f"door={video}",),
        model=bundle("onnx", "fp32").path,
        keeping=KeepConfig(keep=("unsure",), keep_to=tmp_path / "pool"),
        smoothing=replace(EACH_FRAME, min_confidence=0.999999),
    )
    stream(config)
    rows = [json.loads(line) for line in (tmp_path / "pool" / "pool.jsonl").read_text().splitlines()]
    assert rows
    assert {row["reasons"][0] for row in rows} == {"unsure"}


def test_it_says_where_nothing_can_be_unsure(
    bundle: Callable[[str, str], Artifact], video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run(bundle("onnx", "fp32"), video, tmp_path / "pool", ("unsure",))
    assert "nothing is unsure for this model" in caplog.text
