from __future__ import annotations

import io
import itertools
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from edgecls.artifact.golden import Golden
from edgecls.errors import SourceError, UsageError
from edgecls.imaging.opencv import cv2
from edgecls.streaming.config import CameraOptions, CaptureFormat, ReconnectPolicy
from edgecls.streaming.frames import Frame, Geometry, Region
from edgecls.streaming.sources import LiveSource, open_source
from edgecls.streaming.sources.camera import VideoFileDevice, demo_frame, has_gstreamer
from edgecls.streaming.sources.files import RawSource
from edgecls.streaming.sources.live import Device
from edgecls.streaming.sources.video import VideoClock
from tests.streaming.cameras import MjpegServer, found, numbered, until


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for index in range(30):
        writer.write(numbered(8 * index))
    writer.release()
    return path


class Scripted(Device):
    """Gives so many frames, one each `interval_s`."""

    def __init__(self, frames: int, interval_s: float = 0.0):
        self._left = frames
        self._count = 0
        self._interval_s = interval_s

    def read(self) -> np.ndarray | None:
        time.sleep(self._interval_s)
        self._count += 1
        return numbered(self._count) if self._count <= self._left else None


def test_a_live_source_gives_the_newest_frame_and_counts_the_rest():
    with LiveSource("scripted", lambda: Scripted(60, 0.005)) as camera:
        seen = []
        for frame in camera:
            seen.append(frame.index)
            time.sleep(0.03)
    assert seen == sorted(seen)
    assert len(seen) < 30
    assert camera.captured == 60
    assert camera.captured == len(seen) + camera.dropped


def test_a_fast_reader_sees_every_frame_of_a_live_source():
    looked_at = threading.Semaphore(1)

    class Patient(Scripted):
        def read(self) -> np.ndarray | None:
            looked_at.acquire()
            return super().read()

    seen = []
    with LiveSource("patient", lambda: Patient(20)) as camera:
        for frame in camera:
            seen.append(frame.index)
            looked_at.release()
    assert seen == list(range(20))
    assert camera.dropped == 0


def test_a_video_file_gives_every_frame_in_order(video: Path):
    with open_source(str(video), None) as source:
        brightness = [int(frame.image.mean()) for frame in source]
    assert not source.live
    assert source.fps == 20.0
    assert len(brightness) == 30
    assert np.allclose(brightness, [8 * index for index in range(30)], atol=3)


def test_a_folder_gives_its_images_in_order_and_counts_unreadable_ones(photos: Path):
    (photos / "dark" / "005x.jpg").write_text("no image")
    with open_source(str(photos / "dark"), None) as source:
        assert len(list(source)) == 12
    assert source.skipped == 1


def test_the_demonstration_moves_and_shows_every_golden_image():
    images = np.stack([np.full((32, 32, 3), 60 * (index + 1), np.uint8) for index in range(3)])
    frames = [demo_frame(images, pts_s) for pts_s in (0.0, 1.6, 3.1, 4.6)]
    assert all(frame.shape == (480, 640, 3) for frame in frames)
    assert [int(frame[240, 320].mean()) for frame in frames] == [60, 120, 180, 60]
    still = np.zeros((1, 32, 32, 3), np.uint8)
    still[0, 12:20, 12:20] = 255
    assert (demo_frame(still, 0.1) != demo_frame(still, 0.5)).any()


def test_the_demonstration_keeps_its_pace():
    golden = Golden(np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 2), np.float32))
    begun = time.perf_counter()
    with open_source("demo", golden) as source:
        for frame in source:
            if frame.index >= 29:
                break
    assert time.perf_counter() - begun > 0.9


@pytest.fixture
def mjpeg() -> Iterator[MjpegServer]:
    server = MjpegServer()
    yield server
    server.stop()


def test_a_network_camera_is_read_live(mjpeg: MjpegServer):
    seen = 0
    with open_source(mjpeg.url, None) as source:
        assert source.live
        for frame in source:
            assert frame.image.shape == (48, 64, 3)
            seen += 1
            if seen == 20:
                break
    assert source.captured >= 20


def test_a_film_can_stand_in_for_a_camera_and_begins_again(video: Path):
    options = CameraOptions(capture=CaptureFormat(fps=200), realtime=True)
    with open_source(str(video), None, options) as source:
        assert source.live
        frames = itertools.islice(source, 40)
        assert [frame.index for frame in frames][-1] >= 39


def test_raw_frames_come_from_a_pipe():
    content = b"".join(numbered(index, (8, 6)).tobytes() for index in range(5))
    source = RawSource(8, 6, None, stream=io.BytesIO(content))
    assert [int(frame.image.mean()) for frame in source] == list(range(5))
    with pytest.raises(SourceError, match="holds 7 of 144 bytes"):
        list(RawSource(8, 6, None, stream=io.BytesIO(b"x" * 7)))


