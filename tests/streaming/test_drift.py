"""Whether a camera's pictures move away from those that the model knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgecls.artifact.reference import Reference
from edgecls.data.dataset import open_recorded
from edgecls.imaging.opencv import cv2
from edgecls.runtime.store import Artifact
from edgecls.streaming.config import KeepConfig, SinkConfig, StreamConfig
from edgecls.streaming.drift import BLOCK_S, DriftMonitor
from edgecls.streaming.run import stream
from tests.artifact.test_reference import blobs
from tests.schemas import assert_described


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.recorded(*blobs(400))


def watched(
    reference: Reference, seconds: int, away: float = 0.0, only: int | None = None, seed: int = 1
) -> DriftMonitor:
    monitor = DriftMonitor(reference, 3, 0.01)
    feed(monitor, reference, 0, seconds, away, only, seed)
    return monitor


def feed(
    monitor: DriftMonitor, reference: Reference, begun: int, seconds: int, away: float, only: int | None, seed: int
) -> None:
    logits, embeddings, labels = blobs(4 * seconds, away, seed)
    chosen = [index for index in range(len(labels)) if only is None or labels[index] == only][:seconds]
    for second, index in enumerate(chosen, begun):
        monitor.take(float(second), logits[index], embeddings[index])


def test_what_is_like_the_validation_images_is_no_drift(reference: Reference):
    monitor = watched(reference, 900)
    assert monitor.figures.signs == ()
    assert abs(monitor.figures.embedding - 0.5) < 0.1
    assert monitor.figures.class_shares_psi < 0.1


def test_one_class_alone_is_no_drift_but_a_figure(reference: Reference):
    monitor = watched(reference, 300, only=1)
    assert monitor.figures.signs == ()
    assert monitor.figures.class_shares_psi > 1


def test_what_moves_away_is_seen_and_what_comes_back_too(reference: Reference):
    monitor = watched(reference, 300)
    feed(monitor, reference, 300, 300, 0.8, None, 2)
    assert "embedding" in monitor.figures.signs
    feed(monitor, reference, 600, 600, 0.0, None, 3)
    assert monitor.figures.signs == ()


def test_a_scene_that_stands_still_counts_once(reference: Reference):
    logits, embeddings, _ = blobs(1, away=2.0)
    monitor = DriftMonitor(reference, 3, 0.01)
    counted = [monitor.take(float(second), logits[0], embeddings[0]) for second in range(600)]
    assert sum(counted) == 1
    assert monitor.figures.signs == ()


def test_a_strange_minute_is_no_drift_yet(reference: Reference):
    monitor = watched(reference, 400)
    feed(monitor, reference, 400, int(3 * BLOCK_S), 3.0, None, 5)
    assert monitor.figures.signs == ()


@pytest.mark.parametrize("target", ["onnx", "tensorrt"])
def test_a_reference_of_scores_alone_watches_confidence(target: str, bundle: Callable[[str, str], Artifact]):
    artifact = bundle(target, "fp32")
    reference = Reference.read(artifact.path, artifact.card)
    assert reference is not None
    monitor = DriftMonitor(reference, 10, 0.01)
    generator = np.random.default_rng(0)
    for second in range(300):
        flat = generator.normal(0, 0.1, 10).astype(np.float32)
        embedding = generator.normal(0, 9, reference.center.size).astype(np.float32) if reference.center.size else None
        monitor.take(float(second), flat, embedding)
    assert "confidence" in monitor.figures.signs


def test_a_stream_of_darkened_pictures_tells_its_sinks(
    bundle: Callable[[str, str], Artifact], trained: Artifact, tmp_path: Path
):
    dataset = open_recorded(trained.path)
    path = tmp_path / "dark.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 1.0, (64, 64))
    for sample in dataset.splits["test"][:200]:
        image = cv2.resize(dataset.source.read(sample.key), (64, 64))
        writer.write(255 - cv2.GaussianBlur(image, (0, 0), 3))
    writer.release()
    config = StreamConfig(
        cameras=(f"door={path}",), model=bundle("onnx", "int8").path, max_fps=100,
        sinks=SinkConfig(events=tmp_path / "events.jsonl"),
        keeping=KeepConfig(keep=("drifted",), keep_to=tmp_path / "pool"),
    )  # fmt: skip
    summary = stream(config)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    drifts = [event for event in events if event["kind"] == "drift"]
    assert drifts
    for event in events:
        assert_described("event", event)
    assert "embedding" in drifts[0]["signs"]
    assert drifts[0]["camera"] == "door"
    assert 1 <= len(drifts[0]["strangest"]) <= 6
    assert summary.cameras[0].drift is not None
    assert summary.cameras[0].drift.embedding > 0.75
    rows = [json.loads(line) for line in (tmp_path / "pool" / "pool.jsonl").read_text().splitlines()]
    assert {row["reasons"][0] for row in rows} == {"drifted"}
