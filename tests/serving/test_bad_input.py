"""What clients should not send: one clear error in the protocol's own form, and nobody else disturbed."""

from __future__ import annotations

import gzip
import json
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from edgecls.runtime.store import Artifact
from edgecls.serving.config import ServeConfig
from tests.serving.conftest import MODEL, PATIENCE_S, Client, Running, running, sent_nothing

Call = Callable[[Client, Artifact], object]


def pixels(model: Artifact, count: int = 1) -> np.ndarray:
    return np.zeros((count, *model.card.input_shape), np.uint8)


WRONG: dict[str, tuple[str, str, Call]] = {
    "unknown model": ("unknown", 'no model "nope"', lambda c, m: c.infer(c.input(pixels(m)), model="nope")),
    "dots in a name": ("unknown", 'no model ".."', lambda c, _: c.calls.get_model_metadata("..")),
    "unknown version": (
        "unknown", 'no version "9"', lambda c, m: c.infer(c.input(pixels(m)), model_version="9"),
    ),
    "wrong name": (
        "invalid", 'one input, "image"; the request brings "x"', lambda c, m: c.infer(c.input(pixels(m), name="x")),
    ),
    "two inputs": ("invalid", 'has one input, "image"', lambda c, m: c.infer(c.input(pixels(m)), c.input(pixels(m)))),
    "wrong type": (
        "invalid", "takes UINT8 (RGB) or BYTES (image files), not \"FP32\"",
        lambda c, m: c.infer(c.input(pixels(m).astype(np.float32), "FP32")),
    ),
    "wrong rank": ("invalid", "takes the shape [N,", lambda c, m: c.infer(c.input(pixels(m)[0]))),
    "wrong size": ("invalid", "takes the shape [N,", lambda c, m: c.infer(c.input(pixels(m)[:, 1:]))),
    "no images": ("invalid", "1 to 256 images, not 0", lambda c, m: c.infer(c.input(pixels(m)[:0]))),
    "too many images": ("invalid", "1 to 256 images, not 257", lambda c, _: c.infer(c.images(*[b"x"] * 257))),
    "no image": ("invalid", "not an image that OpenCV can decode", lambda c, _: c.infer(c.images(b"abc"))),
    "empty image": ("invalid", "the image is empty", lambda c, _: c.infer(c.images(b""))),
    "one of two images": (
        "invalid", "the image is truncated", lambda c, _: c.infer(c.images(b"\xff\xd8\xff", b"\xff\xd8\xff")),
    ),
    "unknown output": (
        "invalid", 'no output "x"; it has scores, probabilities, label',
        lambda c, m: c.infer(c.input(pixels(m)), outputs=[c.module.InferRequestedOutput("x")]),
    ),
    "classes of labels": (
        "invalid", "cannot give classification 2",
        lambda c, m: c.infer(c.input(pixels(m)), outputs=[c.module.InferRequestedOutput("label", class_count=2)]),
    ),
    "odd confidence": (
        "invalid", "min_confidence takes a number from 0 to 1",
        lambda c, m: c.infer(c.input(pixels(m)), parameters={"min_confidence": "much"}),
    ),
    "load of none": ("unknown", 'no model "nope"', lambda c, _: c.calls.load_model("nope")),
    "load of a path": (
        "unsupported", "leave parameters out", lambda c, _: c.calls.load_model(MODEL, config='{"path": "/etc"}'),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_request_is_refused_with_a_reason(client: Client, model: Artifact, what: str):
    reason, message, call = WRONG[what]
    assert message in client.refused(reason, lambda: call(client, model))
    assert len(client.infer(client.input(pixels(model))).as_numpy("label")) == 1  # the connection goes on


def test_an_image_of_a_billion_pixels_is_not_decoded(client: Client):
    head = b"\xff\xd8\xff\xc0\x00\x11\x08\x75\x30\x75\x30\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    message = client.refused("invalid", lambda: client.infer(client.images(head + b"\xff\xd9")))
    assert "more than 200000000 pixels" in message


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404), ("GET", f"/v2/models/{MODEL}/infer", 405), ("POST", "/v2", 405),
        ("GET", "/v2/models/%2e%2e%2f%2e%2e/ready", 404), ("GET", "/v2/models/../../etc/passwd", 404),
        ("GET", f"/v2/models/{'x' * 5000}", 404), ("POST", "/v2/repository/models/..%2f/load", 404),
        ("BREW", "/v2", 405), ("GET", f"/v2/models/{MODEL}/", 404), ("POST", f"/v2/models/{MODEL}/classify/", 404),
    ],
)  # fmt: skip
def test_odd_addresses_are_answered_as_json(server: Running, method: str, path: str, status: int):
    reply = server.ask(method, path)
    assert reply.status == status
    assert set(reply.json) == {"error"}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Encoding": "gzip"}, gzip.compress(b"0" * (80 << 20)), 413),
        ({"Content-Encoding": "gzip"}, gzip.compress(b"{}", mtime=0)[:-4], 400),
        ({"Content-Encoding": "gzip"}, gzip.compress(b"{}", mtime=0) + b"more", 400),
        ({"Content-Encoding": "gzip"}, b"plain", 400),
        ({"Content-Encoding": "deflate"}, b"plain", 400),
        ({"Content-Encoding": "br"}, b"plain", 415),
        ({"Inference-Header-Content-Length": "9999"}, b"{}", 400),
        ({"Inference-Header-Content-Length": "two"}, b"{}", 400),
        ({}, b"\0" * ((32 << 20) + 1), 413),
        ({}, b" " * (9 << 20), 413),
        ({}, b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1048576, 1048576], "data": []}]}', 413),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value)[:40],
)  # fmt: skip
def test_odd_bodies_are_refused(server: Running, headers: dict[str, str], body: bytes, status: int):
    reply = server.ask("POST", f"/v2/models/{MODEL}/infer", body, headers)
    assert (reply.status, set(reply.json)) == (status, {"error"})