@pytest.mark.parametrize(
    ("geometry", "corner"),
    [
        (Geometry(), (0, 0)),
        (Geometry(rotate=90), (0, 3)),
        (Geometry(rotate=180), (3, 5)),
        (Geometry(rotate=270), (5, 0)),
        (Geometry(flip="horizontal"), (0, 5)),
        (Geometry(flip="vertical"), (3, 0)),
        (Geometry(rotate=90, flip="both"), (5, 0)),
    ],
)
def test_a_picture_is_turned_and_flipped(geometry: Geometry, corner: tuple[int, int]):
    image = np.zeros((4, 6, 3), np.uint8)
    image[0, 0] = 255
    assert geometry(image)[corner].all()


@pytest.mark.parametrize("text", ["2,1,3,2", "0.34,0.26,0.5,0.5"])
def test_a_region_is_cut_out_in_pixels_or_fractions(text: str):
    image = np.arange(24, dtype=np.uint8).reshape(4, 6)[..., None].repeat(3, 2)
    assert (Region.parse(text).of(image) == image[1:3, 2:5]).all()


def test_a_camera_can_be_given_a_name_and_its_password_is_not_shown(mjpeg: MjpegServer):
    assert open_source(f"door={mjpeg.url}", None).name == "door"
    assert open_source("rtsp://admin:secret@127.0.0.1:9/live", None).name == "rtsp://admin:***@127.0.0.1:9/live"


def test_the_screen_is_a_camera(tmp_path: Path):
    if found("Xvfb") is None:
        pytest.skip("Xvfb is not installed")
    display = f":{90 + os.getpid() % 500}"
    server = subprocess.Popen([found("Xvfb"), display, "-screen", "0", "320x240x24"], stderr=subprocess.DEVNULL)
    try:
        script = (
            "import itertools; from edgecls.streaming.sources import open_source\n"
            "with open_source('screen:10,20,64,48', None) as source:\n"
            "    print([frame.image.shape for frame in itertools.islice(source, 3)])"
        )
        until(lambda: Path(f"/tmp/.X11-unix/X{display[1:]}").exists())
        environment = {**os.environ, "DISPLAY": display}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.strip() == str([(48, 64, 3)] * 3), done.stderr
    finally:
        server.terminate()
        server.wait()


class TestRefusals:
    def test_no_camera_lists_what_there_is_and_offers_the_demonstration(self):
        with pytest.raises(SourceError, match=r"camera 73 cannot be opened; .*the camera demo"):
            list(open_source("73", None))

    def test_nobody_listens_and_there_is_no_time_to_wait(self):
        options = CameraOptions(reconnect=ReconnectPolicy(give_up_s=0))
        with pytest.raises(SourceError, match="check the address"):
            list(open_source("http://127.0.0.1:9/none.mjpg", None, options))

    def test_a_pipeline_without_gstreamer(self):
        if has_gstreamer():
            pytest.skip("this OpenCV has GStreamer")
        with pytest.raises(SourceError, match="built without GStreamer"):
            list(open_source("videotestsrc ! appsink", None))

    def test_a_screen_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.setenv("WAYLAND_DISPLAY", "")
        with pytest.raises(SourceError, match="is there one"):
            list(open_source("screen:", None))

    def test_raw_frames_without_their_size(self):
        with pytest.raises(UsageError, match="`width` and `height`"):
            open_source("-", None)

    @pytest.mark.parametrize("roi", ["1,2,3", "a,b,c,d", "0,0,0,5", "-1,0,5,5"])
    def test_a_region_that_is_none(self, roi: str):
        with pytest.raises(UsageError, match="`region` takes"):
            Region.parse(roi)

    def test_a_region_outside_the_picture(self, video: Path):
        options = CameraOptions(geometry=Geometry(region=Region.parse("500,0,10,10")))
        with open_source(str(video), None, options) as source, pytest.raises(SourceError, match="outside the picture"):
            list(source)

    def test_a_region_outside_the_picture_of_a_live_camera_ends_it(self):
        region = Geometry(region=Region.parse("500,0,10,10"))
        with (
            LiveSource("door", lambda: Scripted(60, 0.005), ReconnectPolicy(), region) as camera,
            pytest.raises(SourceError, match="outside the picture, which has 64 x 48 pixels"),
        ):
            list(camera)

    @pytest.mark.parametrize("roi", ["32,8,100,30", "0.5,0.2,0.6,0.5"])
    def test_a_region_that_reaches_beyond_the_picture_is_said_once(
        self, video: Path, roi: str, caplog: pytest.LogCaptureFixture
    ):
        options = CameraOptions(geometry=Geometry(region=Region.parse(roi)))
        with open_source(str(video), None, options) as source:
            widths = {frame.image.shape[1] for frame in source}
        assert widths == {32}
        (said,) = [record.getMessage() for record in caplog.records]
        assert "beyond the picture of 64 x 48 pixels; used is 32," in said

    @pytest.mark.parametrize("roi", ["0,0,64,48", "0.5,0.5,0.5,0.5", "0.3,0.3,0.7,0.7"])
    def test_a_region_that_ends_with_the_picture_is_no_remark(
        self, video: Path, roi: str, caplog: pytest.LogCaptureFixture
    ):
        options = CameraOptions(geometry=Geometry(region=Region.parse(roi)))
        with open_source(str(video), None, options) as source:
            assert list(source)
        assert not caplog.records

    def test_neither_camera_nor_file(self):
        with pytest.raises(SourceError, match="no camera or file backyard"):
            open_source("backyard", None)

    def test_no_video(self, tmp_path: Path):
        (tmp_path / "notes.mp4").write_text("hello")
        with pytest.raises(SourceError, match=r"notes\.mp4 is not a video"):
            open_source(str(tmp_path / "notes.mp4"), None)

    def test_an_empty_folder(self, tmp_path: Path):
        with pytest.raises(SourceError, match="holds no images"):
            open_source(str(tmp_path), None)

    def test_a_demonstration_without_golden_inputs(self):
        with pytest.raises(SourceError, match="golden inputs"):
            open_source("demo", None)


