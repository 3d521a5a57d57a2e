"""Events for other machines: a real MQTT broker, and a real web server that fails half of the time."""

from __future__ import annotations

import http.server
import itertools
import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edgecls.errors import MissingExtraError, OutputError, UsageError
from edgecls.streaming.decision import Event, Health, State, StateChange
from edgecls.streaming.outbox import Outbox
from edgecls.streaming.sinks import network
from edgecls.streaming.sinks.network import MqttSink, WebhookSink
from tests.schemas import assert_described
from tests.streaming.cameras import found, free_port, until

MOSQUITTO = found("mosquitto")
NO_BROKER = "mosquitto is not installed"


NOW, LATER = "2026-01-01T12:00:00.000+00:00", "2026-01-01T12:00:01.000+00:00"


def event(number: int, camera: str = "door", ended: str | None = LATER) -> Event:
    return Event(f"{camera}-{number}", camera, "cat", NOW, 0.0, 1.0, 0, 9, 10, 0.9, ended)


def nothing() -> Health:
    return Health("model", 0.0, (), ())


@pytest.fixture
def outbox_of() -> Iterator[Any]:
    """Start a sink behind its queue, and close it in the end."""
    started: list[Outbox] = []

    def start(sink: Any) -> Outbox:
        started.append(Outbox(sink))
        started[-1].start(nothing)
        return started[-1]

    yield start
    for outbox in started:
        outbox.close()


