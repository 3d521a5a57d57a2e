"""Cameras that misbehave on command: a real MJPEG server and a real RTSP server on loopback."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgecls.imaging.opencv import cv2

SYSTEM_PYTHON = "/usr/bin/python3"


def numbered(index: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """A frame of a width and height whose brightness is its number."""
    return np.full((size[1], size[0], 3), index, np.uint8)


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until something is true; after so many seconds it hangs."""
    begun = time.perf_counter()
    while not true():
        assert time.perf_counter() - begun < seconds, "it did not happen"
        time.sleep(0.02)


class MjpegServer(http.server.ThreadingHTTPServer):
    """A camera as webcams and phones serve it: multipart JPEG frames over HTTP, on loopback."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0, frames: int | None = None, interval_s: float = 0.02):
        self.frames = frames
        self.interval_s = interval_s
        self.size = (64, 48)
        self.picture: Callable[[int], np.ndarray] = lambda index: numbered(100 + index % 100, self.size)
        self.frozen = False
        self.cut = False
        self.served = 0
        super().__init__(("127.0.0.1", port), MjpegHandler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/video.mjpg"

    def stop(self) -> None:
        self.cut = True
        self.shutdown()
        self.server_close()
        self._thread.join()


class MjpegHandler(http.server.BaseHTTPRequestHandler):
    server: MjpegServer

    def do_GET(self) -> None:
        server = self.server
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        index = 0
        while not server.cut and (server.frames is None or index < server.frames):
            time.sleep(server.interval_s)
            if server.frozen:
                continue
            jpeg = cv2.imencode(".jpg", server.picture(index))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + jpeg + b"\r\n")
            except OSError:
                return
            index += 1
            server.served += 1

    def log_message(self, *arguments: object) -> None:
        pass


RTSP_SCRIPT = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer, GLib
Gst.init(None)
server = GstRtspServer.RTSPServer(); server.set_address("127.0.0.1"); server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory(); factory.set_shared(True)
factory.set_launch("( videotestsrc is-live=true pattern=ball ! video/x-raw,width=%s,height=%s,framerate=30/1 "
    "! videoconvert ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 "
    "! rtph264pay name=pay0 pt=96 )" % tuple(sys.argv[2:4]))
server.get_mount_points().add_factory("/live", factory)
assert server.attach(None)
print("serving", flush=True)
GLib.MainLoop().run()
"""


class RtspServer:
    """GStreamer's RTSP server with an H.264 test picture, in a process of its own."""

    def __init__(self, port: int, size: tuple[int, int] = (320, 240)):
        self.url = f"rtsp://127.0.0.1:{port}/live"
        command = [SYSTEM_PYTHON, "-c", textwrap.dedent(RTSP_SCRIPT), str(port), *map(str, size)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == "serving"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def missing_rtsp() -> str | None:
    """Why there is no RTSP server here, or None."""
    check = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if not Path(SYSTEM_PYTHON).exists() or subprocess.run([SYSTEM_PYTHON, "-c", check], capture_output=True).returncode:
        return "GStreamer's RTSP server is not installed (gir1.2-gst-rtsp-server-1.0, python3-gi)"
    elements = "import gi; gi.require_version('Gst', '1.0'); from gi.repository import Gst; Gst.init(None); "
    elements += "assert Gst.ElementFactory.find('x264enc')"
    if subprocess.run([SYSTEM_PYTHON, "-c", elements], capture_output=True).returncode:
        return "GStreamer has no x264enc here (gstreamer1.0-plugins-ugly)"
    return None


def found(program: str) -> str | None:
    """Where a program is, system folders included."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin")


def free_port() -> int:
    """A port that nobody uses now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
