"""Where frames come from: cameras and streams (live), videos and image folders (finite), and a demonstration."""

from __future__ import annotations

import contextlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.benchmark.clock import now_ns
from edgecls.card import Golden
from edgecls.data.images import SUFFIXES, find_images, read_image
from edgecls.data.parallel import ordered_map
from edgecls.errors import ImageError, SourceError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray
    from typing_extensions import Self

OPEN_TIMEOUT_MS = 8000
READ_TIMEOUT_MS = 8000
DEFAULT_FPS = 25.0
DEMO_FPS = 30.0
DEMO_HOLD_S = 1.5
"""How long the demonstration shows each image."""


@dataclass(frozen=True)
class Frame:
    """One picture, BGR uint8 (H, W, 3), its number in the source, and when it was captured (`clock.now_ns`)."""

    image: NDArray[uint8]
    index: int
    captured_ns: int


class Source(ABC):
    """An iterator of frames and a context manager. `live` sources skip what could not be looked at in time."""

    name: str
    live: bool = False
    fps: float = DEFAULT_FPS
    captured: int = 0
    dropped: int = 0
    skipped: int = 0

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Frames until the source ends. Raises `SourceError` where it fails."""

    def close(self) -> None:
        """Let go of the device or file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class LiveSource(Source):
    """Reads in a thread and keeps the newest frame only, so that a slow model never looks at the past."""

    live = True

    def __init__(self, name: str):
        self.name = name
        self._newest: Frame | None = None
        self._error: SourceError | None = None
        self._ended = threading.Event()
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read_all, name="edgecls-capture", daemon=True)

    @abstractmethod
    def _grab(self) -> NDArray[uint8] | None:
        """Block until the next picture; None ends the source."""

    def __iter__(self) -> Iterator[Frame]:
        if not self._reader.is_alive():
            self._reader.start()
        while True:
            with self._changed:
                # The timeout lets signals through; the condition is checked again.
                while self._newest is None and not self._ended.is_set():
                    self._changed.wait(timeout=0.1)
                frame, self._newest = self._newest, None
            if frame is None:
                if self._error:
                    raise self._error
                return
            yield frame

    def _read_all(self) -> None:
        try:
            while not self._ended.is_set():
                image = self._grab()
                if image is None:
                    break
                self._put(Frame(image, self.captured, now_ns()))
        except SourceError as error:
            self._error = error
        finally:
            with self._changed:
                self._ended.set()
                self._changed.notify()

    def _put(self, frame: Frame) -> None:
        with self._changed:
            self.captured += 1
            self.dropped += self._newest is not None
            self._newest = frame
            self._changed.notify()

    def close(self) -> None:
        """Stop the reading thread."""
        self._ended.set()
        if self._reader.is_alive():
            self._reader.join(timeout=READ_TIMEOUT_MS / 1000)


class CameraSource(LiveSource):
    """A camera by number, or a network stream by URL, through OpenCV."""

    def __init__(self, device: int | str):
        super().__init__(f"camera {device}" if isinstance(device, int) else device)
        self._capture = _open_capture(device)
        if not self._capture.isOpened():
            self._capture.release()
            raise SourceError(_no_camera(device) if isinstance(device, int) else _no_stream(device))
        self.fps = _frame_rate(self._capture)

    def _grab(self) -> NDArray[uint8] | None:
        ok, image = self._capture.read()
        if not ok:
            if self._ended.is_set():
                return None
            raise SourceError(
                f"{self.name} stopped giving frames after {self.captured}; check the device, then start again"
            )
        return image

    def close(self) -> None:
        """Stop reading, then release the device."""
        super().close()
        self._capture.release()


class DemoSource(LiveSource):
    """A moving picture made from a model's golden inputs, which are held-out images, at 30 frames per second."""

    fps = DEMO_FPS

    def __init__(self, golden: Golden):
        super().__init__("demo")
        self._images = golden.images
        self._begun_ns = now_ns()
        self._ticks = threading.Event()

    def _grab(self) -> NDArray[uint8] | None:
        due_s = self.captured / self.fps
        self._ticks.wait(max(0.0, due_s - (now_ns() - self._begun_ns) / 1e9))
        return demo_frame(self._images, due_s)


