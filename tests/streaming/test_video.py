"""Video files of all kinds, written by PyAV, read by PyAV and by OpenCV."""

from __future__ import annotations

import http.server
import sys
import threading
import wave
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

import edgecls
from edgecls.clock import now_ns
from edgecls.errors import BackendError, SourceError, UsageError
from edgecls.imaging.opencv import cv2
from edgecls.imaging.preprocess import Preprocess
from edgecls.imaging.yuv import Yuv
from edgecls.streaming.config import CameraOptions, LoopConfig, SinkConfig, StreamConfig
from edgecls.streaming.decision import Decision
from edgecls.streaming.frames import Frame, Geometry, Region
from edgecls.streaming.loop import Stream
from edgecls.streaming.sinks.base import Sink
from edgecls.streaming.sources import LiveSource, open_source
from edgecls.streaming.sources.live import Device
from edgecls.streaming.sources.video import OpenCvReader, PyAvReader, VideoReader, hardware_decoders, open_video
from tests.streaming.cameras import numbered, until

BT709, JPEG_RANGE = 1, 2


def scene(number: int, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """A picture of soft colours that drifts with its number, (H, W, 3) BGR."""
    tiny = np.random.default_rng(7).integers(60, 200, (9, 12, 3)).astype(np.uint8)
    return cv2.resize(np.roll(tiny, number, 1), size, interpolation=cv2.INTER_CUBIC)


def written(
    path: Path,
    pictures: list[np.ndarray],
    pixels: str = "yuv420p",
    codec: str = "libx264",
    moments_ms: list[int] | None = None,
    prepare: Callable[[av.VideoStream], None] = lambda _: None,
    **options: str,
) -> Path:
    """A video of pictures, 40 ms each unless told."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        prepare(stream)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format=pixels)
            frame.pts, frame.time_base = moments_ms[number] if moments_ms else 40 * number, Fraction(1, 1000)
            frame.colorspace, frame.color_range = stream.codec_context.colorspace, stream.codec_context.color_range
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def read(reader: VideoReader) -> list[tuple[np.ndarray, float]]:
    """Every picture, BGR, and its time in s."""
    seen = []
    while (each := reader.read()) is not None:
        picture, told_s = each
        seen.append((picture.to_bgr() if isinstance(picture, Yuv) else picture, told_s))
    reader.close()
    return seen


def tagged(stream: av.VideoStream) -> None:
    stream.codec_context.colorspace, stream.codec_context.color_range = BT709, 1


def full_range(stream: av.VideoStream) -> None:
    stream.codec_context.color_range = JPEG_RANGE


def turned_by(degrees: int) -> Callable[[av.VideoStream], None]:
    return lambda stream: stream.set_display_rotation(degrees)


KINDS: dict[str, dict] = {
    "h264": {}, "h265": {"codec": "libx265", "x265-params": "log-level=none"},
    "b-frames": {"bf": "3", "b_strategy": "0"}, "bt709": {"prepare": tagged}, "full range": {"prepare": full_range},
    "4:2:2": {"pixels": "yuv422p"}, "4:4:4": {"pixels": "yuv444p"}, "10 bit": {"pixels": "yuv420p10le"},
    "grey": {"pixels": "gray"}, "rgb": {"pixels": "bgr0", "codec": "ffv1"},
    "mjpeg": {"pixels": "yuvj420p", "codec": "mjpeg"}, "by a quarter": {"prepare": turned_by(90)},
    "on its head": {"prepare": turned_by(180)}, "by three quarters": {"prepare": turned_by(-90)},
}  # fmt: skip
FRAMES = 6


@pytest.fixture(scope="module", params=KINDS)
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / ("video.mkv" if request.param == "rgb" else "video.mp4")
    return written(path, [scene(number) for number in range(FRAMES)], **KINDS[request.param])


class TestWithPyAv:
    def test_pictures_and_times_are_those_of_opencv(self, video: Path):
        ours, theirs = read(PyAvReader(str(video))), read(OpenCvReader(str(video)))
        assert len(ours) == len(theirs) == FRAMES
        for (picture, told_s), (expected, expected_s) in zip(ours, theirs, strict=True):
            assert picture.shape == expected.shape
            assert np.abs(picture.astype(int) - expected).max() <= 1
            assert told_s == pytest.approx(expected_s, abs=1e-3)

    def test_what_the_network_sees_is_the_picture_brought_to_size(self, video: Path):
        geometries = [
            Geometry(), Geometry(region=Region.parse("0.25,0,0.5,1")), Geometry(region=Region.parse("31,17,201,150")),
            Geometry(rotate=90, flip="horizontal", region=Region.parse("3,5,99,120")),
        ]  # fmt: skip
        preprocess, wholes = Preprocess(96, 96, crop=0.9), read(OpenCvReader(str(video)))
        for geometry in geometries:
            with open_source(str(video), None, CameraOptions(geometry=geometry)) as source:
                frames = list(source)
            for frame, (whole, _) in zip(frames, wholes, strict=True):
                expected = geometry(whole)
                assert frame.image.shape == expected.shape
                seen = np.abs(preprocess(frame.picture).astype(int) - preprocess(expected))
                assert seen.mean() < 2.5  # FFmpeg's conversion of whole pictures rounds down, one to two levels in all
                assert seen.max() <= 12

    def test_the_whole_picture_is_made_when_somebody_asks(self, tmp_path: Path):
        path = written(tmp_path / "video.mp4", [scene(0)])
        with open_source(str(path), None) as source:
            frame = next(iter(source))
        assert isinstance(frame.picture, Yuv)
        assert "image" not in vars(frame)
        assert frame.image is frame.image
        assert (frame.image == read(OpenCvReader(str(path)))[0][0]).all()

    @pytest.mark.parametrize("size", [(321, 241), (638, 358), (130, 98)])
    def test_padded_rows_and_odd_sizes(self, tmp_path: Path, size: tuple[int, int]):
        path = written(tmp_path / "video.mkv", [scene(0, size)], "yuv420p", "ffv1")
        [(picture, _)] = read(PyAvReader(str(path)))
        assert picture.shape == (size[1], size[0], 3)
        assert np.abs(picture.astype(int) - read(OpenCvReader(str(path)))[0][0]).max() <= 1
        preprocess = Preprocess(32, 32)
        seen, _ = PyAvReader(str(path)).read() or pytest.fail("no picture")
        assert np.abs(preprocess(seen).astype(int) - preprocess(picture)).mean() < 2.5

    def test_time_is_the_containers_with_b_frames_and_a_late_beginning(self, tmp_path: Path):
        moments_ms = [5000, 5040, 5041, 7500, 7540, 20_000, 20_001]
        path = written(tmp_path / "film.mp4", [numbered(20 * n) for n in range(7)], moments_ms=moments_ms, bf="2")
        with open_source(str(path), None) as source:
            seen = [(round(frame.image.mean() / 20), frame.pts_s) for frame in source]
        assert [number for number, _ in seen] == list(range(7))
        assert [pts_s for _, pts_s in seen] == pytest.approx([(each - 5000) / 1000 for each in moments_ms], abs=1e-3)

    def test_a_video_that_was_joined_goes_on(self, tmp_path: Path):
        pictures, moments_ms = [scene(number) for number in range(5)], [0, 1000, 2000, 3000, 4000]
        parts = [written(tmp_path / f"{part}.ts", pictures, moments_ms=moments_ms) for part in range(2)]
        joined = tmp_path / "joined.ts"
        joined.write_bytes(b"".join(part.read_bytes() for part in parts))
        with open_source(str(joined), None) as source:
            moments_s = [frame.pts_s for frame in source]
        assert len(moments_s) == 10
        assert all(0 < after - before < 1.1 for before, after in pairwise(moments_s))

    def test_a_picture_that_changes_its_size_is_brought_to_the_first(self, tmp_path: Path):
        parts = [written(tmp_path / f"{side}.ts", [scene(0, (side, side))] * 3) for side in (64, 128)]
        joined = tmp_path / "joined.ts"
        joined.write_bytes(b"".join(part.read_bytes() for part in parts))
        assert [picture.shape for picture, _ in read(PyAvReader(str(joined)))] == [(64, 64, 3)] * 6

    def test_what_is_cut_off_ends_with_its_last_whole_picture(self, tmp_path: Path):
        whole = written(tmp_path / "whole.mkv", [scene(number) for number in range(50)])
        (cut := tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        assert 5 < len(read(PyAvReader(str(cut)))) < 45

    def test_damaged_pictures_do_not_end_a_film(self, tmp_path: Path):
        content = bytearray(written(tmp_path / "whole.ts", [scene(number) for number in range(50)]).read_bytes())
        content[4000:6000] = bytes(2000)
        (damaged := tmp_path / "damaged.ts").write_bytes(content)
        assert len(read(PyAvReader(str(damaged)))) > 25

    def test_names_may_be_odd(self, tmp_path: Path):
        path = written(tmp_path / "odd näme %03d #1?: x.mp4", [scene(0)])
        assert len(read(open_video(str(path)))) == 1

    def test_a_stream_of_many_frames_leaves_no_thread_and_no_file_open(
        self, tmp_path: Path, classifier: edgecls.Classifier
    ):
        path = written(tmp_path / "video.mp4", [scene(number) for number in range(100)])
        before = threading.active_count()
        for _ in range(3):
            with open_source(str(path), None) as source:
                summary = Stream([source], classifier).run(threading.Event())
            assert summary.decided == 100
            with open_source(str(path), None) as source:
                Stream([source], classifier, config=LoopConfig(frames=5)).run(threading.Event())
        assert threading.active_count() == before
        assert not any(path.name in str(each.resolve()) for each in Path("/proc/self/fd").glob("*"))

    def test_sinks_see_whole_pictures(self, tmp_path: Path, classifier: edgecls.Classifier):
        class Seeing(Sink):
            name = "seeing"
            every_frame = True

            def write(self, frame: Frame, decision: Decision) -> None:
                shapes.append(frame.image.shape)

        shapes: list[tuple[int, ...]] = []
        path, sinks = written(tmp_path / "video.mp4", [scene(number) for number in range(20)]), [Seeing(), Seeing()]
        with open_source(str(path), None) as source:
            Stream([source], classifier, sinks).run(threading.Event())
        assert shapes == [(240, 320, 3)] * 40


class TestRefusals:
    @pytest.fixture(params=["PyAV", "OpenCV"], autouse=True)
    def reader(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        if request.param == "OpenCV":
            monkeypatch.setitem(sys.modules, "av", None)

    def test_sound_alone(self, tmp_path: Path):
        with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(bytes(16_000))
        with pytest.raises(SourceError, match=r"sound\.wav is not a video"):
            open_source(str(tmp_path / "sound.wav"), None)

    def test_a_file_that_ends_before_its_index(self, tmp_path: Path):
        (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(5000))
        with (
            pytest.raises(SourceError, match=r"cut\.mp4 (is not a video|holds no frame) "),
            open_source(str(tmp_path / "cut.mp4"), None) as source,
        ):
            list(source)

    def test_an_empty_file(self, tmp_path: Path):
        (tmp_path / "empty.mp4").touch()
        with pytest.raises(SourceError, match=r"empty\.mp4 is not a video"):
            open_source(str(tmp_path / "empty.mp4"), None)


def test_a_video_without_a_picture_says_so(tmp_path: Path):
    content = written(tmp_path / "whole.avi", [scene(0)], "yuvj420p", "mjpeg").read_bytes()
    begun = content.index(b"movi")
    (tmp_path / "none.avi").write_bytes(content[: begun + 4] + bytes(len(content) - begun - 4))
    with (
        pytest.raises(SourceError, match=r"none\.avi (is not a video|holds no frame) that can be decoded"),
        open_source(str(tmp_path / "none.avi"), None) as source,
    ):
        list(source)


def test_without_pyav_opencv_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = written(tmp_path / "video.mp4", [scene(number) for number in range(5)])
    monkeypatch.setitem(sys.modules, "av", None)
    with open_source(str(path), None) as source:
        frames = list(source)
    assert [type(frame.picture) for frame in frames] == [np.ndarray] * 5
    with pytest.raises(BackendError, match=r"pip install 'edgecls\[video\]'"):
        open_source(str(path), None, CameraOptions(decoder="hardware"))
    assert hardware_decoders() == []


def test_hardware_that_is_not_there_is_one_clear_line(tmp_path: Path):
    if hardware_decoders():
        pytest.skip("this machine decodes video in hardware")
    path = written(tmp_path / "video.mp4", [scene(0)])
    with pytest.raises(SourceError, match=r"no hardware here decodes .*video\.mp4: tried .*leave `decoder`") as raised:
        open_source(str(path), None, CameraOptions(decoder="hardware"))
    assert "\n" not in str(raised.value)


class CutOff(http.server.BaseHTTPRequestHandler):
    """Promises a whole file and breaks off after the first half, as a share does that is lost."""

    content = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: len(self.content) // 2])

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_file_that_is_lost_while_it_is_read_is_an_error_and_no_end(tmp_path: Path):
    path = written(tmp_path / "video.ts", [scene(number) for number in range(100)])
    handler = type("Handler", (CutOff,), {"content": path.read_bytes()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        reader = PyAvReader(f"http://127.0.0.1:{server.server_address[1]}/video.ts")
        with pytest.raises(SourceError, match=r"video\.ts cannot be read to its end: "):
            read(reader)
        reader.close()
        server.shutdown()


FFMPEG_ONLY = ("ExternalError", "UnknownError", "DecoderNotFoundError")
"""Of FFmpeg's errors, those that are neither an `OSError`, a `ValueError` nor a `RuntimeError`."""


def failing(name: str) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise getattr(av.error, name)(1, "the driver failed")

    return fail


@pytest.mark.parametrize("name", FFMPEG_ONLY)
def test_a_driver_that_fails_is_no_hardware(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = written(tmp_path / "video.mp4", [scene(0)])
    monkeypatch.setattr(av.codec.hwaccel, "hwdevices_available", lambda: ["cuda"])
    monkeypatch.setattr(av.codec.hwaccel, "HWAccel", failing(name))
    assert hardware_decoders() == []
    with pytest.raises(SourceError, match=r"no hardware here decodes .*: tried cuda \(.*the driver failed.*\)"):
        open_video(str(path), "hardware")


@pytest.mark.parametrize("name", FFMPEG_ONLY)
def test_what_pyav_cannot_open_is_left_to_opencv(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = written(tmp_path / "video.mp4", [scene(0)])
    monkeypatch.setattr(av, "open", failing(name))
    assert len(read(open_video(str(path)))) == 1


@pytest.mark.parametrize("name", ["ExternalError", "UnknownError", "OSError", "MemoryError"])
def test_hardware_that_fails_on_the_way_is_an_error_and_no_end(name: str, tmp_path: Path):
    path = written(tmp_path / "video.mp4", [scene(number) for number in range(20)])

    class Failing:
        """A container whose reading fails as the driver's decoding does, after some packets."""

        def __init__(self) -> None:
            self._container = av.open(str(path))
            self.streams, self.close = self._container.streams, self._container.close

        def demux(self, stream: av.VideoStream):
            for number, packet in enumerate(self._container.demux(stream)):
                if number == 10:
                    failing(name)()
                yield packet

    reader = PyAvReader(str(path), Failing())
    with pytest.raises(SourceError, match="cannot be read to its end: .*the driver failed"):
        read(reader)
    reader.close()


class Counting(Device):
    """A camera of 100 pictures a second that counts which of them are converted."""

    fps = 100.0

    def __init__(self) -> None:
        self.grabbed = self.converted = 0
        self._pause = threading.Event()

    def read(self) -> np.ndarray:
        self.grab()
        return self.retrieve()

    def grab(self) -> bool:
        self._pause.wait(0.01)
        self.grabbed += 1
        return True

    def retrieve(self) -> np.ndarray:
        self.converted += 1
        return numbered(1)


def test_a_camera_converts_few_more_pictures_than_are_looked_at(classifier: edgecls.Classifier):
    device = Counting()
    source = LiveSource("counting", lambda: device)
    summary = Stream([source], classifier, config=LoopConfig(max_fps=4, frames=5)).run(threading.Event())
    assert summary.decided == 5
    assert summary.captured == summary.decided + summary.dropped
    assert device.grabbed - summary.captured in (0, 1)  # the one that was being read at the end
    assert device.grabbed > 3 * device.converted


def test_a_camera_that_nobody_slows_converts_every_picture():
    device = Counting()
    with LiveSource("counting", lambda: device) as source:
        source.start()
        until(lambda: source.captured >= 10)
    assert device.grabbed - device.converted in (0, 1)


class OnDemand(Counting):
    """A camera that gives a picture each time that it is asked to, as one that is triggered by motion."""

    def __init__(self) -> None:
        super().__init__()
        self.triggers = threading.Semaphore(0)

    def grab(self) -> bool:
        self.triggers.acquire()
        return super().grab()


def test_a_picture_that_comes_late_is_kept_though_the_one_before_it_was_not_due():
    device = OnDemand()
    with LiveSource("on demand", lambda: device) as source:
        source.start()
        try:
            source.due_ns = now_ns() + 10**12
            device.triggers.release()
            until(lambda: source.captured == 1)
            assert not source.ready  # many will come before the next decision, as far as anybody knows
            source.due_ns = now_ns()
            device.triggers.release()
            until(lambda: source.captured == 2)
            assert source.ready
            assert source.dropped == 1
        finally:
            device.triggers.release()


@pytest.mark.parametrize("name", ["record", "events", "log"])
def test_the_file_that_is_read_is_never_written_to(tmp_path: Path, name: str):
    video = tmp_path / "film.mp4"
    video.write_bytes(b"a film")
    (tmp_path / "link.mp4").symlink_to(video)
    for camera in (str(video), f"door={video}"):
        sinks = SinkConfig(**{name: tmp_path / "link.mp4"})
        with pytest.raises(UsageError, match=f"`{name}` .* is the file that is read"):
            StreamConfig(cameras=(camera,), sinks=sinks).check()
    StreamConfig(cameras=("0", str(video)), sinks=SinkConfig(**{name: tmp_path / "other.mp4"})).check()