def test_a_body_longer_than_it_may_be_is_not_waited_for(server: Running):
    with socket.create_connection(server.http, PATIENCE_S) as raw:
        head = f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n"
        raw.sendall(head.encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(server.http, PATIENCE_S) as raw:
        head = f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw.sendall(head.encode())
        try:
            for _ in range(34):
                raw.sendall(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")
        except OSError:
            pass  # the server has ended it already
        else:
            assert raw.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"\0\1\2\3 nothing\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n" + b"X-A: b\r\n" * 5000 + b"\r\n",
    ],
    ids=["no HTTP", "no length", "header flood"],
)
def test_what_is_no_http_gets_a_json_error_and_its_end(server: Running, sent: bytes):
    with socket.create_connection(server.http, PATIENCE_S) as raw:
        raw.sendall(sent)
        answer = b""
        while piece := raw.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert set(json.loads(answer.partition(b"\r\n\r\n")[2])) == {"error"}


def grpc_call(server: Running, method: str, content: bytes, **options: Any) -> bytes:
    """Any bytes as the message of a call."""
    import grpc

    with grpc.insecure_channel(server.grpc, [("grpc.max_send_message_length", -1)]) as channel:
        return channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(content, timeout=PATIENCE_S, **options)


def test_a_message_that_is_cut_off_or_too_large_has_its_status(server: Running):
    import grpc

    def status(method: str, content: bytes, **options: Any) -> grpc.StatusCode:
        with pytest.raises(grpc.RpcError) as refused:
            grpc_call(server, method, content, **options)
        return refused.value.code()

    assert status("ModelInfer", b"\x0a\xff\x01abc") is grpc.StatusCode.INVALID_ARGUMENT
    assert status("ModelInfer", b"\xff" * 100) is grpc.StatusCode.INVALID_ARGUMENT
    assert status("ModelInfer", b"") is grpc.StatusCode.NOT_FOUND
    assert status("Nothing", b"") is grpc.StatusCode.UNIMPLEMENTED
    assert status("ModelInfer", b"\0" * (33 << 20)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    bomb = status("ModelInfer", b"\0" * (64 << 20), compression=grpc.Compression.Gzip)
    assert bomb is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert grpc_call(server, "ServerLive", b"") == b"\x08\x01"


def test_a_tensor_of_a_trillion_elements_is_refused_by_its_shape(server: Running):
    from tritonclient.grpc import service_pb2

    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=[2**20, 2**20])
    request = service_pb2.ModelInferRequest(model_name=MODEL, inputs=[tensor], raw_input_contents=[b"x"])
    with pytest.raises(Exception, match="more than 2147483648 elements"):
        grpc_call(server, "ModelInfer", request.SerializeToString())
    for changes in ({"raw_input_contents": [b"", b""]}, {"raw_input_contents": []}):
        tensor.shape[:] = [1]
        message = service_pb2.ModelInferRequest(model_name=MODEL, inputs=[tensor], **changes)
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            grpc_call(server, "ModelInfer", message.SerializeToString())


