"""Video files: their frames one after the other, with the times that their containers give.

PyAV, where it is installed, gives frames as they are decoded, which saves a full-size conversion of each; what it
cannot open, and every file without it, is read by OpenCV.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from edgecls.errors import MissingExtraError, SourceError, first_line
from edgecls.imaging.yuv import Matrix, Picture, Yuv
from edgecls.streaming.config import Decoder
from edgecls.streaming.frames import turned
from edgecls.streaming.sources.base import DEFAULT_FPS

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from numpy import uint8
    from numpy.typing import NDArray

ANEW_S = 1.0
"""A video's time that goes back by more begins anew."""
SLOWEST_CLAIM_FPS, FASTEST_CLAIM_FPS = 1, 240
"""Of a video or camera; what claims another rate knows none."""
PLANAR = {
    "yuv420p": (2, 2), "yuvj420p": (2, 2), "yuv422p": (1, 2), "yuvj422p": (1, 2), "yuv444p": (1, 1),
    "yuvj444p": (1, 1), "nv12": (2, 2),
}  # fmt: skip
"""FFmpeg's pixel formats whose planes are used as they are, with rows and columns of luma for a chroma sample."""
MATRICES: dict[int, Matrix] = {0: "bt601", 1: "bt709", 2: "bt601", 5: "bt601", 6: "bt601", 9: "bt2020"}
"""By FFmpeg's `AVColorSpace`. Where none is told (2) BT.601 is meant, as for OpenCV, whatever the size."""
JPEG_RANGE = 2
"""FFmpeg's `AVCOL_RANGE_JPEG`."""


class VideoReader(ABC):
    """An opened video file."""

    fps: float = DEFAULT_FPS

    @abstractmethod
    def read(self) -> tuple[Picture, float] | None:
        """The next picture and the time in s that the container tells for it, NaN where it tells none.

        None after the last.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class OpenCvReader(VideoReader):
    """A video file through OpenCV's `VideoCapture`. Raises `SourceError` where it holds no video."""

    def __init__(self, path: str):
        from edgecls.imaging.opencv import cv2

        self._capture = cv2.VideoCapture(path)
        if not self._capture.isOpened():
            raise SourceError(f"{path} is not a video that can be decoded")
        self.fps = usual_rate(self._capture.get(cv2.CAP_PROP_FPS))

    def read(self) -> tuple[Picture, float] | None:
        """See `VideoReader.read`."""
        from edgecls.imaging.opencv import cv2

        ok, image = self._capture.read()
        return (image, float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000) if ok else None

    def close(self) -> None:
        """See `VideoReader.close`."""
        self._capture.release()


class PyAvReader(VideoReader):
    """A video file through PyAV, decoded on all processors.

    Pictures of another size than the first are scaled to that. `container` is the file opened for a hardware decoder.
    Raises one of `_failures` where PyAV cannot open the file.
    """

    def __init__(self, path: str, container: InputContainer | None = None):
        import av

        self._path = path
        self._by_hardware = container is not None
        self._container = container or av.open(path)
        if not self._container.streams.video:
            self._container.close()
            raise ValueError("no video stream")
        self._stream = self._container.streams.video[0]
        # Several frames at a time, in a thread more than there are processors, as some wait for others' pictures.
        self._stream.thread_type = "AUTO"
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = usual_rate(float(rate) if rate else 0.0)
        self._frames = self._decoded()
        self._size: tuple[int, int] | None = None

    def read(self) -> tuple[Picture, float] | None:
        """See `VideoReader.read`. Raises `SourceError` where the file, or the hardware, fails before the end."""
        frame = next(self._frames, None)
        if frame is None:
            return None
        self._size = self._size or (frame.width, frame.height)
        if (frame.width, frame.height) != self._size:
            frame = frame.reformat(*self._size, interpolation="BICUBIC")
        begun, base = self._stream.start_time or 0, frame.time_base or self._stream.time_base
        told_s = math.nan if frame.pts is None or base is None else float((frame.pts - begun) * base)
        return _upright(frame), told_s

    def _decoded(self) -> Generator[VideoFrame, None, None]:
        """The frames of the packets that can be decoded; what is damaged or cut off is left out."""
        from av import error

        fatal: tuple[type[Exception], ...] = (
            OSError,
            error.HTTPError,
            error.HTTPClientError,
            error.UnknownError,
        )
        if self._by_hardware:  # of software these are damaged pictures
            fatal = (*fatal, error.ExternalError, error.MemoryError, error.BugError)
        try:
            for packet in self._container.demux(self._stream):
                with suppress(error.InvalidDataError):
                    yield from self._stream.decode(packet)
        except error.FFmpegError as failure:
            if isinstance(failure, fatal):
                raise SourceError(f"{self._path} cannot be read to its end: {first_line(failure)}") from failure

    def close(self) -> None:
        """See `VideoReader.close`."""
        self._frames.close()
        self._container.close()


