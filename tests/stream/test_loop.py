from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import edgecls
from edgecls import backends
from edgecls.card import Golden
from edgecls.errors import OutputError, UsageError
from edgecls.opencv import cv2
from edgecls.runs import Artefact
from edgecls.stream.decision import Decision
from edgecls.stream.loop import StreamConfig, run_stream
from edgecls.stream.sinks import EventSink, Sink, VideoSink, annotated
from edgecls.stream.sources import Frame, open_source


class Remembering(Sink):
    def __init__(self) -> None:
        self.frames: list[int] = []
        self.decisions: list[Decision] = []
        self.closed = False

    def write(self, frame: Frame, decision: Decision) -> None:
        self.frames.append(frame.index)
        self.decisions.append(decision)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(params=["onnx", "openvino"])
def classifier(request: pytest.FixtureRequest, bundle: Callable[[str, str], Artefact]) -> Iterator[edgecls.Classifier]:
    with edgecls.load(bundle(request.param, "int8").place) as model:
        yield model


@pytest.fixture
def digits_video(trained: Artefact, tmp_path: Path) -> Path:
    """Each golden image for three frames."""
    path = tmp_path / "digits.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (96, 96))
    for image in Golden.read(trained.place).images[:10]:
        large = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (96, 96), interpolation=cv2.INTER_CUBIC)
        for _ in range(3):
            writer.write(large)
    writer.release()
    return path


def run(camera: object, classifier: edgecls.Classifier, *sinks: Sink, **limits):
    with open_source(str(camera), Golden.read(classifier.place)) as source:
        return run_stream(source, classifier, sinks, StreamConfig(**limits), threading.Event())


def test_every_frame_of_a_video_is_decided_in_order_and_right(digits_video: Path, classifier: edgecls.Classifier):
    sink = Remembering()
    summary = run(digits_video, classifier, sink)
    assert sink.frames == list(range(30))
    assert sink.closed
    golden = Golden.read(classifier.place)
    expected = [classifier.card.classes[index] for index in golden.scores[:10].argmax(1)]
    assert [decision.prediction.label for decision in sink.decisions[1::3]] == expected
    assert (summary.decided, summary.captured, summary.dropped) == (30, 30, 0)


def test_a_live_source_is_decided_without_backlog(classifier: edgecls.Classifier):
    sink = Remembering()
    summary = run("demo", classifier, sink, frames=40)
    assert summary.decided == 40
    assert summary.captured - summary.dropped - summary.decided in (0, 1)
    assert summary.age is not None
    assert sink.frames == sorted(set(sink.frames))


def test_a_slow_sink_drops_frames_instead_of_falling_behind(classifier: edgecls.Classifier):
    class Slow(Remembering):
        def write(self, frame: Frame, decision: Decision) -> None:
            super().write(frame, decision)
            time.sleep(0.1)

    sink = Slow()
    summary = run("demo", classifier, sink, frames=12)
    assert summary.dropped >= 11
    assert sink.frames[-1] >= 2 * len(sink.frames)


def test_limits_end_the_stream(classifier: edgecls.Classifier):
    assert run("demo", classifier, frames=3).decided == 3
    assert run("demo", classifier, duration_s=0.3).seconds >= 0.3


@pytest.mark.parametrize("limits", [{"frames": 0}, {"duration_s": 0}])
def test_limits_that_make_no_sense_are_refused(limits: dict):
    with pytest.raises(UsageError):
        StreamConfig(**limits).check()


def test_sinks_are_closed_when_one_of_them_fails(digits_video: Path, classifier: edgecls.Classifier, tmp_path: Path):
    class Failing(Sink):
        def write(self, frame: Frame, decision: Decision) -> None:
            if frame.index == 5:
                raise OutputError("disk full")

    first = Remembering()
    with pytest.raises(OutputError):
        run(digits_video, classifier, first, VideoSink(tmp_path / "seen.mp4", 25.0), Failing())
    assert first.closed
    assert (tmp_path / "seen.mp4").exists()
    assert run(digits_video, classifier).decided == 30


def test_a_recording_is_playable_and_annotated(digits_video: Path, classifier: edgecls.Classifier, tmp_path: Path):
    run(digits_video, classifier, VideoSink(tmp_path / "deep" / "seen.mp4", 25.0))
    with open_source(str(tmp_path / "deep" / "seen.mp4"), None) as seen:
        frames = [frame.image for frame in seen]
    assert len(frames) == 30
    assert frames[0].shape == (96, 96, 3)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["seen.mp4"]


def test_events_tell_each_change_with_start_and_end(digits_video: Path, classifier: edgecls.Classifier, tmp_path: Path):
    run(digits_video, classifier, EventSink(tmp_path / "events.jsonl"))
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert sum(event["frames"] for event in events) == 30
    assert [event["first_frame"] for event in events[1:]] == [event["last_frame"] + 1 for event in events[:-1]]
    assert all(0 < event["mean_score"] <= 1 for event in events)
    assert all(a["label"] != b["label"] for a, b in zip(events, events[1:], strict=False))


def test_a_restarted_stream_adds_to_its_events(digits_video: Path, classifier: edgecls.Classifier, tmp_path: Path):
    for _ in range(2):
        run(digits_video, classifier, EventSink(tmp_path / "events.jsonl"))
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert sum(event["frames"] for event in events) == 60


def test_the_overlay_leaves_the_frame_itself_alone(classifier: edgecls.Classifier):
    image = np.full((240, 320, 3), 120, np.uint8)
    decision = Decision(classifier.predict(image), 1.0, 2.0, 30.0, 10, 0)
    drawn = annotated(image, decision)
    assert (image == 120).all()
    assert (drawn[:150] == 120).all()
    assert (drawn[200:] != 120).any()


@pytest.mark.parametrize("path", ["seen.gif", "seen"])
def test_a_recording_needs_a_known_suffix(tmp_path: Path, path: str):
    with pytest.raises(UsageError, match="--record takes a"):
        VideoSink(tmp_path / path, 25.0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_stream_cleanly(bundle: Callable[[str, str], Artefact], tmp_path: Path, number, code):
    video, events = tmp_path / "seen.mp4", tmp_path / "seen.jsonl"
    command = [
        sys.executable,
        "-m",
        "edgecls",
        "stream",
        "--camera",
        "demo",
        "--model",
        str(bundle("onnx", "int8").place),
    ]
    process = subprocess.Popen(
        [*command, "--record", str(video), "--events", str(events)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "frames/s" in out
    with open_source(str(video), None) as seen:
        assert len(list(seen)) >= 5
    assert json.loads(events.read_text().splitlines()[-1])["frames"] > 0


def test_every_backend_that_runs_here_can_stream(bundle: Callable[[str, str], Artefact], digits_video: Path):
    for name, backend in backends.exportable().items():
        if backend.available() is None:
            with edgecls.load(bundle(name, "fp32").place) as model:
                assert run(digits_video, model).decided == 30