def test_a_wrong_request_fails_none_of_those_it_could_share_a_batch_with(
    configured: Callable[..., ServeConfig], model: Artifact, png: bytes
):
    with running(configured(max_batch=8, batch_delay_ms=50.0, grpc="off")) as server:
        replies: list[int] = []

        def ask(image: bytes) -> None:
            replies.append(server.classify(image).status)

        threads = [threading.Thread(target=ask, args=(png if i % 2 else png[:-9],)) for i in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert sorted(replies) == [200] * 6 + [400] * 6
        assert server.metric("nv_inference_exec_count") < 6  # some were put together
        assert server.metric("nv_inference_count") == 6


def test_thousands_of_idle_connections_keep_nobody_out(configured: Callable[..., ServeConfig], png: bytes):
    with running(configured(connections=64, grpc="off")) as server, ExitStack() as stack:
        for index in range(600):
            raw = stack.enter_context(socket.create_connection(server.http, PATIENCE_S))
            if index % 3:
                raw.sendall(b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: localhost\r\n"[: index % 50 + 1])
            if index % 100 == 0:
                assert server.classify(png).status == 200
        assert server.classify(png).status == 200


def test_idle_connections_of_grpc_keep_nobody_out(server: Running, png: bytes, model: Artifact):
    host, port = server.grpc.split(":")
    opened = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4" + b"\0" * 5  # an empty SETTINGS frame
    with ExitStack() as stack:
        for index in range(150):
            raw = stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_S))
            raw.sendall([b"", opened, b"garbage\r\n\r\n"][index % 3])
        client = Client("grpc", server)
        assert len(client.infer(client.input(pixels(model))).as_numpy("label")) == 1
        assert server.classify(png).status == 200


def test_a_body_that_does_not_come_ends_and_takes_no_place(configured: Callable[..., ServeConfig], png: bytes):
    with running(configured(queue=1, timeout_s=0.5, grpc="off")) as server:
        head = f"POST /v2/models/{MODEL}/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\nabc"
        with socket.create_connection(server.http, PATIENCE_S) as raw:
            raw.sendall(head.encode())
            assert server.classify(png).status == 200
            assert raw.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_message_that_does_not_come_ends(configured: Callable[..., ServeConfig]):
    with running(configured(timeout_s=0.2, http="off")) as server:
        assert sent_nothing(server) == "DEADLINE_EXCEEDED"


def test_requests_hold_no_more_together_than_they_may(configured: Callable[..., ServeConfig], png: bytes):
    with running(configured(body_mib=1.0, held_mib=1.5, grpc="off")) as server:
        head = f"POST /v2/models/{MODEL}/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"

        def beginning() -> socket.socket:
            raw = socket.create_connection(server.http, PATIENCE_S)
            raw.sendall(head.encode() + b"\0" * 999_000)
            return raw

        raw, end_s = beginning(), time.monotonic() + PATIENCE_S
        while (reply := server.classify(b"\0" * 900_000)).status != 503:
            assert time.monotonic() < end_s
            if select.select([raw], [], [], 0)[0]:  # it came second, and was the one to be refused
                raw.close()
                raw = beginning()
        with raw:
            assert reply.headers["retry-after"] == "1"
            assert server.classify(png).status == 200
        server.wait_for("edgecls_unanswered_requests", 1)  # that of the metrics alone
        assert server.classify(b"\0" * 900_000).status == 400
