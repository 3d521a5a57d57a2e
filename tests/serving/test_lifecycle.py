"""Full queues, deadlines, clients that leave, models that change under load, and the end."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

import edgecls
from edgecls.errors import ArtifactError, OutputError, UsageError
from edgecls.runtime.store import Artifact
from edgecls.serving.config import ServeConfig
from edgecls.serving.metrics import Statistics
from edgecls.serving.models import Models, Spec
from tests.serving.conftest import MODEL, PATIENCE_S, Client, Reply, Running, running

PENDING = "nv_inference_pending_request_count"
FORM = "multipart/form-data; boundary=x"


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


@pytest.fixture
def one_at_a_time(configured: Callable[..., ServeConfig]) -> Iterator[Running]:
    """A server that works on one request while one waits."""
    with running(configured(threads=1, queue=2)) as server:
        yield server


def busy(server: Running, pool: ThreadPoolExecutor, slow: bytes, count: int) -> list[Future[Reply]]:
    """So many requests that take long, under way."""
    before = server.metric(PENDING)
    replies = [pool.submit(server.classify, slow) for _ in range(count)]
    server.wait_for(PENDING, before + count)
    return replies


def test_a_full_queue_refuses_at_once(
    one_at_a_time: Running, pool: ThreadPoolExecutor, slow: bytes, png: bytes, protocol: str
):
    replies = busy(one_at_a_time, pool, slow, 2)
    client = Client(protocol, one_at_a_time)
    assert "2 requests waiting" in client.refused("busy", lambda: client.infer(client.images(png)))
    assert one_at_a_time.classify(png).headers["retry-after"] == "1"
    assert not any(reply.done() for reply in replies)
    assert [reply.result().status for reply in replies] == [200, 200]
    assert client.infer(client.images(png)).as_numpy("label").shape == (1,)


@pytest.mark.parametrize("how", ["http timeout", "grpc timeout", "grpc deadline"])
def test_what_is_too_late_is_told_and_not_computed(
    one_at_a_time: Running, pool: ThreadPoolExecutor, slow: bytes, png: bytes, how: str
):
    (reply,) = busy(one_at_a_time, pool, slow, 1)
    client = Client(how.partition(" ")[0], one_at_a_time)
    options = {"client_timeout": 0.15} if how == "grpc deadline" else {"timeout": 50_000}
    client.refused("expired", lambda: client.infer(client.images(png), **options))
    assert not reply.done()
    assert reply.result().status == 200
    one_at_a_time.wait_for(PENDING, 0)
    assert one_at_a_time.metric("nv_inference_exec_count") == 1
    assert one_at_a_time.metric("nv_inference_request_failure", reason="CANCELED") == 1


def test_who_leaves_frees_the_place(
    one_at_a_time: Running, pool: ThreadPoolExecutor, slow: bytes, png: bytes, protocol: str
):
    (reply,) = busy(one_at_a_time, pool, slow, 1)
    if protocol == "grpc":
        client = Client("grpc", one_at_a_time)
        call = client.calls.async_infer(MODEL, [client.images(png)], callback=lambda **_: None)
        one_at_a_time.wait_for(PENDING, 2)
        call.cancel()
    else:
        with socket.create_connection(one_at_a_time.http, PATIENCE_S) as raw:
            head = f"POST /v2/models/{MODEL}/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
            raw.sendall(f"{head}Content-Length: {len(png)}\r\n\r\n".encode() + png)
            one_at_a_time.wait_for(PENDING, 2)
    one_at_a_time.wait_for(PENDING, 1)
    assert not reply.done()
    assert reply.result().status == 200
    one_at_a_time.wait_for(PENDING, 0)
    assert one_at_a_time.metric("nv_inference_exec_count") == 1


def test_a_model_in_use_is_unloaded_after_its_answers(
    one_at_a_time: Running, pool: ThreadPoolExecutor, slow: bytes, png: bytes, protocol: str
):
    (reply,) = busy(one_at_a_time, pool, slow, 1)
    client = Client(protocol, one_at_a_time)
    unloading = pool.submit(one_at_a_time.ask, "POST", f"/v2/repository/models/{MODEL}/unload")
    end_s = time.monotonic() + PATIENCE_S
    while client.calls.is_model_ready(MODEL):
        assert time.monotonic() < end_s
    message = client.refused("not_ready", lambda: client.infer(client.images(png)))
    assert 'model "digits" is not ready: being unloaded' in message
    assert not unloading.done()
    assert (reply.result().status, unloading.result().status) == (200, 200)
    index = one_at_a_time.ask("POST", "/v2/repository/index").json
    assert index == [{"name": MODEL, "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]
    assert one_at_a_time.ask("POST", "/v2/repository/index", b'{"ready": true}').json == []
    client.calls.unload_model(MODEL, unload_dependents=True)  # once more, and with what depends on it: nothing
    client.calls.load_model(MODEL)
    assert client.infer(client.images(png)).as_numpy("label").shape == (1,)


def test_a_model_that_is_none_is_not_ready(client: Client):
    assert client.calls.is_model_ready(MODEL)
    assert not client.calls.is_model_ready("nope")
    assert not client.calls.is_model_ready(MODEL, "9")


def test_loading_again_loses_no_request(
    configured: Callable[..., ServeConfig], pool: ThreadPoolExecutor, png: bytes, protocol: str
):
    with running(configured()) as server:
        stop = threading.Event()

        def ask() -> int:
            client, answered = Client(protocol, server), 0
            while not stop.is_set():
                client.infer(client.images(png))
                answered += 1
            return answered

        asking = [pool.submit(ask) for _ in range(3)]
        for _ in range(4):
            Client("grpc", server).calls.load_model(MODEL)
        server.reload.set()
        end_s = time.monotonic() + PATIENCE_S
        while server.reload.is_set() or server.metric("nv_inference_request_success") < 20:
            assert time.monotonic() < end_s
        stop.set()
        answered = sum(each.result() for each in asking)
        assert server.metric("nv_inference_request_success") == answered >= 20
        assert server.metric("nv_inference_request_failure") == 0


def test_a_bundle_that_breaks_leaves_the_one_before(
    configured: Callable[..., ServeConfig], copy_of: Callable[[Artifact], Path], model: Artifact, png: bytes
):
    path = copy_of(model)
    with running(configured(models=(f"{MODEL}={path}",))) as server:
        label = server.classify(png).json["label"]
        (path / "model.onnx").write_bytes(b"broken")
        client = Client("http", server)
        message = client.refused("invalid", lambda: client.calls.load_model(MODEL))
        assert "the one that was loaded goes on" in message
        assert server.classify(png).json["label"] == label
        shutil.copy(model.path / "model.onnx", path / "model.onnx")
        client.calls.load_model(MODEL)


def test_loading_all_again_goes_on_after_any_error(caplog: pytest.LogCaptureFixture):
    opened: list[str] = []

    async def fail(spec: Spec, _statistics: Statistics) -> NoReturn:
        opened.append(spec.name)
        raise RuntimeError("the driver is gone")

    models = Models([Spec(name, "1", Path(name)) for name in ("a", "b")], fail)
    asyncio.run(models.reload())
    assert opened == ["a", "b"]
    assert caplog.messages == ["model a cannot be loaded", "model b cannot be loaded"]
    assert [(each["state"], each["reason"]) for each in models.index()] == [("UNAVAILABLE", "the driver is gone")] * 2


def test_versions_of_a_model_are_asked_for_by_number(
    configured: Callable[..., ServeConfig], model: Artifact, png: bytes, protocol: str
):
    models = (f"a={model.path}", f"a:7={model.path}", str(model.path))
    with running(configured(models=models)) as server:
        client = Client(protocol, server)
        index = [(each["name"], each["version"]) for each in server.ask("POST", "/v2/repository/index").json]
        assert index == [("a", "1"), ("a", "7"), ("onnx-fp32", "1")]
        for version, answered in (("", "7"), ("1", "1"), ("7", "7")):
            response = client.infer(client.images(png), model="a", model_version=version).get_response()
            assert (response["model_version"] if protocol == "http" else response.model_version) == answered
        assert server.ask("GET", "/v2/models/a").json["versions"] == ["1", "7"]
        client.refused("unknown", lambda: client.calls.get_model_metadata("a", "2"))


def test_the_end_waits_for_what_is_under_way(
    configured: Callable[..., ServeConfig], pool: ThreadPoolExecutor, slow: bytes, png: bytes
):
    with running(configured(threads=1)) as server:
        (reply,) = busy(server, pool, slow, 1)
        server.stop.set()
        end_s = time.monotonic() + PATIENCE_S
        while server.ask("GET", "/v2/health/ready").status != 503:
            assert time.monotonic() < end_s
        client = Client("grpc", server)
        assert client.calls.is_server_live()
        assert not client.calls.is_server_ready()
        late = pool.submit(server.classify, png)
        assert reply.result().status == late.result().status == 200
        assert late.result().headers["connection"] == "close"
        server.end()
        with pytest.raises(OSError):
            server.classify(png)


def test_no_request_is_lost_by_the_end(configured: Callable[..., ServeConfig], pool: ThreadPoolExecutor, png: bytes):
    with running(configured(drain_s=1.0, grpc="off")) as server:

        def ask() -> int:
            """Until nobody listens any more; a connection is left where the server says so."""
            answered = 0
            while True:
                connection = http.client.HTTPConnection(*server.http, timeout=PATIENCE_S)
                try:
                    connection.connect()
                except OSError:
                    return answered
                for sent in itertools.count():
                    path = f"/v2/models/{MODEL}/classify"
                    try:
                        connection.request("POST", path, png, {"Content-Type": "image/png"})
                        response = connection.getresponse()
                    except ConnectionResetError:
                        # It connected as the server stopped listening, and was never let in.
                        assert server.stop.is_set()
                        assert not sent
                        break
                    assert response.status == 200
                    response.read()
                    answered += 1
                    if response.getheader("Connection") == "close":
                        break
                connection.close()

        asking = [pool.submit(ask) for _ in range(4)]
        server.wait_for("edgecls_ready", 1)
        while server.metric("nv_inference_request_success") < 20:
            time.sleep(0.01)
        server.end()
        assert sum(each.result() for each in asking) > 20


def test_the_health_check_of_grpc_follows_the_state(configured: Callable[..., ServeConfig]):
    import grpc

    with running(configured()) as server, grpc.insecure_channel(server.grpc) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=PATIENCE_S) == b"\x08\x01"
        assert check(b"\x0a\x1einference.GRPCInferenceService", timeout=PATIENCE_S) == b"\x08\x01"
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            check(b"\x0a\x01x", timeout=PATIENCE_S)
        watching = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=PATIENCE_S)
        assert next(watching) == b"\x08\x01"
        server.stop.set()
        assert next(watching) == b"\x08\x02"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"models": ("nowhere",)}, ArtifactError, "there is no model at nowhere"),
        ({"models": ("a:1=x", "a:1=y")}, UsageError, "names version 1 of 'a' twice"),
        ({"models": ("-=x",)}, UsageError, "'-' cannot name a model"),
        ({"models": ("a b",)}, UsageError, "'a b' cannot name a model"),
        ({"models": ("..",), "http": "off", "grpc": "off"}, UsageError, "both off"),
        ({"http": "x"}, UsageError, "`http` takes a port"),
        ({"grpc": "1:2:x"}, UsageError, "`grpc` takes a port"),
        ({"models": ("a/b=here",)}, UsageError, "a name of letters"),
        ({"models": ("a:0=here",)}, UsageError, "a version from 1 on"),
        ({"web_token": "süß"}, UsageError, "ASCII"),
        ({"tls_cert": "a.pem"}, UsageError, "belong together"),
        ({"tls_cert": "a.pem", "tls_key": "b.pem"}, UsageError, "cannot be used"),
        ({"body_mib": 600.0}, UsageError, "`held_mib` must be at least"),
        ({"allow_origin": ("shop",)}, UsageError, "`allow_origin` takes a site"),
        ({"web_token": "é"}, UsageError, "the token takes ASCII"),
        ({"queue": 0}, UsageError, "`queue` takes a whole number"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(
    configured: Callable[..., ServeConfig], settings: dict[str, object], error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        edgecls.serve(configured(**settings))


def test_an_address_that_is_taken_is_said(configured: Callable[..., ServeConfig], server: Running, protocol: str):
    taken = str(server.http[1]) if protocol == "http" else server.grpc
    with pytest.raises(OutputError, match=f"choose another `{protocol}`"):
        edgecls.serve(configured(**{protocol: taken}))


def test_the_command_line_serves_until_it_is_told_to_end(model: Artifact, png: bytes, tmp_path: Path):
    bundle = tmp_path / "bundle"
    shutil.copytree(model.path, bundle)
    command = ["serve", f"{MODEL}={bundle}", "--http", "0", "--grpc", "off", "--access-log", "--max-batch", "1"]
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen([sys.executable, "-m", "edgecls", *command], stderr=stderr, env=os.environ)

    def line(start: str) -> str:
        end_s = time.monotonic() + PATIENCE_S
        while True:
            lines = [each for each in log.read_text().splitlines() if each.startswith(start)]
            if lines:
                return lines[-1]
            assert time.monotonic() < end_s, log.read_text()
            time.sleep(0.02)

    try:
        host, port = line("http: ").rpartition("/")[2].split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        headers = {"Content-Type": "image/png", "X-Request-ID": "part 7\x7f", "traceparent": trace}
        connection.request("POST", f"/v2/models/{MODEL}/classify", png, headers)
        with connection.getresponse() as response:
            assert response.status == 200
            response.read()
        told = json.loads(line("{"))
        assert (told["id"], told["status"], told["model"], told["images"]) == ("part 7\x7f", "200", MODEL, 1)
        assert told["trace"] == "0af7651916cd43dd8448eb211c80319c"
        process.send_signal(signal.SIGHUP)
        assert line("model digits was loaded again")
        connection.request("POST", f"/v2/models/{MODEL}/classify", b"{}", {"Content-Type": FORM})
        assert connection.getresponse().status == 400
        (bundle / "card.json").unlink()
        process.send_signal(signal.SIGHUP)
        assert "the one that was loaded goes on" in line("error: ")
    finally:
        process.terminate()
        code = process.wait(PATIENCE_S)
    assert code == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    told = [each for each in log.read_text().splitlines() if each[0] != "{"]
    assert [each.partition(" ")[0] for each in told] == ["model:", "http:", "model", "error:"]  # each thing once


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_the_log_keeps_nobody_from_asking(model: Artifact, png: bytes, tmp_path: Path):
    broken = tmp_path / "bundle"
    shutil.copytree(model.path, broken)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["serve", f"{MODEL}={broken}", "--http", str(port), "--grpc", "off", "--access-log", "--max-batch", "1"]
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen([sys.executable, "-m", "edgecls", *command], stderr=full)

    def ask(method: str, path: str, body: bytes = b"") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, {"Content-Type": "image/png"})
            return connection.getresponse().status
        except ConnectionRefusedError:
            return 0
        finally:
            connection.close()

    try:
        end_s = time.monotonic() + PATIENCE_S
        while ask("GET", "/healthz") != 200:
            assert process.poll() is None
            assert time.monotonic() < end_s
            time.sleep(0.02)
        (broken / "card.json").unlink()
        process.send_signal(signal.SIGHUP)  # the log would tell that this is in vain
        assert ask("POST", f"/v2/repository/models/{MODEL}/load") == 400
        assert ask("POST", f"/v2/models/{MODEL}/classify", png) == 200
    finally:
        process.terminate()
        code = process.wait(PATIENCE_S)
    assert code == 0


def test_batches_are_used_where_they_were_measured_to_pay(model: Artifact):
    from edgecls.serving.batching import BATCHES, MIN_GAIN, measured_batch

    with edgecls.load(model.path, streams=None) as classifier:
        size, per_image_ms = measured_batch(classifier.session, 4)
    assert set(per_image_ms) == {each for each in BATCHES if each <= 4}
    gain = per_image_ms[1] / min(per_image_ms.values())
    assert (size == 1) == (gain < MIN_GAIN)
    assert np.isfinite([*per_image_ms.values()]).all()
