from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgecls.card import Golden
from edgecls.errors import SourceError
from edgecls.opencv import cv2
from edgecls.stream.sources import LiveSource, demo_frame, open_source


def numbered(index: int) -> np.ndarray:
    """A frame whose brightness is its number."""
    return np.full((48, 64, 3), index, np.uint8)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for index in range(30):
        writer.write(numbered(8 * index))
    writer.release()
    return path


class ScriptedCamera(LiveSource):
    """A live source that gives a frame each time the test allows one."""

    def __init__(self, frames: int, interval_s: float = 0.0):
        super().__init__("scripted")
        self._frames = frames
        self._interval_s = interval_s

    def _grab(self) -> np.ndarray | None:
        time.sleep(self._interval_s)
        return numbered(self.captured) if self.captured < self._frames else None


def test_a_live_source_gives_the_newest_frame_and_counts_the_rest():
    with ScriptedCamera(frames=60, interval_s=0.005) as camera:
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

    class Patient(ScriptedCamera):
        def _grab(self) -> np.ndarray | None:
            looked_at.acquire()
            return super()._grab()

    seen = []
    with Patient(frames=20) as camera:
        for frame in camera:
            seen.append(frame.index)
            looked_at.release()
    assert seen == list(range(20))
    assert camera.dropped == 0


def test_a_failure_in_the_capturing_thread_reaches_the_reader():
    class Failing(ScriptedCamera):
        def _grab(self) -> np.ndarray | None:
            if self.captured == 3:
                raise SourceError("unplugged")
            time.sleep(0.02)
            return numbered(0)

    with Failing(10) as camera, pytest.raises(SourceError, match="unplugged"):
        for _ in camera:
            pass


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
    frames = [demo_frame(images, at_s) for at_s in (0.0, 1.6, 3.1, 4.6)]
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


class MjpegServer(http.server.ThreadingHTTPServer):
    """A camera as webcams and phones serve it: multipart JPEG frames over HTTP, on loopback."""

    def __init__(self, frames: int):
        self.frames = frames
        super().__init__(("127.0.0.1", 0), MjpegHandler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/video.mjpg"


class MjpegHandler(http.server.BaseHTTPRequestHandler):
    server: MjpegServer

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for index in range(self.server.frames):
            jpeg = cv2.imencode(".jpg", numbered(100 + index))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + jpeg + b"\r\n")
            except OSError:
                return
            time.sleep(0.02)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def mjpeg() -> Iterator[MjpegServer]:
    server = MjpegServer(frames=60)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


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


def test_a_network_camera_that_goes_away_is_an_error_and_never_an_invented_frame(mjpeg: MjpegServer):
    with open_source(mjpeg.url, None) as source, pytest.raises(SourceError, match="stopped giving frames"):
        for frame in source:
            assert frame.image.mean() > 90
    assert source.captured <= 60


class TestRefusals:
    def test_no_camera_lists_what_there_is_and_offers_the_demonstration(self):
        with pytest.raises(SourceError, match=r"camera 73 cannot be opened; .*--camera demo"):
            open_source("73", None)

    def test_nobody_listens(self):
        with pytest.raises(SourceError, match="check the address"):
            open_source("http://127.0.0.1:9/none.mjpg", None)

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
