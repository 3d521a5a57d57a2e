"""From a configuration to a server, and to its end without a request lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from edgecls.backends import OnProgress
from edgecls.backends.base import missing_package
from edgecls.clock import milliseconds_since, now_ns
from edgecls.concurrency import usable_cpus
from edgecls.errors import MissingExtraError, OutputError, UsageError, first_line
from edgecls.files import read_bytes
from edgecls.imaging.opencv import single_threaded
from edgecls.runtime.classifier import Classifier, load
from edgecls.serving import http as rest
from edgecls.serving.batching import BATCHES, Batcher, Threads, measured_batch
from edgecls.serving.config import ServeConfig
from edgecls.serving.metrics import Statistics
from edgecls.serving.model import Model
from edgecls.serving.models import Models, Spec, specs_of
from edgecls.serving.service import Service
from edgecls.web.limits import http_protocol
from edgecls.web.server import listening, token_for

TICK_S = 0.05
"""How often it is looked whether somebody wants an end, or the models again."""
QUIET_S = 0.5
"""Of the end: who has not asked for so long has seen that requests are no longer welcome."""
FORCED_S = 0.5
"""For what is still under way when the time for the end is over."""


@dataclass(frozen=True)
class Serving:
    """What is served where: an address for each protocol, the token to give, and the models, with how many images each
    infers together and why.
    """

    addresses: dict[str, str]
    token: str | None
    token_drawn: bool
    models: tuple[str, ...]


def serve(
    config: ServeConfig | None = None,
    stop: threading.Event | None = None,
    reload: threading.Event | None = None,
    announce: Callable[[Serving], None] = lambda _: None,
    on_progress: OnProgress = lambda _: None,
) -> None:
    """Serve models until `stop` is set; `reload` has all of them opened again, and is cleared.

    `announce` hears when requests are welcome. At the end requests are answered until no more come, for `drain_s` at
    most. Raises `MissingExtraError`, `UsageError`, `OutputError` where an address is taken, and as `load` does.
    """
    config = ServeConfig.checked(config)
    _require_packages(config)
    _check_certificate(config)
    specs = specs_of(config.models)
    token, drawn = token_for((host for host, _ in config.addresses().values()), config.token())
    if token is not None and not token.isascii():
        raise UsageError("the token takes ASCII characters, as the headers of clients do; choose another one")
    server = _Server(config, specs, token, drawn, announce, on_progress)
    with single_threaded():
        asyncio.run(server.run(stop or threading.Event(), reload or threading.Event()))


def _require_packages(config: ServeConfig) -> None:
    """Raise `MissingExtraError` where a package of the extra is not installed."""
    packages = {
        "http": ("starlette", "uvicorn", "prometheus_client", "python_multipart"),
        "grpc": ("grpc", "google.protobuf"),
    }
    for protocol in config.addresses():
        for package in packages[protocol]:
            if missing_package(package, "serve", ""):
                raise MissingExtraError(package, "serve", f"serving by {protocol}")


def _check_certificate(config: ServeConfig) -> None:
    """Raise `UsageError` for a certificate that nobody could be shown."""
    if config.tls_cert is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_cert, config.tls_key, password="")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UsageError(f"`tls_cert` and `tls_key` cannot be used: {reason}") from error


class _Server:
    """Both protocols around the same models, in one event loop."""

    def __init__(
        self,
        config: ServeConfig,
        specs: list[Spec],
        token: str | None,
        token_drawn: bool,
        announce: Callable[[Serving], None],
        on_progress: OnProgress,
    ):
        self._config, self._specs = config, specs
        self._token, self._token_drawn = token, token_drawn
        self._announce, self._on_progress = announce, on_progress
        self._threads = Threads(config.threads or usable_cpus())
        self._told: dict[tuple[str, str], str] = {}
        self._batches: dict[tuple[str, ...], tuple[int, str]] = {}
        self._http: Any = None
        self._grpc: Any = None
        self._serving: asyncio.Task[None] | None = None

    async def run(self, stop: threading.Event, reload: threading.Event) -> None:
        """Serve until the end."""
        models = Models(self._specs, self._open)
        service = Service(self._config, models, self._threads, self._token)
        try:
            await models.load_all()
            addresses = await self._listen(service)
            self._announce(Serving(addresses, self._token, self._token_drawn, tuple(self._told.values())))
            reloading: asyncio.Task[None] | None = None
            while not stop.is_set():
                if reload.is_set() and (reloading is None or reloading.done()):
                    reload.clear()
                    reloading = asyncio.create_task(models.reload())
                self._check_alive()
                await asyncio.sleep(TICK_S)
            await self._drain(service)
        finally:
            await self._close(models)

    async def _open(self, spec: Spec, statistics: Statistics) -> Model:
        """Open a model, and measure whether it gains by batches."""
        loop = asyncio.get_running_loop()
        config = self._config
        opening = partial(
            load, spec.path, config.threads, self._on_progress, streams=None, check=not config.no_check,
            unknown=config.unknown, false_refusals=config.false_refusals,
        )  # fmt: skip
        classifier = await loop.run_in_executor(self._threads.background, opening)
        try:
            files = tuple(classifier.card.lineage.files.values())
            if not files or files not in self._batches:  # the same files again need no measuring beside requests
                self._batches[files] = await loop.run_in_executor(
                    self._threads.background, _batch_of, classifier, config.max_batch
                )
            size, why = self._batches[files]
        except BaseException:
            classifier.close()
            raise
        self._told[spec.name, spec.version] = f"{spec.name}, version {spec.version}: {classifier.path} ({why})"
        batcher = Batcher(classifier.session, self._threads, statistics, size, config.batch_delay_ms)
        return Model(spec.name, spec.version, classifier, self._threads, batcher, statistics, config)

    async def _listen(self, service: Service) -> dict[str, str]:
        """Where each protocol listens now. Raises `OutputError` and `UsageError`."""
        config = self._config
        secure = "s" if config.tls_cert else ""
        addresses = {}
        for protocol, (host, port) in config.addresses().items():
            shown = f"[{host}]" if ":" in host else host
            if protocol == "http":
                opened = listening(host, port, "HTTP", "http")
                self._serving = self._start_http(service, opened)
                addresses["http"] = f"http{secure}://{shown}:{opened.getsockname()[1]}"
                while not self._http.started and not self._serving.done():
                    await asyncio.sleep(0.01)
            else:
                addresses["grpc"] = f"grpc{secure}://{shown}:{await self._start_grpc(service, f'{shown}:{port}')}"
        return addresses

    def _start_http(self, service: Service, opened: Any) -> asyncio.Task[None]:
        import uvicorn

        class Server(uvicorn.Server):  # type: ignore[misc]
            def capture_signals(self) -> contextlib.AbstractContextManager[None]:
                """Leaves signals to whoever started the program."""
                return contextlib.nullcontext()

        limits, config = self._config.limits, self._config
        assert limits.idle_s is not None
        settings = uvicorn.Config(
            rest.build(service), http=http_protocol(limits, rest.HEADERS, rest.refusal_of_connection), ws="none",
            log_config=None, log_level="critical", access_log=False, lifespan="off", server_header=False,
            timeout_keep_alive=int(limits.idle_s), h11_max_incomplete_event_size=limits.head_bytes,
            ssl_certfile=config.tls_cert, ssl_keyfile=config.tls_key,
        )  # fmt: skip
        self._http = Server(settings)
        return asyncio.create_task(self._http.serve(sockets=[opened]))

    async def _start_grpc(self, service: Service, address: str) -> int:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what fails is said in our words
        import grpc

        from edgecls.serving.grpc import build

        server, config = build(service), self._config
        try:
            if config.tls_cert and config.tls_key:
                pair = (read_bytes(config.tls_key), read_bytes(config.tls_cert))
                port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OutputError(f"gRPC cannot listen on {address}; choose another `grpc`") from error
        await server.start()
        self._grpc = server
        return int(port)

    def _check_alive(self) -> None:
        """Raise what ended the HTTP server, which ends with us alone."""
        if self._serving is not None and self._serving.done():
            self._serving.result()
            raise OutputError("the HTTP server ended by itself")

    async def _drain(self, service: Service) -> None:
        """Answer what comes until nobody asks, then what is under way."""
        service.draining = True
        begun_ns, limit_s = now_ns(), self._config.drain_s

        def left_s() -> float:
            return limit_s - milliseconds_since(begun_ns) / 1000

        while left_s() > 0 and (service.unanswered or milliseconds_since(service.last_ns) < 1000 * QUIET_S):
            await asyncio.sleep(TICK_S)
        grace_s = max(FORCED_S, left_s())
        ends = [self._grpc.stop(grace_s)] if self._grpc is not None else []
        if self._http is not None and self._serving is not None:
            self._http.config.timeout_graceful_shutdown = grace_s
            self._http.should_exit = True
            ends.append(self._serving)
        await asyncio.gather(*ends)

    async def _close(self, models: Models) -> None:
        """Free everything; nothing is waited for that an error left behind."""
        if self._serving is not None and not self._serving.done():
            self._http.should_exit = self._http.force_exit = True
            await asyncio.wait([self._serving])
        if self._grpc is not None:
            await self._grpc.stop(0)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(models.close(), FORCED_S + self._config.drain_s)
        self._threads.close()


def _batch_of(classifier: Classifier, forced: int | None) -> tuple[int, str]:
    """How many images a model infers together, within what it was built for, and why in words."""
    runtime = classifier.card.runtime
    most = runtime.batch[2] if runtime and runtime.batch else None
    if forced is not None:
        size = min(forced, most or forced)
        return size, f"batches of up to {size}" if size > 1 else "no batches"
    size, per_image_ms = measured_batch(classifier.session, most or BATCHES[-1])
    alone = f"{per_image_ms[1]:.2f} ms an image"
    if size == 1:
        return 1, f"{alone}; batches do not pay"
    return size, f"{alone}, {per_image_ms[size]:.2f} ms in batches of up to {size}"
