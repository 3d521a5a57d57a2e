"""From what ``cameras`` says to a source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path

from edgecls import plugins
from edgecls.artifact.golden import Golden
from edgecls.errors import SourceError, UsageError
from edgecls.imaging.decode import SUFFIXES, find_images
from edgecls.streaming.config import CameraOptions, CaptureFormat, split_name
from edgecls.streaming.sources.base import Source
from edgecls.streaming.sources.camera import (
    DEMO_FPS,
    SCREEN_FPS,
    DemoDevice,
    OpenCvDevice,
    ScreenDevice,
    VideoFileDevice,
    csi_pipeline,
    has_gstreamer,
    network,
    numbered,
    pipeline,
)
from edgecls.streaming.sources.files import ImagesSource, RawSource, VideoSource
from edgecls.streaming.sources.live import Device, LiveSource
from edgecls.streaming.sources.v4l2 import camera_named
from edgecls.urls import SecretUrl

STDIN = ("-", "stdin")
DEMO = "demo"


def open_source(camera: str, golden: Golden | None, options: CameraOptions = CameraOptions()) -> Source:
    """Open what `camera` names, perhaps with a name of its own in front ("door=...").

    A camera's number or name, "rtsp://..." or any other address, "csi:0", a GStreamer pipeline, "screen:", a video or
    image file, a folder of images, "-" for raw frames on standard input, "demo", which shows `golden`, or SCHEME:REST
    of a package with an entry point of the group `edgecls.sources`: a function of the rest and the options. Live
    sources connect when they are started. Raises `SourceError` and `UsageError`.
    """
    options.check()
    name, camera = split_name(camera)
    source = _open(camera, golden, options)
    if name:
        source.name = name
    return source


def _open(camera: str, golden: Golden | None, options: CameraOptions) -> Source:
    capture, local = options.capture, replace(options.reconnect, must_exist=True)
    live = partial(LiveSource, geometry=options.geometry)
    if camera == DEMO:
        if golden is None:
            raise SourceError(
                "`cameras` demo shows a model's golden inputs, and a bare model file has none; give its folder"
            )
        fps = capture.steady_fps(DEMO_FPS)
        return live(DEMO, lambda: DemoDevice(golden, fps), local)
    if camera in STDIN:
        if capture.width is None or capture.height is None:
            raise UsageError("raw frames on standard input need `width` and `height`; the pixels are bgr24")
        return RawSource(capture.width, capture.height, capture.fps, options.geometry)
    if camera.isdecimal():
        return live(f"camera {camera}", partial(numbered, int(camera), capture), local)
    if " ! " in camera or camera.startswith("csi:"):
        return live(*_through_gstreamer(camera, capture), local)
    if camera.startswith("screen:"):
        fps = capture.steady_fps(SCREEN_FPS)
        return live("screen", lambda: ScreenDevice(camera.removeprefix("screen:"), fps), local)
    scheme, colon, rest = camera.partition(":")
    if colon and (entry := plugins.find(plugins.SOURCES, scheme)):
        return _from_other_package(entry, rest, options)
    if "://" in camera:
        return live(str(SecretUrl(camera)), partial(network, camera, capture), options.reconnect)
    # What looks like a misspelt address is shown like one.
    shown = str(SecretUrl(camera)) if ":" in camera else camera
    try:
        path = Path(camera).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceError(f"`cameras` {shown[:200]!r} cannot be looked up: {type(error).__name__}") from None
    if path.is_dir():
        return ImagesSource(camera, find_images(path), options.geometry)
    if path.is_char_device():
        return live(camera, partial(_device_file, camera, capture), local)
    if not path.exists():
        if plugged_in := camera_named(camera):
            return live(plugged_in.name, partial(numbered, plugged_in.index, capture), local)
        raise SourceError(
            f"there is no camera or file {shown}; give a number, a name as `edgecls cameras` lists it, a URL, a file, "
            "a folder, or demo"
        )
    if path.suffix.lower() in SUFFIXES:
        return ImagesSource(camera, [path], options.geometry)
    if not path.is_file():
        raise SourceError(f"{camera} is a pipe, socket or device that gives no video; use `cameras` - for raw frames")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        # OpenCV's reader of videos ends the whole process on such a name.
        raise SourceError(f"the name {str(path)!r} is not UTF-8, which videos need; rename the file") from None
    if options.realtime:
        return live(path.name, lambda: VideoFileDevice(str(path), capture.fps, options.decoder), local)
    return VideoSource(path, options.geometry, options.decoder)


def _from_other_package(entry: EntryPoint, rest: str, options: CameraOptions) -> Source:
    source = plugins.load(entry)(rest, options)
    if not isinstance(source, Source):
        raise SourceError(f"{entry.name}: gives no Source but a {type(source).__name__}")
    return source


def _through_gstreamer(camera: str, capture: CaptureFormat) -> tuple[str, Callable[[], Device]]:
    if not camera.startswith("csi:"):
        return "pipeline", partial(pipeline, camera, capture)
    sensor = camera.removeprefix("csi:") or "0"
    if not sensor.isdecimal():
        raise UsageError(f"csi: takes a sensor's number, not {sensor!r}")
    capture.steady_fps(DEMO_FPS)
    if not has_gstreamer():
        return f"csi {sensor}", partial(pipeline, "", capture)
    return f"csi {sensor}", partial(pipeline, csi_pipeline(int(sensor), capture), CaptureFormat())


def _device_file(path: str, capture: CaptureFormat) -> Device:
    from edgecls.imaging.opencv import cv2

    return OpenCvDevice(path, cv2.VideoCapture(path), f"{path} cannot be opened; is it in use?", capture)
