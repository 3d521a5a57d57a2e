"""The web view as a sink."""

from __future__ import annotations

import re
import secrets
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgecls.backends.base import missing_package
from edgecls.errors import MissingExtraError, OutputError, UsageError, first_line
from edgecls.streaming.decision import Decision, Event, Health
from edgecls.streaming.frames import Frame
from edgecls.streaming.sinks.base import Sink
from edgecls.streaming.web.guard import LIMITS, Limits

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LATEST_EVENTS = 50
JPEG_QUALITY = 80
LONGEST_TOKEN_BYTES = 1024
LARGEST_SIDE_PX = 1280
"""Larger pictures are halved until they fit, for the browser's and the network's sake."""


def read_token(path: Path) -> str:
    """The page's token from a file of one line. Raises `UsageError`, which shows nothing of what is in it."""
    try:
        if not path.is_file():
            raise UsageError(f"`web_token_file`: {str(path)!r} is no file")
        with path.open("rb") as stream:
            token = stream.read(LONGEST_TOKEN_BYTES + 1).decode().strip()
    except UnicodeDecodeError:
        raise UsageError(f"`web_token_file`: {str(path)!r} is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        message = getattr(error, "strerror", None) or first_line(error)
        raise UsageError(f"`web_token_file`: {str(path)!r} cannot be read: {message}") from None
    if not token or not token.isprintable() or len(token) > LONGEST_TOKEN_BYTES:
        raise UsageError(
            f"`web_token_file`: {str(path)!r} must hold one line of 1 to {LONGEST_TOKEN_BYTES} printable characters"
        )
    return token


class WebSink(Sink):
    """Serves the page from a thread of its own. A picture is encoded when a browser asks for it, once for all of them.

    `address` is [host:]port; anything but loopback is behind `token`, which is drawn where none is given. `announce`
    hears the page's address once it is served.
    """

    name = "web"

    def __init__(self, address: str, token: str | None = None, limits: Limits = LIMITS):
        host, _, port = address.rpartition(":")
        host = host.strip("[]") or "127.0.0.1"
        if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
            raise UsageError(f"`web` takes a port, or host:port such as 0.0.0.0:8080, not {address!r}")
        if token and (not token.isprintable() or len(token) > LONGEST_TOKEN_BYTES):
            raise UsageError(
                f"the page's token takes 1 to {LONGEST_TOKEN_BYTES} printable characters, without line ends"
            )
        for package in ("starlette", "uvicorn", "prometheus_client"):
            if missing_package(package, "web", ""):
                raise MissingExtraError(package, "web", "the web view")
        self.drawn = not token and host not in LOOPBACK
        self.token = secrets.token_urlsafe(16) if self.drawn else token
        self._host, self._port = host, int(port)
        self._limits = limits
        self.closing = False
        self._latest: dict[str, tuple[int, Frame]] = {}
        self._encoded: dict[str, tuple[int, bytes]] = {}
        self._encoding = threading.Lock()
        self._events: OrderedDict[str, Event] = OrderedDict()
        self._events_lock = threading.Lock()
        self._server: Any = None
        self._thread: threading.Thread | None = None
        self.health: Callable[[], Health] = _nothing
        self.announce: Callable[[str], None] = lambda _url: None

    @property
    def url(self) -> str:
        """Where a browser finds the page, token included."""
        host = socket.gethostname() if self._host in ("0.0.0.0", "::") else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/" + (
            f"?token={quote(self.token, safe='')}" if self.token else ""
        )

    def open(self, health: Callable[[], Health]) -> None:
        """See `Sink.open`."""
        import uvicorn

        from edgecls.streaming.web.app import HEADERS, build
        from edgecls.streaming.web.guard import http_protocol

        self.health = health
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self._host, self._port))
            listening.listen()  # who is told the address finds somebody there, if not at work yet
        except OSError as error:
            listening.close()
            raise OutputError(
                f"the web view cannot listen on {self._host}:{self._port}: {error.strerror}; choose another `web`"
            ) from error
        self._port = listening.getsockname()[1]
        # Without a configuration of its own: uvicorn would close the log handlers of everybody else in this process.
        config = uvicorn.Config(
            build(self, self.token, self._limits), http=http_protocol(self._limits, HEADERS), ws="none",
            log_config=None, log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=self._limits.head_bytes,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="edgecls-web-server", daemon=True
        )
        self._thread.start()
        self.announce(self.url)

    def write(self, frame: Frame, decision: Decision) -> None:
        """See `Sink.write`."""
        self._latest[decision.camera] = (frame.index, frame)

    def event(self, event: Event) -> None:
        """See `Sink.event`."""
        with self._events_lock:
            self._events[event.id] = event
            while len(self._events) > LATEST_EVENTS:
                self._events.popitem(last=False)

    def events(self) -> list[dict[str, Any]]:
        """Recent events, newest first."""
        with self._events_lock:
            return [event.to_json() for event in reversed(self._events.values())]

    def picture(self, camera: str, after: int) -> tuple[int, bytes] | None:
        """See `web.app.Feed.picture`."""
        latest = self._latest.get(camera)
        if latest is None or latest[0] == after:
            return None
        number, frame = latest
        with self._encoding:
            encoded = self._encoded.get(camera)
            if encoded is None or encoded[0] != number:
                encoded = (number, _jpeg(frame))
                self._encoded[camera] = encoded
        return encoded

    def begin_shutdown(self) -> None:
        """See `Sink.begin_shutdown`: browsers' endless answers end."""
        self.closing = True

    def close(self) -> None:
        """Stop serving."""
        self.closing = True
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(timeout=5)


def _jpeg(frame: Frame) -> bytes:
    from edgecls.imaging.opencv import cv2

    image = frame.image
    while max(image.shape[:2]) > LARGEST_SIDE_PX:
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _nothing() -> Health:
    return Health("", 0.0, (), ())
