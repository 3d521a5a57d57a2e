"""Cameras and network streams through OpenCV, and what is drawn for want of one."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

from edgecls.artifact.golden import Golden
from edgecls.clock import now_ns
from edgecls.errors import MissingExtraError, SourceError, UsageError
from edgecls.imaging.yuv import Picture
from edgecls.streaming.config import CaptureFormat, Decoder
from edgecls.streaming.sources.live import OPEN_TIMEOUT_S, Device
from edgecls.streaming.sources.v4l2 import found_cameras
from edgecls.streaming.sources.video import VideoClock, open_video, usual_rate
from edgecls.urls import SecretUrl

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

MAX_INDEX = 2**31 - 1
"""Of a camera: OpenCV takes no larger number."""
READ_TIMEOUT_S = 5.0
DEMO_FPS, SCREEN_FPS = 30.0, 15.0
DEMO_HOLD_S = 1.5
"""How long the demonstration shows each image."""
SHOWN_AGAIN_S = 0.5
"""How often a video played as a camera gives a picture that it shows for longer."""
CSI = (
    "nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM){capture} ! nvvidconv ! video/x-raw,format=BGRx ! "
    "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
)
"""How NVIDIA's guide reads a Jetson's CSI camera through GStreamer."""


class OpenCvDevice(Device):
    """Whatever OpenCV's `VideoCapture` reads."""

    def __init__(self, name: str, video: Any, complaint: str, capture: CaptureFormat = CaptureFormat()):
        from edgecls.imaging.opencv import cv2

        self._stopped = f"{name} stopped giving frames; check the device and the network"
        self._video = video
        if not video.isOpened():
            video.release()
            raise SourceError(complaint)
        asked = (
            (cv2.CAP_PROP_FRAME_WIDTH, capture.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, capture.height),
            (cv2.CAP_PROP_FPS, capture.fps),
        )
        for setting, value in asked:
            if value is not None:
                video.set(setting, value)
        self.fps = usual_rate(video.get(cv2.CAP_PROP_FPS))

    def read(self) -> NDArray[uint8]:
        """See `Device.read`."""
        self.grab()
        return self.retrieve()

    def grab(self) -> bool:
        """See `Device.grab`."""
        if not self._video.grab():
            raise SourceError(self._stopped)
        return True

    def retrieve(self) -> NDArray[uint8]:
        """See `Device.retrieve`."""
        ok, image = self._video.retrieve()
        if not ok or image is None or not image.size:
            raise SourceError(self._stopped)
        return image

    def close(self) -> None:
        """See `Device.close`."""
        self._video.release()


def numbered(index: int, capture: CaptureFormat) -> Device:
    """A camera by the number of its video device, asked for little delay. Raises `SourceError`."""
    from edgecls.imaging.opencv import cv2

    if index > MAX_INDEX:
        raise SourceError(no_camera(index))
    video = cv2.VideoCapture(index)
    if video.isOpened():
        if (capture.width or 0) > 640:
            # Over USB 2 only compressed pictures are that large and quick at once.
            video.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        video.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return OpenCvDevice(f"camera {index}", video, no_camera(index), capture)