@pytest.mark.parametrize(
    "camera", ["rtsp:/me:SECRET@host", "rtsp;//me:SECRET@host", "a" * 5000, "~nosuchuser/x", "a\0b"]
)
def test_cameras_that_are_not_there_say_so_without_secrets(camera: str) -> None:
    with pytest.raises(SourceError) as raised:
        open_source(camera, None)
    assert "SECRET" not in str(raised.value)


def test_pipes_and_names_that_are_not_utf8_are_refused_as_films(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "fifo")
    odd = os.fsencode(tmp_path) + b"/\xe9.mp4"
    Path(os.fsdecode(odd)).write_bytes(b"")
    for path in (str(tmp_path / "fifo"), os.fsdecode(odd)):
        with pytest.raises(SourceError):
            open_source(path, None)


def variable_rate(path: Path, moments_ms: list[int], codec: str = "mpeg4") -> Path:
    """A video whose frames, of brightness 10, 20, ..., are shown from these moments on."""
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, moment_ms in enumerate(moments_ms, 1):
            frame = av.VideoFrame.from_ndarray(numbered(10 * number), format="bgr24")
            frame.pts, frame.time_base = moment_ms, Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "mpeg4"), ("mp4", "mjpeg"), ("mkv", "libx264"), ("avi", "mjpeg")]
)
@pytest.mark.parametrize("moments_ms", [[0, 40, 2000, 10_000, 10_033], [0, 33, 67, 100], [0, 5000, 10_000], [0]])
def test_a_films_time_is_its_containers(tmp_path: Path, suffix: str, codec: str, moments_ms: list[int]):
    with open_source(str(variable_rate(tmp_path / f"video.{suffix}", moments_ms, codec)), None) as source:
        frames = list(source)
    assert [frame.pts_s for frame in frames] == pytest.approx([each / 1000 for each in moments_ms], abs=0.001)


def test_a_film_without_time_has_the_one_of_its_rate(tmp_path: Path):
    with open_source(str(variable_rate(tmp_path / "film.h264", [0, 40, 2000], "libx264")), None) as source:
        assert [frame.pts_s for frame in source] == pytest.approx([0, 0.04, 0.08])


@pytest.mark.parametrize(
    ("told_ms", "pts_s"),
    [
        ((0, 0, 0), (0, 0.1, 0.2)), ((0, 200, 200, 500), (0, 0.2, 0.3, 0.5)), ((0, 300, 200, 500), (0, 0.3, 0.4, 0.5)),
        ((0, 5000, 0, 700), (0, 5, 5.1, 5.8)), ((math.nan, 100, math.inf, 400), (0, 0.1, 0.2, 0.4)),
        ((-500, 0, 100), (0, 0.1, 0.2)), ((2000, 2500), (2, 2.5)), ((0, 5000, math.nan, 6000), (0, 5, 5.1, 6)),
    ],
)  # fmt: skip
def test_a_films_time_never_stands_or_goes_back(told_ms: tuple[float, ...], pts_s: tuple[float, ...]):
    clock = VideoClock(10.0)
    assert [clock.due_s(each_ms / 1000) for each_ms in told_ms] == pytest.approx(pts_s)


def test_a_film_as_a_camera_keeps_its_pace_and_shows_long_pictures_again(tmp_path: Path):
    device = VideoFileDevice(str(variable_rate(tmp_path / "film.mp4", [0, 50, 1250])))
    seen = [round(float(Frame(device.read(), 0, 0, 0.0).image.mean()), -1) for _ in range(7)]
    device.close()
    assert seen == [10, 20, 20, 20, 30, 10, 20]