class Broker:
    """A mosquitto of our own."""

    def __init__(self, folder: Path, port: int):
        self.port = port
        (folder / "m.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
        self._command = [str(MOSQUITTO), "-c", str(folder / "m.conf")]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        until(listens)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


class Subscriber:
    """Hears everything below a topic, across outages of the broker."""

    def __init__(self, port: int, topic: str):
        import paho.mqtt.client as mqtt

        self.heard: list[tuple[str, str]] = []
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        self._client.reconnect_delay_set(0.1, 0.2)
        self._client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
        self._client.on_message = lambda _c, _d, m: self.heard.append((m.topic, m.payload.decode()))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        until(self._client.is_connected)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if MOSQUITTO is None:
        pytest.skip(NO_BROKER)
    running = Broker(tmp_path, free_port())
    yield running
    running.stop()


class TestMqtt:
    def test_events_and_states_arrive(self, broker: Broker, outbox_of: Any):
        subscriber = Subscriber(broker.port, "line/#")
        sink = MqttSink(f"mqtt://127.0.0.1:{broker.port}/line")
        outbox = outbox_of(sink)
        until(lambda: ("line/status", "online") in subscriber.heard)
        outbox.send_event(event(1, "a/door"))
        outbox.send_event(StateChange("a/door", State.RECONNECTING, NOW, "the network is gone"))
        until(lambda: len(subscriber.heard) >= 3)
        outbox.close()
        until(lambda: ("line/status", "offline") in subscriber.heard)
        subscriber.close()
        heard = dict(subscriber.heard)
        for topic in ("line/a_door/event", "line/a_door/state"):
            assert_described("event", json.loads(heard[topic]))
        assert json.loads(heard["line/a_door/event"])["label"] == "cat"
        assert json.loads(heard["line/a_door/state"])["state"] == "reconnecting"
        assert outbox.health().failed == 0

    def test_what_happens_while_the_broker_is_away_is_sent_later(self, broker: Broker, outbox_of: Any):
        sink = MqttSink(f"mqtt://127.0.0.1:{broker.port}")
        sink._client.reconnect_delay_set(0.1, 0.2)
        outbox = outbox_of(sink)
        until(sink._client.is_connected)
        broker.stop()
        until(lambda: not sink._client.is_connected())
        for number in range(20):
            outbox.send_event(event(number))
        until(lambda: outbox.health().written == 20)
        assert "is away" in str(outbox.health().error)
        broker.start()
        subscriber = Subscriber(broker.port, "edgecls/door/event")
        until(lambda: len({payload for _, payload in subscriber.heard}) == 20)
        subscriber.close()

    def test_a_broker_that_was_never_there_stops_nothing(self, outbox_of: Any):
        outbox = outbox_of(MqttSink(f"mqtt://127.0.0.1:{free_port()}"))
        outbox.send_event(event(1))
        until(lambda: outbox.health().written == 1)
        assert "is away; messages wait" in str(outbox.health().error)
        outbox.close()
        assert "did not finish" not in str(outbox.error)

    @pytest.mark.parametrize("address", ["localhost", "http://host", "mqtt://"])
    def test_another_address_is_refused(self, address: str):
        with pytest.raises(UsageError, match="`mqtt` takes mqtt://"):
            MqttSink(address)


class Receiver(http.server.ThreadingHTTPServer):
    """Takes JSON; `answers` are the codes that it gives, in turn."""

    daemon_threads = True

    def __init__(self, *answers: int):
        self.answers = itertools.cycle(answers)
        self.taken: list[dict[str, Any]] = []
        self.keys: list[str] = []
        super().__init__(("127.0.0.1", 0), ReceiverHandler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://user:secret@127.0.0.1:{self.server_address[1]}/hook"


class ReceiverHandler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        code = next(self.server.answers)
        if code < 300:
            self.server.taken.append(json.loads(body))
            self.server.keys.append(self.headers["Idempotency-Key"])
            assert self.headers["Authorization"] == "Basic dXNlcjpzZWNyZXQ="
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a receiver; between attempts there is no long pause."""
    monkeypatch.setattr(network, "RETRY_S", 0.01)
    monkeypatch.setattr(network, "RETRY_MAX_S", 0.05)
    made: list[Receiver] = []

    def make(*answers: int) -> Receiver:
        made.append(Receiver(*answers))
        return made[-1]

    yield make
    for server in made:
        server.shutdown()
        server.server_close()


class TestWebhook:
    def test_a_server_that_fails_half_of_the_time_gets_all_once_and_in_order(self, receiver: Any, outbox_of: Any):
        server = receiver(503, 200)
        outbox = outbox_of(WebhookSink(server.url))
        for number in range(30):
            outbox.send_event(event(number))
        until(lambda: len(server.taken) == 30)
        assert [taken["id"] for taken in server.taken] == [f"door-{number}" for number in range(30)]
        assert server.taken[0]["kind"] == "event_ended"
        assert_described("event", server.taken[0])
        assert len(set(server.keys)) == 30
        assert (outbox.health().lost, outbox.health().failed) == (0, 0)

    def test_what_the_server_refuses_for_good_is_not_tried_again(self, receiver: Any, outbox_of: Any):
        server = receiver(400, 200)
        outbox = outbox_of(WebhookSink(server.url))
        outbox.send_event(event(1, ended=None))
        outbox.send_event(StateChange("door", State.LIVE, "now", ""))
        until(lambda: len(server.taken) == 1)
        assert server.taken[0] == {"kind": "state", "camera": "door", "state": "live", "at": "now", "reason": ""}
        assert outbox.health().failed == 1
        assert "400" in str(outbox.error)
        assert "secret" not in str(outbox.error)

    def test_a_server_that_is_gone_does_not_hold_the_end_up(self, outbox_of: Any):
        outbox = outbox_of(WebhookSink(f"http://127.0.0.1:{free_port()}/hook"))
        for number in range(5):
            outbox.send_event(event(number))
        outbox.close()
        assert outbox.health().failed == 5
        assert "did not take an event: Failed to establish a new connection" in str(outbox.error)
        assert "did not finish" not in str(outbox.error)

    def test_its_queue_is_bounded_and_what_it_lets_go_is_counted(self, outbox_of: Any):
        outbox = outbox_of(WebhookSink(f"http://127.0.0.1:{free_port()}/hook"))
        for number in range(1200):
            outbox.send_event(event(number))
        assert 150 <= outbox.health().lost <= 200

    @pytest.mark.parametrize("address", ["localhost:80", "ftp://host/x", "http://"])
    def test_another_address_is_refused(self, address: str):
        with pytest.raises(UsageError, match="`webhook` takes"):
            WebhookSink(address)


class Raw:
    """A server that answers each request with what `answer` gives, piece by piece, and notes the requests."""

    def __init__(self, answer: Callable[[str], Iterable[bytes]]):
        self.requests: list[tuple[str, bytes]] = []
        self._answer = answer
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self._talk, args=[self._listening.accept()[0]], daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as stream:
            while first := stream.readline().decode():
                lines = list(iter(stream.readline, b"\r\n"))
                length = next(int(line.split()[1]) for line in lines if line.lower().startswith(b"content-length"))
                self.requests.append((first.split()[1], stream.read(length)))
                for piece in self._answer(first.split()[1]):
                    connection.sendall(piece)
                    if piece.endswith(LAST):
                        return

    def close(self) -> None:
        self._listening.close()


LAST = b"\r\n\r\n\n"
"""Ends the connection, too."""


def whole(status: int, *headers: str) -> list[bytes]:
    return ["\r\n".join([f"HTTP/1.1 {status} Odd", *headers, "Content-Length: 0", "", ""]).encode()]


def endless(first: bytes, more: bytes, pause_s: float = 0.0) -> Iterator[bytes]:
    yield first
    while True:
        time.sleep(pause_s)
        yield more


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Raw, Outbox]]]:
    """What became of one event that a server answered oddly."""
    for name, seconds in (("RETRY_S", 0.01), ("RETRY_MAX_S", 0.02), ("CALL_TIMEOUT_S", 0.4), ("ATTEMPTS", 2)):
        monkeypatch.setattr(network, name, seconds)
    servers: list[Raw] = []

    def one(answer: Callable[[str], Iterable[bytes]], path: str = "/hook/PATH?key=QUERY") -> tuple[Raw, Outbox]:
        servers.append(Raw(answer))
        outbox = Outbox(WebhookSink(f"http://me:PASSWORD@127.0.0.1:{servers[-1].port}{path}"))
        outbox.start(nothing)
        outbox.send_event(event(1))
        until(lambda: outbox.health().written + outbox.health().failed == 1)
        outbox.close()
        assert not any(secret in str(outbox.error) for secret in ("PATH", "QUERY", "PASSWORD"))
        return servers[-1], outbox

    yield one
    for server in servers:
        server.close()


class TestOddWebhooks:
    @pytest.mark.parametrize("status", [307, 308])
    def test_a_redirect_on_the_same_server_takes_the_body_along(self, answered: Any, status: int):
        server, outbox = answered(lambda path: whole(200) if path == "/new" else whole(status, "Location: /new"))
        assert outbox.health().written == 1
        assert [path for path, _ in server.requests] == ["/hook/PATH?key=QUERY", "/new"]
        assert server.requests[0][1] == server.requests[1][1] != b""

    @pytest.mark.parametrize("status", [300, 301, 302, 303, 304])
    def test_a_redirect_that_loses_the_body_is_a_failure(self, answered: Any, status: int):
        server, outbox = answered(lambda _: whole(status, "Location: /new"))
        assert outbox.health().failed == 1
        assert f"{status} Odd, a redirect that loses the body" in str(outbox.error)
        assert len(server.requests) == 1

    @pytest.mark.parametrize(
        "location",
        ["http://127.0.0.2:{port}/", "https://127.0.0.1:{port}/", "http://127.0.0.1:1/", "//127.0.0.2/", "http://[",
         "http://a:b@127.0.0.1:{port}/", "file:///etc/passwd", "http://127.0.0.1:99999/", "ftp://127.0.0.1:{port}/"],
    )  # fmt: skip
    def test_nothing_is_sent_to_another_server(self, answered: Any, location: str):
        def answer(path: str) -> list[bytes]:
            return whole(307, f"Location: {location.format(port=other.port)}")

        other = Raw(lambda _: whole(200))
        server, outbox = answered(answer)
        assert "not on the same server" in str(outbox.error)
        assert (len(server.requests), other.requests) == (1, [])
        other.close()

    def test_a_redirect_to_nowhere_and_one_in_a_circle_are_failures(self, answered: Any):
        assert "not on the same server" in str(answered(lambda _: whole(307))[1].error)
        server, outbox = answered(lambda _: whole(308, "Location: /hook/PATH?key=QUERY"))
        assert "redirects without an end" in str(outbox.error)
        assert len(server.requests) == network.REDIRECTS + 1

    @pytest.mark.parametrize(
        ("first", "more", "pause_s", "message", "attempts"),
        [
            (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536, 0, "does not end", 1),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n", 0,
             "does not end", 1),
            (b"HTTP/1.1 200 OK\r\n\r\n", b"x", 0.01, "within 0.4 s", 1),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b"x", 0.01, "within 0.4 s", 1),
            (b"HTTP/1.1 503 No\r\n\r\n", b"x" * 65536, 0, "503 No", 2),
            (b"HTTP/1.1 404 No\r\n\r\n", b"x" * 65536, 0, "404 No", 1),
            (b"", b"H", 0.01, "within 0.4 s", 2),
            (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", 0.001, "within 0.4 s", 2),
            (b"", b"", 0.1, "0.4", 2),
        ],
    )  # fmt: skip
    def test_an_answer_without_an_end_is_cut_and_told(
        self, answered: Any, first: bytes, more: bytes, pause_s: float, message: str, attempts: int
    ):
        server, outbox = answered(lambda _: endless(first, more, pause_s))
        assert outbox.health().failed == 1
        assert message in str(outbox.error)
        assert len(server.requests) == attempts

    def test_nor_do_headers_without_an_end_keep_it(self, answered: Any):
        outbox = answered(lambda _: endless(b"HTTP/1.1 200 OK\r\n", b"x", 0.01))[1]
        assert outbox.health().failed == 1
        assert "within 0.4 s" in str(outbox.error)

    @pytest.mark.parametrize("answer", [b"nonsense" + LAST, b"\0" * 99 + LAST, b"HTTP/1.1 abc\r\n\r\n" + LAST])
    def test_nonsense_is_a_failure(self, answered: Any, answer: bytes):
        assert answered(lambda _: [answer])[1].health().failed == 1

    @pytest.mark.parametrize("after", ["1", "-1", "nonsense", "9" * 400, "Wed, 21 Oct 2150 07:28:00 GMT", "x" * 9999])
    def test_no_server_says_how_long_we_wait(self, answered: Any, after: str):
        server, outbox = answered(lambda _: whole(503, f"Retry-After: {after}"))
        assert "503 Odd" in str(outbox.error)
        assert len(server.requests) == 2

    def test_what_the_client_logs_holds_no_secret(self, answered: Any, caplog: pytest.LogCaptureFixture):
        caplog.set_level("DEBUG")
        answered(lambda _: [b"nonsense" + LAST])
        assert "urllib3" in {record.name.partition(".")[0] for record in caplog.records}
        assert not any(secret in caplog.text for secret in ("PATH", "QUERY", "PASSWORD"))

    def test_a_proxy_of_the_environment_is_used(self, answered: Any, monkeypatch: pytest.MonkeyPatch):
        proxy = Raw(lambda _: whole(200))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        server, outbox = answered(lambda _: whole(500))
        assert outbox.health().written == 1
        assert proxy.requests[0][0] == f"http://127.0.0.1:{server.port}/hook/PATH?key=QUERY"
        assert not server.requests
        proxy.close()

    def test_without_urllib3_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(network, "missing_package", lambda *_: "missing")
        with pytest.raises(MissingExtraError, match=r"edgecls\[webhook\]"):
            WebhookSink("http://host/")


def test_a_sink_that_fails_goes_on_with_the_next(outbox_of: Any):
    class Fails(WebhookSink):
        def event(self, event: Event) -> None:
            if event.id == "door-1":
                raise OutputError("not this one")
            self.seen.append(event.id)

    sink = Fails("http://127.0.0.1:1/hook")
    sink.seen = []
    outbox = outbox_of(sink)
    for number in range(3):
        outbox.send_event(event(number))
    until(lambda: sink.seen == ["door-0", "door-2"])
    assert outbox.health().failed == 1
    assert outbox.error == "not this one"


def test_a_deadline_that_is_renewed_while_it_ends_is_over(monkeypatch: pytest.MonkeyPatch):
    stopping: list[threading.Thread] = []

    class Hurry(threading.Event):
        """Lets another thread stop the deadline in the midst of its renewal."""

        def is_set(self) -> bool:
            stopping.append(threading.Thread(target=deadline.stop))
            stopping[-1].start()
            stopping[-1].join(0.1)
            return True

    monkeypatch.setattr(network, "SHUTDOWN_S", 0.05)
    deadline = network._Deadline(Hurry())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        deadline.watch(ours)
        deadline.renew()
        for thread in stopping:
            thread.join()
        time.sleep(0.2)
        assert not deadline.passed
        ours.sendall(b"not shut down")


def test_a_deadline_ends_the_reading(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(network, "CALL_TIMEOUT_S", 0.05)
    deadline = network._Deadline(threading.Event())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(20)
        deadline.watch(ours)
        assert ours.recv(1) == b""
        assert deadline.passed
