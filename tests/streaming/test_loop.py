from __future__ import annotations

import csv
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
from edgecls.artifact.golden import Golden
from edgecls.errors import OutputError, UsageError
from edgecls.imaging.opencv import cv2
from edgecls.runtime.store import Artifact
from edgecls.streaming.config import EACH_FRAME, CameraOptions, CaptureFormat, LoopConfig
from edgecls.streaming.decision import Decision, Event, Health, StateChange
from edgecls.streaming.frames import Frame
from edgecls.streaming.loop import Stream, Summary
from edgecls.streaming.sinks.base import Sink
from edgecls.streaming.sinks.files import EventSink, LogSink, SnapshotSink, VideoSink
from edgecls.streaming.sinks.picture import annotated
from edgecls.streaming.sources import Source, open_source
from tests.streaming.cameras import until


class Remembering(Sink):
    every_frame = True
    queue = 1000

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.states: list[StateChange] = []
        self.frames: list[int] = []
        self.decisions: list[Decision] = []
        self.closed = False

    def write(self, frame: Frame, decision: Decision) -> None:
        self.frames.append(frame.index)
        self.decisions.append(decision)

    def event(self, event: Event) -> None:
        self.events.append(event)

    def state(self, change: StateChange) -> None:
        self.states.append(change)

    def close(self) -> None:
        self.closed = True


@pytest.fixture(params=["onnx", "openvino"])
def classifier(request: pytest.FixtureRequest, bundle: Callable[[str, str], Artifact]) -> Iterator[edgecls.Classifier]:
    with edgecls.load(bundle(request.param, "int8").path) as model:
        yield model


@pytest.fixture
def digits_video(trained: Artifact, tmp_path: Path) -> Path:
    """Each golden image for three frames."""
    path = tmp_path / "digits.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (96, 96))
    for image in Golden.read(trained.path).images[:10]:
        large = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (96, 96), interpolation=cv2.INTER_CUBIC)
        for _ in range(3):
            writer.write(large)
    writer.release()
    return path


def running(sources: list[Source], classifier: edgecls.Classifier, *sinks: Sink, **config) -> Summary:
    config.setdefault("smoothing", EACH_FRAME)
    return Stream(sources, classifier, sinks, LoopConfig(**config)).run(threading.Event())


def run(camera: object, classifier: edgecls.Classifier, *sinks: Sink, **config) -> Summary:
    return running([open_source(str(camera), Golden.read(classifier.path))], classifier, *sinks, **config)


def test_every_frame_of_a_video_is_decided_in_order_and_right(digits_video: Path, classifier: edgecls.Classifier):
    sink = Remembering()
    summary = run(digits_video, classifier, sink)
    assert sink.frames == list(range(30))
    assert sink.closed
    golden = Golden.read(classifier.path)
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


def test_a_slow_sink_never_slows_a_live_stream_down(classifier: edgecls.Classifier):
    class Slow(Remembering):
        queue = 2
        accepts_events = False

        def open(self, health: Callable[[], Health]) -> None:
            self.health = health

        def write(self, frame: Frame, decision: Decision) -> None:
            super().write(frame, decision)
            until(lambda: self.health().cameras[0].decided >= 30)  # the stream does not wait for it

    sink = Slow()
    summary = run("demo", classifier, sink, frames=30)
    assert summary.decided == 30
    assert len(sink.frames) <= 4
    assert summary.sinks[0].lost + summary.sinks[0].written == 30


def test_a_slow_sink_that_wants_every_frame_of_a_file_gets_it(digits_video: Path, classifier: edgecls.Classifier):
    class Slow(Remembering):
        def write(self, frame: Frame, decision: Decision) -> None:
            super().write(frame, decision)
            time.sleep(0.01)

    sink = Slow()
    assert run(digits_video, classifier, sink).sinks[0].lost == 0
    assert sink.frames == list(range(30))


def test_limits_end_the_stream(classifier: edgecls.Classifier):
    assert run("demo", classifier, frames=3).decided == 3
    assert run("demo", classifier, duration_s=0.3).seconds >= 0.3


@pytest.mark.parametrize("limits", [{"frames": 0}, {"duration_s": 0}])
def test_limits_that_make_no_sense_are_refused(limits: dict):
    with pytest.raises(UsageError):
        LoopConfig(**limits).check()


