"""Real servers on this machine's own addresses, and clients of both protocols."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest

from edgecls.runtime.store import Artifact
from edgecls.serving.config import ServeConfig
from edgecls.serving.errors import GRPC_STATUS, HTTP_STATUS
from edgecls.serving.run import Serving, serve

MODEL = "digits"
PATIENCE_S = 30.0


@dataclass
class Reply:
    """What HTTP answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A server in a thread."""

    serving: Serving
    stop: threading.Event
    reload: threading.Event
    thread: threading.Thread
    failures: list[BaseException] = field(default_factory=list)

    @property
    def http(self) -> tuple[str, int]:
        address = urlsplit(self.serving.addresses["http"])
        return str(address.hostname), int(address.port or 0)

    @property
    def grpc(self) -> str:
        return self.serving.addresses["grpc"].partition("://")[2]

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection(*self.http, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def classify(self, image: bytes, query: str = "") -> Reply:
        return self.ask("POST", f"/v2/models/{MODEL}/classify{query}", image, {"Content-Type": "image/png"})

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in self.ask("GET", "/metrics").body.decode().splitlines():
            if line.startswith((f"{name} ", f"{name}{{")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rpartition(" ")[2])
        return total

    def wait_for(self, name: str, value: float) -> None:
        """Until a metric has this value."""
        end_s = time.monotonic() + PATIENCE_S
        while (now := self.metric(name)) != value:
            assert time.monotonic() < end_s, f"{name} is {now}, not {value}"
            time.sleep(0.005)

    def end(self) -> None:
        self.stop.set()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        assert not self.failures


@contextmanager
def running(config: ServeConfig) -> Iterator[Running]:
    """A server until the block ends."""
    stop, reload, announced = threading.Event(), threading.Event(), threading.Event()
    told: list[Serving] = []
    failures: list[BaseException] = []

    def announce(serving: Serving) -> None:
        told.append(serving)
        announced.set()

    def work() -> None:
        try:
            serve(config, stop, reload, announce)
        except BaseException as error:
            failures.append(error)
        finally:
            announced.set()

    thread = threading.Thread(target=work)
    thread.start()
    announced.wait(PATIENCE_S)
    if failures:
        raise failures[0]
    server = Running(told[0], stop, reload, thread, failures)
    try:
        yield server
    finally:
        stop.set()
        thread.join(PATIENCE_S)


def sent_nothing(server: Running) -> str:
    """The status with which gRPC ends an inference whose client sends no message."""
    import grpc

    ended = threading.Event()

    def no_message() -> Iterator[bytes]:
        ended.wait(PATIENCE_S)
        yield from ()

    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as refused:
        try:
            channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")(no_message(), timeout=PATIENCE_S)
        finally:
            ended.set()
    return str(refused.value.code().name)


@pytest.fixture(scope="session")
def model(bundle: Callable[[str, str], Artifact]) -> Artifact:
    return bundle("onnx", "fp32")


@pytest.fixture(scope="session")
def configured(model: Artifact) -> Callable[..., ServeConfig]:
    """A configuration for any free ports, with a short end."""

    def make(**settings: Any) -> ServeConfig:
        usual = {"models": (f"{MODEL}={model.path}",), "http": "0", "grpc": "0", "max_batch": 1, "drain_s": 5.0}
        return ServeConfig(**{**usual, **settings})

    return make


@pytest.fixture(scope="session")
def server(configured: Callable[..., ServeConfig]) -> Iterator[Running]:
    """One with usual limits, which tests leave as it was."""
    with running(configured()) as started:
        yield started


class Client:
    """Triton's client of a protocol, and its words for the reasons of errors."""

    def __init__(self, protocol: str, server: Running):
        self.protocol = protocol
        self.module = import_module(f"tritonclient.{protocol}")
        address = server.grpc if protocol == "grpc" else "{}:{}".format(*server.http)
        self.calls = self.module.InferenceServerClient(address)
        statuses = {reason: str(status) for reason, status in HTTP_STATUS.items()}
        if protocol == "grpc":
            statuses = {reason: f"StatusCode.{name}" for reason, name in GRPC_STATUS.items()}
        self.statuses = statuses

    def input(self, values: np.ndarray, datatype: str | None = None, name: str = "image", **options: Any) -> Any:
        kind = datatype or ("BYTES" if values.dtype == object else "UINT8")
        tensor = self.module.InferInput(name, list(values.shape), kind)
        tensor.set_data_from_numpy(values, **options)
        return tensor

    def images(self, *contents: bytes) -> Any:
        """Encoded images."""
        return self.input(np.array(contents, dtype=object))

    def infer(self, *inputs: Any, model: str = MODEL, **options: Any) -> Any:
        return self.calls.infer(model, [*inputs], **options)

    def refused(self, reason: str, call: Callable[[], object]) -> str:
        """The message with which a call is refused for a reason."""
        from tritonclient.utils import InferenceServerException

        with pytest.raises(InferenceServerException) as refused:
            call()
        assert refused.value.status() == self.statuses[reason], refused.value
        return str(refused.value.message())


@pytest.fixture(scope="session", params=["http", "grpc"])
def client(request: pytest.FixtureRequest, server: Running) -> Client:
    return Client(request.param, server)


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def png() -> bytes:
    """A small image."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


@pytest.fixture(scope="session")
def slow() -> bytes:
    """An image of few bytes whose decoding takes a good part of a second."""
    return cv2.imencode(".png", np.zeros((5000, 5000, 3), np.uint8))[1].tobytes()
