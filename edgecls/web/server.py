"""A page's server: where it listens, who may come in, and the thread that it runs in."""

from __future__ import annotations

import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edgecls.backends.base import missing_package
from edgecls.errors import MissingExtraError, OutputError, UsageError, first_line
from edgecls.web.limits import LIMITS, Limits

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LONGEST_TOKEN_BYTES = 1024


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


def host_and_port(address: str, setting: str = "web") -> tuple[str, int]:
    """Where an address says to listen: a port of this machine alone, or host:port. Raises `UsageError`."""
    host, _, port = address.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise UsageError(f"`{setting}` takes a port, or host:port such as 0.0.0.0:8080, not {address!r}")
    return host.strip("[]") or LOOPBACK[0], int(port)


def token_for(hosts: Iterable[str], token: str | None) -> tuple[str | None, bool]:
    """The token to ask for, and whether it was drawn: the one given, one drawn where others can reach a host, or None.

    Raises `UsageError` for a token that no header can hold.
    """
    if token and (not token.isprintable() or len(token) > LONGEST_TOKEN_BYTES):
        raise UsageError(f"the page's token takes 1 to {LONGEST_TOKEN_BYTES} printable characters, without line ends")
    drawn = not token and not all(host in LOOPBACK for host in hosts)
    return secrets.token_urlsafe(16) if drawn else token or None, drawn


def listening(host: str, port: int, what: str = "the web view", setting: str = "web") -> socket.socket:
    """A socket that listens; port 0 is any free one. Raises `OutputError` where the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # By its protocol asyncio knows that small packets must not wait for each other, 40 ms where they do.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen()  # who is told the address finds somebody there, if not at work yet
    except OSError as error:
        opened.close()
        raise OutputError(
            f"{what} cannot listen on {host}:{port}: {error.strerror}; choose another `{setting}`"
        ) from error
    return opened


class Server:
    """Serves one application from a thread of its own.

    `address` is [host:]port; anything but loopback is behind `token`, which is drawn where none is given. `announce`
    hears the page's address once it is served; `closing` tells endless answers to end. `packages` are those that the
    page needs besides the server's. Raises `UsageError` and `MissingExtraError`.
    """

    def __init__(self, address: str, token: str | None = None, limits: Limits = LIMITS, packages: tuple[str, ...] = ()):
        self._host, self._port = host_and_port(address)
        self.token, self.drawn = token_for((self._host,), token)
        for package in ("starlette", "uvicorn", *packages):
            if missing_package(package, "web", ""):
                raise MissingExtraError(package, "web", "the web view")
        self.limits = limits
        self.closing = False
        self.announce: Callable[[str], None] = lambda _url: None
        self._server: Any = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where a browser finds the page, token included."""
        host = socket.gethostname() if self._host in ("0.0.0.0", "::") else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/" + (
            f"?token={quote(self.token, safe='')}" if self.token else ""
        )

    def serve(self, build: Callable[[], Callable[..., Any]]) -> None:
        """Listen, begin to serve the application that `build` makes, and announce it.

        Raises `OutputError` where the address is taken.
        """
        import uvicorn

        from edgecls.web.app import HEADERS
        from edgecls.web.limits import http_protocol

        opened = listening(self._host, self._port)
        self._port = opened.getsockname()[1]
        # Without a configuration of its own: uvicorn would close the log handlers of everybody else in this process.
        config = uvicorn.Config(
            build(), http=http_protocol(self.limits, HEADERS), ws="none",
            log_config=None, log_level="critical", access_log=False, lifespan="off", timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=self.limits.head_bytes,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [opened]}, name="edgecls-web-server", daemon=True
        )
        self._thread.start()
        self.announce(self.url)

    def close(self) -> None:
        """Stop serving."""
        self.closing = True
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(timeout=5)