def demo_frame(images: NDArray[uint8], at_s: float) -> NDArray[uint8]:
    """The demonstration at a moment: one image after the other, drifting and breathing, as BGR uint8 (480, 640, 3).

    `images` are RGB uint8 (K, h, w, 3); the centre square shows the whole image, its blurred copy fills the rest.
    """
    import math

    from edgecls.opencv import cv2

    image = cv2.cvtColor(images[int(at_s / DEMO_HOLD_S) % len(images)], cv2.COLOR_RGB2BGR)
    height, width = 480, 640
    tiny = cv2.GaussianBlur(cv2.resize(image, (16, 12), interpolation=cv2.INTER_AREA), (0, 0), 1.5)
    backdrop = cv2.resize(tiny, (width, height), interpolation=cv2.INTER_LINEAR)
    side = int(height * (1 + 0.05 * math.sin(2.1 * at_s)))
    top = (height - side) // 2 + int(8 * math.sin(1.3 * at_s))
    left = (width - side) // 2 + int(12 * math.cos(1.7 * at_s))
    picture = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
    row, column = max(top, 0), max(left, 0)
    visible = picture[row - top : row - top + height - row, column - left : column - left + width - column]
    backdrop[row : row + visible.shape[0], column : column + visible.shape[1]] = visible
    return backdrop


class VideoSource(Source):
    """A video file: every frame, in order."""

    def __init__(self, path: Path):
        self.name = str(path)
        self._capture = _open_capture(str(path))
        if not self._capture.isOpened():
            raise SourceError(f"{path} is not a video that OpenCV can decode")
        self.fps = _frame_rate(self._capture)

    def __iter__(self) -> Iterator[Frame]:
        while True:
            ok, image = self._capture.read()
            if not ok:
                break
            self.captured += 1
            yield Frame(image, self.captured - 1, now_ns())
        if not self.captured:
            raise SourceError(f"{self.name} holds no frame that OpenCV can decode")

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


class ImagesSource(Source):
    """Image files in order of their names; unreadable ones are skipped and counted."""

    def __init__(self, name: str, paths: list[Path]):
        self.name = name
        self._paths = paths
        if not paths:
            raise SourceError(f"{name} holds no images")

    def __iter__(self) -> Iterator[Frame]:
        for image in ordered_map(self._read, self._paths):
            if image is None:
                self.skipped += 1
                continue
            self.captured += 1
            yield Frame(image, self.captured - 1, now_ns())
        if not self.captured:
            raise SourceError(f"{self.name} holds no image that can be read ({self.skipped} tried)")

    @staticmethod
    def _read(path: Path) -> NDArray[uint8] | None:
        try:
            return read_image(path)
        except ImageError:
            return None


def open_source(camera: str, golden: Golden | None) -> Source:
    """Open what `camera` names: a number, a URL, a video or image file, a folder of images, or "demo".

    `golden` feeds the demonstration. Raises `SourceError`.
    """
    if camera == "demo":
        if golden is None:
            raise SourceError(
                "--camera demo shows a model's golden inputs, and a bare model file has none; give its folder"
            )
        return DemoSource(golden)
    if camera.isdigit():
        return CameraSource(int(camera))
    if "://" in camera:
        return CameraSource(camera)
    path = Path(camera).expanduser()
    if path.is_dir():
        return ImagesSource(camera, find_images(path))
    if not path.exists():
        raise SourceError(f"there is no camera or file {camera}; give a number, a URL, a file, a folder, or demo")
    if path.suffix.lower() in SUFFIXES:
        return ImagesSource(camera, [path])
    if path.is_char_device():
        return CameraSource(camera)
    return VideoSource(path)


def found_cameras() -> list[str]:
    """The video devices of a Linux machine with their names, such as "0 (HD Webcam)"."""
    found = []
    for device in sorted(Path("/dev").glob("video[0-9]*"), key=lambda path: (len(path.name), path.name)):
        try:
            name = Path(f"/sys/class/video4linux/{device.name}/name").read_text().strip()
        except OSError:
            name = "unnamed"
        found.append(f"{device.name.removeprefix('video')} ({name})")
    return found


def _open_capture(device: int | str) -> Any:
    from edgecls.opencv import cv2

    network = isinstance(device, str) and "://" in device
    with _silenced():
        if network:
            timeouts = [
                cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
                OPEN_TIMEOUT_MS,
                cv2.CAP_PROP_READ_TIMEOUT_MSEC,
                READ_TIMEOUT_MS,
            ]
            return cv2.VideoCapture(device, cv2.CAP_FFMPEG, timeouts)
        return cv2.VideoCapture(device)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep OpenCV's and FFmpeg's own complaints off the terminal while a device is opened: ours says more.

    They are written by C code to file descriptor 2, so Python's `sys.stderr` cannot be swapped for this.
    """
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def _frame_rate(capture: Any) -> float:
    from edgecls.opencv import cv2

    rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if 1 <= rate <= 240 else DEFAULT_FPS


def _no_camera(index: int) -> str:
    cameras = found_cameras()
    found = f"found: {', '.join(cameras)}" if cameras else "no video device was found on this machine"
    return f"camera {index} cannot be opened; {found}. Without a camera try: edgecls stream --camera demo"


def _no_stream(url: str) -> str:
    waited_s = OPEN_TIMEOUT_MS / 1000
    return f"{url} cannot be opened within {waited_s:g} s; check the address, the credentials and the network"