def network(address: str, capture: CaptureFormat) -> Device:
    """A network stream through FFmpeg, one decoding thread so that none holds frames back."""
    from edgecls.imaging.opencv import cv2

    settings = [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(OPEN_TIMEOUT_S * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(READ_TIMEOUT_S * 1000),
        cv2.CAP_PROP_N_THREADS, 1,
    ]  # fmt: skip
    shown = str(SecretUrl(address))
    complaint = f"{shown} cannot be opened; check the address, the credentials and the network"
    return OpenCvDevice(shown, cv2.VideoCapture(address, cv2.CAP_FFMPEG, settings), complaint, capture)


def pipeline(launch: str, capture: CaptureFormat) -> Device:
    """A GStreamer pipeline that ends in `appsink`. Raises `SourceError` where OpenCV was built without GStreamer."""
    from edgecls.imaging.opencv import cv2

    if not has_gstreamer():
        raise SourceError(
            "this OpenCV was built without GStreamer, as pip's builds are; use the system's, as on a Jetson, in a "
            "virtual environment made with --system-site-packages"
        )
    return OpenCvDevice(
        "pipeline", cv2.VideoCapture(launch, cv2.CAP_GSTREAMER), "GStreamer cannot run the pipeline",
        capture,
    )  # fmt: skip


def csi_pipeline(sensor: int, capture: CaptureFormat) -> str:
    """The GStreamer pipeline of a Jetson's CSI camera."""
    asked = "".join(
        f",{name}={value}"
        for name, value in (
            ("width", capture.width),
            ("height", capture.height),
            ("framerate", f"{round(capture.fps)}/1" if capture.fps else None),
        )
        if value
    )
    return CSI.format(sensor=sensor, capture=asked)


def has_gstreamer() -> bool:
    """Whether this OpenCV can run GStreamer's pipelines."""
    from edgecls.imaging.opencv import cv2

    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


def no_camera(index: int) -> str:
    """What to say where a camera cannot be opened."""
    cameras = found_cameras()
    devices = f"found: {', '.join(map(str, cameras))}" if cameras else "no video device was found on this machine"
    return f"camera {index} cannot be opened; {devices}. Without one, the camera demo shows held-out images"


class FixedRate(Device):
    """Pictures at a steady rate."""

    def __init__(self, fps: float):
        self.fps = fps
        self._begun_ns = now_ns()
        self._count = 0
        self._closed = threading.Event()

    def _next_s(self) -> float:
        """Wait for the next picture's moment; returns it in seconds since the beginning."""
        due_s = self._count / self.fps
        self._count += 1
        self._wait_until(due_s)
        return due_s

    def _wait_until(self, due_s: float) -> None:
        self._closed.wait(max(0.0, due_s - self._running_s()))

    def _running_s(self) -> float:
        return (now_ns() - self._begun_ns) / 1e9

    def close(self) -> None:
        """See `Device.close`."""
        self._closed.set()


class DemoDevice(FixedRate):
    """A moving picture made from a model's golden inputs, which are held-out images."""

    def __init__(self, golden: Golden, fps: float = DEMO_FPS):
        super().__init__(fps)
        self._images = golden.images

    def read(self) -> NDArray[uint8] | None:
        """See `Device.read`."""
        return demo_frame(self._images, self._next_s())


class VideoFileDevice(FixedRate):
    """A video file played at its own pace, or at `fps`, over and over, as a camera that has no other.

    A picture that the video shows for long is given again and again meanwhile, as a camera would see it.
    """

    def __init__(self, path: str, fps: float | None = None, decoder: Decoder = "software"):
        self._path = path
        self._decoder = decoder
        self._fixed_fps = fps
        self._video_begins_s = self._due_s = 0.0
        self._shown: Picture | None = None
        self._next: Picture | None = None
        self._open()
        super().__init__(fps or self._video.fps)

    def _open(self) -> None:
        self._video = open_video(self._path, self._decoder)
        self._clock = VideoClock(self._video.fps)

    def read(self) -> Picture | None:
        """See `Device.read`."""
        if self._next is None:
            self._next, told_s = self._read_again()
            due_s = self._video_begins_s + self._clock.due_s(told_s)
            self._due_s = due_s if self._fixed_fps is None else self._due_s + 1 / self._fixed_fps
        soon_s = self._running_s() + SHOWN_AGAIN_S
        if self._shown is not None and self._due_s > soon_s:
            self._wait_until(soon_s)
            return self._shown
        self._wait_until(self._due_s)
        self._shown, self._next = self._next, None
        return self._shown

    def _read_again(self) -> tuple[Picture, float]:
        """The video's next picture and its time, after its last the first."""
        if (read := self._video.read()) is not None:
            return read
        self._video.close()
        self._open()
        self._video_begins_s = self._due_s + 1 / self._video.fps
        if (read := self._video.read()) is not None:
            return read
        raise SourceError(f"{self._path} holds no frame that can be decoded")

    def close(self) -> None:
        """See `Device.close`."""
        super().close()
        self._video.close()


class ScreenDevice(FixedRate):
    """The screen, or a rectangle of it, "left,top,width,height" in pixels."""

    def __init__(self, rectangle: str, fps: float = SCREEN_FPS):
        super().__init__(fps)
        try:
            import mss
        except ImportError as error:
            raise MissingExtraError("mss", "screen", "looking at the screen") from error
        try:
            self._screen = mss.MSS()
            whole = self._screen.monitors[0]
            if rectangle:
                names = ("left", "top", "width", "height")
                whole = dict(zip(names, map(int, rectangle.split(",")), strict=True))
            self._rectangle = whole
        except ValueError:
            raise UsageError(f"screen: takes left,top,width,height in pixels, not {rectangle!r}") from None
        except Exception as error:
            raise SourceError(f"the screen cannot be read ({error}); is there one, and is DISPLAY set?") from error

    def read(self) -> NDArray[uint8] | None:
        """See `Device.read`."""
        import numpy as np

        self._next_s()
        try:
            shot = self._screen.grab(self._rectangle)
        except Exception as error:
            raise SourceError(f"the screen cannot be read ({error})") from error
        return np.ascontiguousarray(np.asarray(shot)[:, :, :3])

    def close(self) -> None:
        """See `Device.close`."""
        super().close()
        self._screen.close()


def demo_frame(images: NDArray[uint8], pts_s: float) -> NDArray[uint8]:
    """The demonstration at a moment: one image after the other, drifting and breathing, as BGR uint8 (480, 640, 3).

    `images` are RGB uint8 (K, h, w, 3); the centre square shows the whole image, its blurred copy fills the rest.
    """
    from edgecls.imaging.opencv import cv2

    image = cv2.cvtColor(images[int(pts_s / DEMO_HOLD_S) % len(images)], cv2.COLOR_RGB2BGR)
    height, width = 480, 640
    tiny = cv2.GaussianBlur(cv2.resize(image, (16, 12), interpolation=cv2.INTER_AREA), (0, 0), 1.5)
    backdrop = cv2.resize(tiny, (width, height), interpolation=cv2.INTER_LINEAR)
    side = int(height * (1 + 0.05 * math.sin(2.1 * pts_s)))
    top = (height - side) // 2 + int(8 * math.sin(1.3 * pts_s))
    left = (width - side) // 2 + int(12 * math.cos(1.7 * pts_s))
    picture = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    row, column = max(top, 0), max(left, 0)
    visible = picture[row - top : row - top + height - row, column - left : column - left + width - column]
    backdrop[row : row + visible.shape[0], column : column + visible.shape[1]] = visible
    return backdrop