def test_a_failing_sink_stops_neither_inference_nor_the_others(
    digits_video: Path, classifier: edgecls.Classifier, tmp_path: Path
):
    class Failing(Sink):
        name = "failing"
        accepts_events = False
        every_frame = True

        def write(self, frame: Frame, decision: Decision) -> None:
            if frame.index % 2:
                raise OutputError("disk full")

    first = Remembering()
    video = VideoSink(tmp_path / "seen.mp4", [source := open_source(str(digits_video), None)])
    summary = running([source], classifier, first, video, Failing())
    assert summary.decided == 30
    assert first.frames == list(range(30))
    assert first.closed
    assert (tmp_path / "seen.mp4").exists()
    failing = summary.sinks[2]
    assert (failing.written, failing.failed, failing.error) == (15, 15, "disk full")


def test_a_sink_that_cannot_begin_ends_the_stream_before_it_begins(digits_video: Path, classifier: edgecls.Classifier):
    first = Remembering()
    with pytest.raises(OutputError, match="cannot write /proc"):
        run(digits_video, classifier, first, EventSink(Path("/proc/nothing/events.jsonl")))
    assert first.closed
    assert run(digits_video, classifier).decided == 30


def test_a_recording_is_playable_and_annotated(digits_video: Path, classifier: edgecls.Classifier, tmp_path: Path):
    source = open_source(str(digits_video), None)
    running([source], classifier, VideoSink(tmp_path / "deep" / "seen.mp4", [source]))
    with open_source(str(tmp_path / "deep" / "seen.mp4"), None) as seen:
        frames = [frame.image for frame in seen]
    assert len(frames) == 30
    assert frames[0].shape == (96, 96, 3)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["seen.mp4"]


