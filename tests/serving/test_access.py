"""Who may ask: tokens, sites, names of the host, and TLS."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgecls.serving.config import ServeConfig
from tests.serving.conftest import MODEL, PATIENCE_S, Client, Running, running, sent_nothing

TOKEN = "open sesame"


@pytest.fixture(scope="module")
def guarded(configured: Callable[..., ServeConfig]) -> Iterator[Running]:
    with running(configured(web_token=TOKEN, allow_origin=("https://shop.example",))) as server:
        yield server


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Basic b3Blbg==", "Bearer", f"Bearer {TOKEN}x", TOKEN, "Bearer ü"]
)
def test_without_the_token_nothing_but_the_health_is_told(guarded: Running, header: str | None):
    headers = {} if header is None else {"Authorization": header.encode("utf-8").decode("latin-1")}
    for method, path in (("GET", "/v2"), ("GET", "/metrics"), ("POST", f"/v2/models/{MODEL}/infer")):
        reply = guarded.ask(method, path, b"", headers)
        assert (reply.status, set(reply.json)) == (401, {"error"})
        assert reply.headers["www-authenticate"] == "Bearer"
    for path in ("/healthz", "/v2/health/live", "/v2/health/ready"):
        assert guarded.ask("GET", path, b"", headers).status == 200


def test_the_token_lets_in(guarded: Running, png: bytes, protocol: str):
    client = Client(protocol, guarded)
    assert client.calls.is_server_ready()
    message = client.refused("unauthenticated", lambda: client.infer(client.images(png)))
    assert "Authorization: Bearer" in message
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert client.infer(client.images(png), headers=headers).as_numpy("label").shape == (1,)
    assert guarded.ask("GET", "/v2", headers={"Authorization": f"bearer  {TOKEN}"}).status == 200


def test_grpc_reads_nothing_of_who_has_no_token(guarded: Running):
    assert sent_nothing(guarded) == "UNAUTHENTICATED"


def test_an_empty_token_is_none(configured: Callable[..., ServeConfig]):
    with running(configured(web_token="", grpc="off")) as server:
        assert server.serving.token is None
        assert server.ask("GET", "/v2").status == 200


def test_an_address_for_others_asks_for_a_token_that_is_drawn(configured: Callable[..., ServeConfig]):
    with running(configured(http="0.0.0.0:0", grpc="off")) as server:
        assert server.serving.token_drawn
        assert len(server.serving.token or "") > 16
        assert server.ask("GET", "/v2").status == 401
        headers = {"Authorization": f"Bearer {server.serving.token}"}
        assert server.ask("GET", "/v2", headers=headers).status == 200


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}]
)
def test_pages_of_other_sites_are_refused(server: Running, guarded: Running, headers: dict[str, str]):
    for asked in (server, guarded):
        reply = asked.ask("POST", f"/v2/repository/models/{MODEL}/unload", b"", headers)
        assert (reply.status, set(reply.json)) == (403, {"error"})


def test_a_name_that_leads_here_by_chance_is_refused_where_there_is_no_token(server: Running):
    assert server.ask("GET", "/v2", headers={"Host": "rebound.example"}).status == 403
    for own in ("localhost:1", "LocalHost", "127.0.0.1", "[::1]:1"):
        assert server.ask("GET", "/v2", headers={"Host": own}).status == 200


@pytest.mark.parametrize("line", ["GET /v2 HTTP/1.0", "GET http://localhost/v2 HTTP/1.0"])
def test_old_clients_name_no_host_or_put_it_into_the_address(server: Running, line: str):
    with socket.create_connection(server.http, PATIENCE_S) as raw:
        raw.sendall(f"{line}\r\n\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_page_of_a_site_that_may_ask_can_do_so(guarded: Running, png: bytes):
    origin = {"Origin": "https://shop.example"}
    wishes = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    path = f"/v2/models/{MODEL}/classify"
    preflight = guarded.ask("OPTIONS", path, headers={**origin, **wishes})
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == "https://shop.example"
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
    asked = {**origin, "Sec-Fetch-Site": "cross-site", "Content-Type": "image/png", "Authorization": f"Bearer {TOKEN}"}
    reply = guarded.ask("POST", path, png, asked)
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == "https://shop.example"
    assert guarded.ask("OPTIONS", path, headers={"Origin": "https://evil.example", **wishes}).status == 400


def test_both_protocols_speak_tls(configured: Callable[..., ServeConfig], png: bytes, tmp_path: Path):
    import tritonclient.grpc

    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        capture_output=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with running(configured(tls_cert=cert, tls_key=key)) as server:
        assert server.serving.addresses["http"].startswith("https://")
        trusting = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection(*server.http, timeout=PATIENCE_S, context=trusting)
        connection.request("POST", f"/v2/models/{MODEL}/classify", png, {"Content-Type": "image/png"})
        assert connection.getresponse().status == 200
        connection.close()
        client = tritonclient.grpc.InferenceServerClient(server.grpc, ssl=True, root_certificates=str(cert))
        assert client.is_model_ready(MODEL)


def test_the_id_of_a_request_comes_back(server: Running, png: bytes):
    reply = server.ask(
        "POST", f"/v2/models/{MODEL}/classify", png, {"Content-Type": "image/png", "X-Request-ID": "a b\x01c"}
    )
    assert reply.headers["x-request-id"] == "a b?c"
    body = {"id": "x" * 1000, "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [""]}]}
    reply = server.ask("POST", f"/v2/models/{MODEL}/infer", json.dumps(body).encode())
    assert reply.headers["x-request-id"] == "x" * 128
    ids = {server.ask("GET", "/v2").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
