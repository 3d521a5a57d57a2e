"""What both protocols share: the models, whether requests are welcome, what they hold, and the log of requests."""

from __future__ import annotations

import hmac
import itertools
import json
import logging
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from edgecls import __version__
from edgecls.clock import milliseconds_since, now_ns
from edgecls.serving.batching import Threads
from edgecls.serving.config import ServeConfig
from edgecls.serving.errors import RequestError
from edgecls.serving.metrics import Times
from edgecls.serving.models import Models

access = logging.getLogger("edgecls.serving.access")
"""Gets a JSON object for each request, at the level INFO."""

EXTENSIONS = ("binary_tensor_data", "classification", "model_repository", "statistics")
LONGEST_ID = 128
"""Characters of a request's id, and of a model's name and version, that are logged and sent in a header."""


@dataclass
class Call:
    """One request, for as long as it is being answered."""

    service: Service
    protocol: str
    method: str
    client: str = ""
    id: str = ""
    trace: str = ""
    model: str = ""
    version: str = ""
    images: int = 0
    status: str = ""
    error: str = ""
    times: Times | None = None
    held_bytes: int = 0
    begun_ns: int = field(default_factory=now_ns)

    @property
    def deadline_ns(self) -> int:
        """When its time is over, unless it has set itself less."""
        return self.begun_ns + int(self.service.config.timeout_s * 1e9)

    @property
    def left_s(self) -> float:
        """Seconds until then."""
        return (self.deadline_ns - now_ns()) / 1e9

    def take_id(self, own: str) -> None:
        """Go by the id that the request itself has, if it has one."""
        self.id = own[:LONGEST_ID] or self.id

    def hold(self, size: int) -> None:
        """Count bytes that it brings. Raises `RequestError` where it brings too many, or all requests together do."""
        config = self.service.config
        self.held_bytes += size
        self.service.held_bytes += size
        if self.held_bytes > 2 * config.body_bytes:  # packed and unpacked
            raise RequestError("too_large", f"a request takes at most {config.body_mib:g} MiB")
        if self.service.held_bytes > config.held_bytes:
            raise RequestError("busy", "the server holds as much as it may for other requests; come back later")

    def to_json(self) -> dict[str, Any]:
        """What the log tells."""
        times = self.times or Times()
        values = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "protocol": self.protocol, "method": self.method, "client": self.client, "id": self.id,
            "trace": self.trace, "model": self.model[:LONGEST_ID], "version": self.version[:LONGEST_ID],
            "status": self.status, "error": self.error, "images": self.images, "batch": times.batch,
            "bytes": self.held_bytes,
            "duration_ms": round(milliseconds_since(self.begun_ns), 3),
            "queue_ms": round(times.queue_ns / 1e6, 3), "infer_ms": round(times.infer_ns / 1e6, 3),
        }  # fmt: skip
        return {name: value for name, value in values.items() if value not in ("", 0)}


class Service:
    """The models, and the state of the server; lives in one event loop."""

    def __init__(self, config: ServeConfig, models: Models, threads: Threads, token: str | None):
        self.config, self.models, self.threads = config, models, threads
        self.draining = False
        self.held_bytes = 0
        self.unanswered = 0
        self.last_ns = now_ns()
        """When a request for a model was answered; probes of the health do not count."""
        self._token = token
        # Random once: asking the system each time lets a computing thread in between.
        self._ids = (f"{prefix}-{number}" for prefix in [secrets.token_hex(4)] for number in itertools.count(1))

    @property
    def ready(self) -> bool:
        """Whether requests are welcome."""
        return not self.draining and self.models.ready

    @property
    def has_token(self) -> bool:
        """Whether clients must know one."""
        return self._token is not None

    def metadata(self) -> dict[str, Any]:
        """Name, version and extensions of the server."""
        return {"name": "edgecls", "version": __version__, "extensions": list(EXTENSIONS)}

    def check_token(self, authorization: str | None) -> None:
        """Raise `RequestError` for a request whose header does not have the token that the server asks for."""
        scheme, _, given = (authorization or "").partition(" ")
        knows = scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), (self._token or "").encode())
        if self._token is not None and not knows:
            raise RequestError("unauthenticated", "the server asks for its token, as Authorization: Bearer TOKEN")

    @contextmanager
    def call(self, protocol: str, method: str, client: str, request_id: str, trace: str = "") -> Iterator[Call]:
        """A request while it is being answered; the log knows it afterwards."""
        call = Call(self, protocol, method, client, request_id[:LONGEST_ID] or next(self._ids), _trace_id(trace))
        self.unanswered += 1
        try:
            yield call
        finally:
            self.unanswered -= 1
            self.held_bytes -= call.held_bytes
            if call.model:
                self.last_ns = now_ns()
            if access.isEnabledFor(logging.INFO):
                access.info("%s", json.dumps(call.to_json()))


def check_load_parameters(names: Iterable[str]) -> None:
    """Raise `RequestError` for what a model should be loaded with: that is said where the server is started.

    `unload_dependents`, which Triton's clients always send, changes nothing, as no model depends on another.
    """
    if {*names} - {"unload_dependents"}:
        raise RequestError(
            "unsupported", "models are loaded as the server was told when it was started; leave parameters out"
        )


def _trace_id(traceparent: str) -> str:
    """The id of the trace that a W3C traceparent names."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else ""