def test_a_recording_is_on_the_disk_before_it_has_its_name(
    digits_video: Path, classifier: edgecls.Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    source = open_source(str(digits_video), None)
    running([source], classifier, VideoSink(tmp_path / "seen.mp4", [source]))
    assert synced == [(tmp_path / "seen.mp4").stat().st_ino, tmp_path.stat().st_ino]


def test_a_recording_that_cannot_have_its_name_keeps_no_other_from_its_own(
    digits_video: Path, classifier: edgecls.Classifier, tmp_path: Path
):
    sources = [open_source(f"{name}={digits_video}", None) for name in ("a", "b", "c")]
    (tmp_path / "seen-b.mp4").mkdir()
    summary = running(sources, classifier, VideoSink(tmp_path / "seen.mp4", sources))
    assert "seen-b.mp4" in str(summary.sinks[0].error)
    assert (tmp_path / "seen-a.mp4").is_file()
    assert (tmp_path / "seen-c.mp4").is_file()


def test_a_minute_of_a_live_source_lasts_a_minute_in_its_recording(classifier: edgecls.Classifier, tmp_path: Path):
    source = open_source("demo", Golden.read(classifier.path))
    running([source], classifier, VideoSink(tmp_path / "seen.mp4", [source]), duration_s=2.0, max_fps=5)
    with open_source(str(tmp_path / "seen.mp4"), None) as seen:
        assert len(list(seen)) == pytest.approx(60, abs=15)


def test_a_long_recording_comes_in_segments(classifier: edgecls.Classifier, tmp_path: Path):
    source = open_source("demo", Golden.read(classifier.path))
    running([source], classifier, VideoSink(tmp_path / "seen.mp4", [source], segment_s=1.0), duration_s=3.5)
    assert len(list(tmp_path.glob("seen-*.mp4"))) >= 3
    assert not list(tmp_path.glob(".*"))


def test_a_recording_ends_while_it_can_when_the_disk_is_full(
    digits_video: Path, classifier: edgecls.Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = open_source(str(digits_video), None)
    video = VideoSink(tmp_path / "seen.mp4", [source])
    free = iter([10**9] * 10 + [0] * 100)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": next(free)}))
    summary = running([source], classifier, video)
    assert summary.decided == 30
    assert "is full" in str(summary.sinks[0].error)
    with open_source(str(tmp_path / "seen.mp4"), None) as seen:
        assert len(list(seen)) == 10


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_the_log_has_a_line_for_each_frame(
    digits_video: Path, classifier: edgecls.Classifier, tmp_path: Path, suffix: str
):
    run(digits_video, classifier, LogSink(tmp_path / f"log{suffix}"))
    lines = (tmp_path / f"log{suffix}").read_text().splitlines()
    if suffix == ".csv":
        rows = list(csv.DictReader(lines))
    else:
        rows = [json.loads(line) for line in lines]
    assert [int(row["frame"]) for row in rows] == list(range(30))
    assert float(rows[-1]["time_s"]) == pytest.approx(29 / 25, abs=1e-3)


def test_events_tell_each_change_with_start_and_end(digits_video: Path, classifier: edgecls.Classifier, tmp_path: Path):
    run(digits_video, classifier, EventSink(tmp_path / "events.jsonl"))
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    events = [event for event in events if "frames" in event]
    assert sum(event["frames"] for event in events) == 30
    assert [event["first_frame"] for event in events[1:]] == [event["last_frame"] + 1 for event in events[:-1]]
    assert all(0 < event["score"] <= 1 for event in events)
    assert all(a["label"] != b["label"] for a, b in zip(events, events[1:], strict=False))


def test_a_restarted_stream_adds_to_its_events(digits_video: Path, classifier: edgecls.Classifier, tmp_path: Path):
    for _ in range(2):
        run(digits_video, classifier, EventSink(tmp_path / "events.jsonl"))
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert sum(event.get("frames", 0) for event in events) == 60


def test_the_overlay_leaves_the_frame_itself_alone(classifier: edgecls.Classifier):
    image = np.full((240, 320, 3), 120, np.uint8)
    decision = Decision("demo", classifier.predict(image), "seven", 0.8, 1.0, 2.0, 30.0, 10, 0)
    drawn = annotated(image, decision)
    assert (image == 120).all()
    assert (drawn[:150] == 120).all()
    assert (drawn[200:] != 120).any()


@pytest.mark.parametrize("path", ["seen.gif", "seen"])
def test_a_recording_needs_a_known_suffix(tmp_path: Path, path: str):
    with pytest.raises(UsageError, match="`record` takes a"):
        VideoSink(tmp_path / path, [])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_stream_cleanly(bundle: Callable[[str, str], Artifact], tmp_path: Path, number, code):
    video, events = tmp_path / "seen.mp4", tmp_path / "seen.jsonl"
    command = [
        sys.executable,
        "-m",
        "edgecls",
        "stream",
        "--camera",
        "demo",
        "--model",
        str(bundle("onnx", "int8").path),
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
    assert json.loads(events.read_text().splitlines()[-1])["ended"]


def test_every_backend_that_runs_here_can_stream(bundle: Callable[[str, str], Artifact], digits_video: Path):
    for name, backend in backends.exportable().items():
        if backend.available() is None:
            with edgecls.load(bundle(name, "fp32").path) as model:
                assert run(digits_video, model).decided == 30


class TestManyCameras:
    def test_files_are_decided_in_turn(self, digits_video: Path, classifier: edgecls.Classifier):
        sink = Remembering()
        sources = [open_source(f"{name}={digits_video}", None) for name in ("left", "right")]
        summary = running(sources, classifier, sink)
        assert summary.decided == 60
        assert [decision.camera for decision in sink.decisions[:4]] == ["left", "right", "left", "right"]

    def test_live_cameras_share_the_model_and_are_told_apart(self, classifier: edgecls.Classifier):
        sink = Remembering()
        golden = Golden.read(classifier.path)
        summary = running([open_source("demo", golden) for _ in range(3)], classifier, sink, frames=60)
        assert [camera.camera for camera in summary.cameras] == ["demo (1)", "demo (2)", "demo (3)"]
        assert all(camera.decided >= 15 for camera in summary.cameras)

    def test_cameras_and_files_do_not_mix(self, digits_video: Path, classifier: edgecls.Classifier):
        golden = Golden.read(classifier.path)
        with pytest.raises(UsageError, match="`realtime`"):
            running([open_source("demo", golden), open_source(str(digits_video), None)], classifier)


def test_the_counters_agree_at_every_moment(classifier: edgecls.Classifier, digits_video: Path):
    wrong: list[Health] = []

    class Watching(Remembering):
        def open(self, health: Callable[[], Health]) -> None:
            self.health = health

        def write(self, frame: Frame, decision: Decision) -> None:
            for camera in self.health().cameras:
                if camera.captured != camera.decided + camera.dropped + camera.in_flight or camera.in_flight < 0:
                    wrong.append(self.health())

    options = CameraOptions(capture=CaptureFormat(fps=400), realtime=True)
    sources = [open_source(str(digits_video), None, options) for _ in range(2)]
    summary = running(sources, classifier, Watching(), frames=1000)
    assert not wrong
    assert summary.captured == summary.decided + summary.dropped
    assert all(camera.in_flight == 0 for camera in summary.cameras)


def test_decisions_are_no_more_frequent_than_asked(classifier: edgecls.Classifier):
    assert run("demo", classifier, duration_s=1.5, max_fps=4).decided <= 8


def test_between_a_cameras_frames_the_processor_rests(bundle: Callable[[str, str], Artifact]):
    """At 15 frames/s ONNX Runtime's threads would spin for most of the time."""
    spent = {}
    for spinning in (True, False):
        with edgecls.load(bundle("onnx", "fp32").path, spinning=spinning) as model:
            source = open_source("demo", Golden.read(model.path), CameraOptions(capture=CaptureFormat(fps=15)))
            begun_s = time.process_time()
            running([source], model, frames=15)
            spent[spinning] = time.process_time() - begun_s
    assert spent[False] <= spent[True] + 0.1


def test_an_event_keeps_its_first_picture(digits_video: Path, classifier: edgecls.Classifier, tmp_path: Path):
    sink = Remembering()
    run(digits_video, classifier, sink, snapshots=tmp_path / "pictures")
    ended = [event for event in sink.events if event.ended]
    assert all(cv2.imread(str(event.snapshot)).shape == (96, 96, 3) for event in ended)
    assert [event.id for event in sink.events if not event.ended] == [event.id for event in ended]


def test_nothing_is_left_when_a_stream_has_ended(digits_video: Path, classifier: edgecls.Classifier):
    run("demo", classifier, frames=5)
    before = {thread.name for thread in threading.enumerate()}
    run("demo", classifier, Remembering(), frames=5)
    run(digits_video, classifier, Remembering())
    assert {thread.name for thread in threading.enumerate()} <= before


@pytest.mark.parametrize("name", ["a\nb", "a\r\nb", "a\u2028b", "a\udce9b", "a\x00b"])
def test_a_cameras_name_is_one_line_of_utf8(name: str) -> None:
    from edgecls.streaming.camera import one_line

    message = one_line(name)
    assert message.isprintable()
    assert message.encode()
    assert one_line("Türe 1") == "Türe 1"


def test_a_picture_that_cannot_be_kept_is_counted_and_stops_nothing(
    digits_video: Path, classifier: edgecls.Classifier, tmp_path: Path
):
    sink, folder = Remembering(), tmp_path / "pictures"
    folder.write_text("in the way")
    with pytest.raises(OutputError):
        run(digits_video, classifier, sink, snapshots=folder)
    folder.unlink()
    sink = Remembering()
    source = open_source(str(digits_video), None)
    stream = Stream([source], classifier, [sink], LoopConfig(smoothing=EACH_FRAME, snapshots=folder))
    path = stream.sinks[-1].path_of
    stream.sinks[-1].path_of = lambda event: folder / "not there" / path(event).name
    summary = stream.run(threading.Event())
    begun = [event for event in sink.events if not event.ended]
    assert summary.decided == 30
    assert (summary.sinks[-1].sink, summary.sinks[-1].written) == ("snapshots", 0)
    assert summary.sinks[-1].failed == len(begun)
    assert "not there" in str(summary.sinks[-1].error)


def test_a_slow_disk_does_not_hold_a_live_stream_up(classifier: edgecls.Classifier, tmp_path: Path):
    source = open_source("demo", Golden.read(classifier.path))
    stream = Stream([source], classifier, [], LoopConfig(frames=60, smoothing=EACH_FRAME, snapshots=tmp_path))
    writers: list[str] = []
    write = stream.sinks[-1].write

    def slow(frame: Frame, decision: Decision) -> None:
        writers.append(threading.current_thread().name)
        until(lambda: stream.health().cameras[0].decided >= 60)  # the first waits until the stream has gone on
        write(frame, decision)

    stream.sinks[-1].write = slow
    summary = stream.run(threading.Event())
    assert summary.decided == 60
    assert set(writers) == {"edgecls-snapshots"}
    assert summary.sinks[-1].failed == 0
    assert len(list(tmp_path.glob("*.jpg"))) == summary.sinks[-1].written >= 1


def test_no_two_cameras_share_a_file(tmp_path: Path, digits_video: Path):

    sources = [open_source(str(digits_video), None) for _ in range(3)]
    names = ("a b", "a_b", "a/b")
    for source, name in zip(sources, names, strict=True):
        source.name = name
    video = VideoSink(tmp_path / "seen.mp4", sources)
    assert len({video._named(name) for name in names}) == 3
    sink = SnapshotSink(tmp_path)
    events = [Event(f"{name}-1", name, "cat", "", 0, 0, 0, 0, 1, 1.0) for name in (*names, "x" * 500, "x" * 501)]
    paths = {sink.path_of(event) for event in events}
    assert len(paths) == 5
    assert all(len(path.name.encode()) < 256 and path.parent == tmp_path for path in paths)


def test_a_slow_pace_keeps_no_film_from_its_end(digits_video: Path, classifier: edgecls.Classifier):
    beats: list[int] = []
    config = LoopConfig(duration_s=1.0, max_fps=0.001)
    with open_source(str(digits_video), None) as source:
        summary = Stream([source], classifier, (), config, lambda: beats.append(1)).run(threading.Event())
    assert 1 <= summary.decided <= 2
    assert len(beats) >= 3  # a supervisor hears of it all the while