def open_video(path: str, decoder: Decoder = "software") -> VideoReader:
    """Open a video file. Raises `SourceError` where it holds no video, or no hardware decodes it that is to do so."""
    if decoder == "hardware":
        return _decoded_by_hardware(path)
    with suppress(ImportError, *_failures()):
        return PyAvReader(path)
    return OpenCvReader(path)


def _failures() -> tuple[type[Exception], ...]:
    """What PyAV raises for files and devices that it cannot open; some of FFmpeg's errors are none of Python's own."""
    try:
        from av.error import FFmpegError
    except ImportError:
        return ()
    return (FFmpegError, OSError, ValueError, RuntimeError)


def _decoded_by_hardware(path: str) -> VideoReader:
    try:
        import av
        from av.codec.hwaccel import HWAccel, hwdevices_available
    except ImportError as error:
        raise MissingExtraError("av", "video", "decoding by hardware") from error
    tried = []
    for device in hwdevices_available():
        try:
            return PyAvReader(path, av.open(path, hwaccel=HWAccel(device, allow_software_fallback=False)))
        except _failures() as error:
            tried.append(f"{device} ({first_line(error)})")
    raise SourceError(
        f"no hardware here decodes {path}: tried {', '.join(tried) or 'nothing, as this PyAV knows none'}; leave "
        "`decoder` at software"
    )


def hardware_decoders() -> list[str]:
    """Devices that decode H.264 here, by FFmpeg's names; none where PyAV is not installed."""
    try:
        from av import CodecContext
        from av.codec.hwaccel import HWAccel, hwdevices_available
    except ImportError:
        return []
    found = []
    for device in hwdevices_available():
        with suppress(*_failures()):
            accelerator = HWAccel(device, allow_software_fallback=False)
            if CodecContext.create("h264", "r", hwaccel=accelerator).is_hwaccel:
                found.append(device)
    return found


def _upright(frame: VideoFrame) -> Picture:
    """A frame as it was filmed: telephones write pictures that lie, and say how to turn them."""
    from edgecls.imaging.opencv import cv2

    turns = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}
    turn = turns.get(round(frame.rotation) % 360)
    picture = _picture(frame)
    return picture if turn is None else turned(picture, lambda plane: cv2.rotate(plane, turn))


def _picture(frame: VideoFrame) -> Picture:
    """The planes of a frame, without a copy, or BGR where its format is none of the usual ones."""
    name = frame.format.name
    subsampling, matrix = PLANAR.get(name), MATRICES.get(frame.colorspace)
    if subsampling is None or matrix is None or any(plane.line_size < plane.width for plane in frame.planes):
        return _bgr(frame)
    luma, *chroma = (_plane(plane, 2 if name == "nv12" and plane.index else 1) for plane in frame.planes)
    full_range = name.startswith("yuvj") or frame.color_range == JPEG_RANGE
    return Yuv(luma, chroma, subsampling, matrix, full_range, lambda: _bgr(frame))


def _plane(plane: Any, channels: int) -> NDArray[uint8]:
    import numpy as np

    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width * channels]
    return rows if channels == 1 else rows.reshape(plane.height, plane.width, channels)


def _bgr(frame: VideoFrame) -> NDArray[uint8]:
    """BGR uint8 (H, W, 3) by FFmpeg's scaler, as OpenCV's reader makes it. From any thread."""
    import numpy as np
    from av.video.reformatter import VideoReformatter

    return np.asarray(
        VideoReformatter().reformat(frame, format="bgr24", interpolation="BICUBIC").to_ndarray(), np.uint8
    )


def usual_rate(claimed_fps: float) -> float:
    """The rate that a video or camera claims, in 1/s, or a usual one where the claim is absurd."""
    return claimed_fps if SLOWEST_CLAIM_FPS <= claimed_fps <= FASTEST_CLAIM_FPS else DEFAULT_FPS


class VideoClock:
    """When the frames of a video are due, in s since its first: as its container says, whatever its rate.

    Where the container has no time, or one that stands still or goes back, a frame is due one interval of the nominal
    rate after the last; where it begins anew, as in videos that were joined, it goes on from there.
    """

    def __init__(self, fps: float):
        self._interval_s = 1 / fps
        self._at_s = -self._interval_s
        self._told_s = 0.0
        self._offset_s = 0.0

    def due_s(self, told_s: float) -> float:
        """When a frame is due for which the container tells this time in s; to be asked for each frame in turn."""
        next_s = self._at_s + self._interval_s
        if not math.isfinite(told_s):
            told_s = self._told_s
        if told_s < self._told_s - ANEW_S:
            self._offset_s = next_s - told_s
        self._told_s = told_s
        due_s = told_s + self._offset_s
        self._at_s = due_s if due_s > self._at_s else next_s
        return self._at_s
