"""The page in the browser: what it serves, whom it lets in, and what a real browser shows of it."""

from __future__ import annotations

import json
import logging
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgecls
from edgecls.artifact.golden import Golden
from edgecls.errors import OutputError
from edgecls.imaging.opencv import cv2
from edgecls.runtime.explanation import open_explainer
from edgecls.runtime.store import find
from edgecls.streaming.config import EACH_FRAME, CameraOptions, KeepConfig, LoopConfig, ReconnectPolicy
from edgecls.streaming.decision import Health
from edgecls.streaming.loop import Stream
from edgecls.streaming.sinks.keep import KeepSink
from edgecls.streaming.sinks.web import WebSink
from edgecls.streaming.sources import open_source
from tests.browsing import chromium
from tests.streaming.cameras import MjpegServer, free_port, until

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""The usual opener keeps the proxy of the environment that it was first used in, which may be another test's."""


class Serving:
    """A stream with a web view, in a thread."""

    def __init__(self, classifier: edgecls.Classifier, sink: WebSink, *cameras: str):
        golden = Golden.read(classifier.path)
        options = CameraOptions(reconnect=ReconnectPolicy(stale_s=0.5, stall_s=1.0, retry_s=0.1, retry_max_s=0.5))
        sources = [open_source(camera, golden, options) for camera in cameras]
        self.url = ""
        sink.server.announce = lambda url: setattr(self, "url", url)
        self.stream = Stream(sources, classifier, [sink], LoopConfig(smoothing=EACH_FRAME))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.stream.run, args=(self._stop,))
        self._thread.start()
        until(lambda: bool(self.url) and all(camera.decided > 3 for camera in self.stream.health().cameras))

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        base = self.url.partition("?")[0]
        request = urllib.request.Request(base + path, headers=headers)
        try:
            with DIRECT.open(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def serve(classifier: edgecls.Classifier) -> Iterator[Callable[..., Serving]]:
    started: list[Serving] = []

    def begin(*cameras: str, address: str = "0", token: str | None = None) -> Serving:
        started.append(Serving(classifier, WebSink(address, token), *(cameras or ("demo",))))
        return started[-1]

    yield begin
    for serving in started:
        serving.end()


def test_figures_pictures_and_metrics_are_served(serve: Callable[..., Serving]):
    serving = serve()
    assert serving.url.startswith("http://127.0.0.1:")
    code, page = serving.get("")
    assert code == 200
    assert b"EventSource" in page
    health = json.loads(serving.get("api/health")[1])
    assert health["healthy"]
    assert health["cameras"][0]["camera"] == "demo"
    code, jpeg = serving.get("camera/0.jpg")
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (480, 640, 3)
    assert serving.get("camera/1.jpg")[0] == 404
    metrics = serving.get("metrics")[1].decode()
    assert 'edgecls_camera_state{camera="demo",state="live"} 1.0' in metrics
    assert float(metrics.split('edgecls_decided_total{camera="demo"} ')[1].split()[0]) > 3
    assert serving.get("healthz") == (200, b"ok\n")


def test_pictures_of_what_the_model_looks_at_are_there_where_it_can_explain(classifier: edgecls.Classifier):
    sink = WebSink("0", explain=lambda: open_explainer(find(classifier.path)))
    serving = Serving(classifier, sink, "demo")
    try:
        pictures = [
            cv2.imdecode(np.frombuffer(serving.get(path)[1], np.uint8), cv2.IMREAD_COLOR).astype(int)
            for path in ("camera/0.jpg", "camera/0.jpg?explained")
        ]
        plain, explained = (abs(each[:, :, 0] - each[:, :, 2]).mean() for each in pictures)
        assert explained > plain + 20  # heat is coloured, the demo's digits are grey
        assert sink.explains
    finally:
        serving.end()


def test_nobody_comes_in_without_the_token(serve: Callable[..., Serving]):
    serving = serve(address="0.0.0.0:0")
    token = serving.url.partition("token=")[2]
    assert len(token) >= 16
    for path in ("", "api/health", "api/updates", "metrics", "camera/0.jpg", "camera/0.mjpg", "?token=wrong"):
        assert serving.get(path)[0] == 401, path
    assert serving.get("api/health", Authorization="Bearer wrong")[0] == 401
    assert serving.get("api/health", Authorization=f"Bearer {token}")[0] == 200
    assert serving.get(f"?token={token}", Cookie=f"edgecls_token={token}")[0] == 200
    assert serving.get("healthz")[0] == 200  # says nothing that is worth a token


def test_a_page_of_another_name_cannot_reach_a_loopback_view(serve: Callable[..., Serving]):
    """DNS rebinding: a web site whose name comes to mean 127.0.0.1."""
    assert serve().get("api/health", Host="evil.example")[0] == 400


def test_a_browser_that_does_not_read_slows_nothing(serve: Callable[..., Serving], capfd: pytest.CaptureFixture[str]):
    serving = serve()
    port = int(serving.url.rpartition(":")[2].strip("/"))
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    for each in idle:
        each.sendall(b"GET /camera/0.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
    before = serving.stream.health().cameras[0].decided
    until(lambda: serving.stream.health().cameras[0].decided >= before + 60)
    assert serving.get("api/health")[0] == 200
    serving.end()
    assert "Traceback" not in capfd.readouterr().err  # the server gives up on them without a word
    for each in idle:
        each.close()


def test_a_port_that_is_taken_is_said_at_once(classifier: edgecls.Classifier):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OutputError, match="cannot listen on 127.0.0.1:"):
            WebSink(str(taken.getsockname()[1])).open(lambda: None)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("EDGECLS_MQTT", "mqtt://me:SECRET@host:99999", "EDGECLS_MQTT takes"),
        ("EDGECLS_WEBHOOK", "ftp://me:SECRET@host/SECRET", "EDGECLS_WEBHOOK takes"),
        ("EDGECLS_WEB_TOKEN", "SECRET", "not both"),
    ],
)
def test_secrets_can_come_from_the_environment(
    cli: Any, bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
):
    monkeypatch.setenv(variable, value)
    (tmp_path / "token").write_text("t")
    both = ("--web-token-file", tmp_path / "token") if variable == "EDGECLS_WEB_TOKEN" else ()
    result = cli("stream", "--camera", "demo", "--model", bundle("onnx", "int8").path, "--frames", 1, *both)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "SECRET" not in result.stderr + result.stdout


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


def text(browser: Any, selector: str, number: int = 0) -> str:
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)[arguments[1]] || ''",
        selector, number,
    )  # fmt: skip


def picture(browser: Any, number: int = 0) -> list[int]:
    """Pixels of a camera's picture as the browser shows it."""
    return browser.execute_script(
        """const img = document.querySelectorAll(".picture img")[arguments[0]], c = document.createElement("canvas");
        c.width = c.height = 16; const g = c.getContext("2d"); g.drawImage(img, 0, 0, 16, 16);
        return [...g.getImageData(0, 0, 16, 16).data];""",
        number,
    )


class TestInABrowser:
    def test_the_picture_moves_and_the_label_changes(self, serve: Callable[..., Serving], browser: Any, tmp_path: Path):
        serving = serve()
        browser.get(serving.url)
        until(lambda: text(browser, "#healthy") == "all cameras live")
        until(lambda: any(picture(browser)))
        first, label = picture(browser), text(browser, ".label")
        until(lambda: picture(browser) != first)
        until(lambda: text(browser, ".label") not in (label, "–"))
        until(lambda: text(browser, "#events tr:nth-child(3) td:nth-child(3)") != "")
        assert float(text(browser, "dd", 0)) > 5  # frames a second
        assert browser.execute_script("return document.querySelector('polyline').getAttribute('points').length") > 20
        assert browser.get_log("browser") == []

    def test_the_loss_of_the_second_camera_is_shown_and_its_return(self, serve: Callable[..., Serving], browser: Any):
        server = MjpegServer()
        serving = serve("demo", f"gate={server.url}")
        browser.get(serving.url)
        until(lambda: text(browser, ".pill", 1) == "live")
        port = server.port
        server.stop()
        until(lambda: text(browser, ".pill", 1) == "reconnecting")
        assert text(browser, ".pill", 0) == "live"
        assert text(browser, "#healthy") == "a camera is disconnected"
        assert text(browser, ".label", 1) == "–"
        assert "lost" in browser.execute_script("return document.querySelectorAll('.picture')[1].className")
        again = MjpegServer(port)
        until(lambda: text(browser, ".pill", 1) == "live")
        again.stop()

    def test_the_token_opens_the_page_once_for_all(self, serve: Callable[..., Serving], browser: Any):
        serving = serve(address=f"0.0.0.0:{free_port()}")
        base, _, token = serving.url.partition("?token=")
        base = f"http://127.0.0.1:{base.rstrip('/').rpartition(':')[2]}/"
        browser.get(base)
        assert "needs the token" in text(browser, "p")
        browser.get(base + "?token=wrong")
        assert "refused" in text(browser, "p")
        browser.get(base + "?token=" + token)
        until(lambda: text(browser, "#healthy") == "all cameras live")
        assert browser.current_url == base  # the token does not stay in the address
        browser.get(base)
        until(lambda: text(browser, "#healthy") == "all cameras live")

    def test_a_stream_that_ended_is_shown_as_such(self, serve: Callable[..., Serving], browser: Any):
        serving = serve()
        browser.get(serving.url)
        until(lambda: text(browser, "#healthy") == "all cameras live")
        serving.end()
        until(lambda: text(browser, "#healthy") == "no connection to the stream")


class Silent:
    """A feed without cameras."""

    closing = False

    def health(self) -> Any:
        from edgecls.streaming.decision import Health

        return Health("", 0.0, (), ())

    def events(self) -> list[dict[str, Any]]:
        return []

    def picture(self, camera: str, after: int) -> tuple[int, bytes] | None:
        return None


@pytest.mark.parametrize(
    ("method", "path", "query", "status"),
    [
        ("GET", "//evil.example/", "token=t%23&", 303), ("GET", "/\\evil.example", "token=t%23", 303),
        ("GET", "/", "", 401), ("GET", "/healthz", "", 200), ("POST", "/healthz", "", 405),
        ("GET", f"/camera/{'9' * 5000}.jpg", "B", 404), ("GET", "/camera/-1.mjpg", "B", 404), ("GET", "/no", "B", 404),
    ],
)  # fmt: skip
def test_every_answer_has_the_headers_and_none_leads_away(method: str, path: str, query: str, status: int) -> None:
    import asyncio

    from edgecls.streaming.page import build
    from edgecls.web.app import HEADERS

    bearer = [(b"authorization", b"Bearer t#")] if query == "B" else []
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(b"host", b"localhost"), *bearer], "scheme": "http", "server": ("localhost", 80), "root_path": "",
        "http_version": "1.1", "client": ("127.0.0.1", 1),
    }  # fmt: skip
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    asyncio.run(build(Silent(), "t#")(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert sent[0]["status"] == status
    assert {name.lower() for name in HEADERS} <= headers.keys()
    assert not headers.get("location", "").startswith(("//", "/\\", "http"))


def test_serving_leaves_the_log_handlers_of_others_alone():
    class Handler(logging.Handler):
        closed = False

        def close(self) -> None:
            self.closed = True
            super().close()

    handler = Handler()
    sink = WebSink("0")
    try:
        sink.open(lambda: Health("model", 1.0, (), ()))
        assert not handler.closed
    finally:
        sink.close()


class TestWrong:
    """The button by which viewers keep a frame with the class that it shows."""

    @pytest.fixture
    def sink(self, classifier: edgecls.Classifier, tmp_path: Path) -> WebSink:
        return WebSink("0", keep=KeepSink(KeepConfig(keep_to=tmp_path / "pool"), classifier.card.name))

    @pytest.fixture
    def serving(self, classifier: edgecls.Classifier, sink: WebSink) -> Iterator[Serving]:
        serving = Serving(classifier, sink, "demo")
        yield serving
        serving.end()

    def post(self, serving: Serving, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(
            serving.url + path, method="POST", data=b"" if body is None else json.dumps(body).encode(), headers=headers
        )
        try:
            with DIRECT.open(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def rows(self, tmp_path: Path) -> list[dict[str, Any]]:
        index = tmp_path / "pool" / "pool.jsonl"
        return [json.loads(line) for line in index.read_text().splitlines()] if index.exists() else []

    def test_the_held_picture_is_the_one_that_is_kept(
        self, serving: Serving, classifier: edgecls.Classifier, tmp_path: Path
    ):
        assert json.loads(serving.get("api/classes")[1]) == list(classifier.card.classes)
        code, body = self.post(serving, "api/wrong/0")
        assert code == 200
        name = json.loads(body)["held"]
        code, held = serving.get(f"api/held/{name}.jpg")
        assert code == 200
        assert self.post(serving, f"api/held/{name}", {"label": "no\nclass"})[0] == 400
        assert self.post(serving, f"api/held/{name}", {"label": 7})[0] == 400
        assert self.post(serving, f"api/held/{name}", {})[0] == 400
        assert self.post(serving, f"api/held/{name}", {"label": "seven"})[0] == 200
        [row] = self.rows(tmp_path)
        assert (row["label"], row["reasons"], row["camera"]) == ("seven", ["wrong"], "demo")
        assert (tmp_path / "pool" / row["path"]).read_bytes() == held
        assert self.post(serving, f"api/held/{name}", {"label": "seven"})[0] == 404  # nothing is doubled
        assert len(self.rows(tmp_path)) == 1

    def test_it_can_show_a_class_that_the_model_does_not_know(
        self, serving: Serving, classifier: edgecls.Classifier, tmp_path: Path
    ):
        for typed in (" scratched ", "scratched"):
            name = json.loads(self.post(serving, "api/wrong/0")[1])["held"]
            assert self.post(serving, f"api/held/{name}", {"label": typed})[0] == 200
        assert [row["label"] for row in self.rows(tmp_path)] == ["scratched", "scratched"]
        assert json.loads(serving.get("api/classes")[1]) == [*classifier.card.classes, "scratched"]

    def test_it_can_show_none_of_the_classes(self, serving: Serving, tmp_path: Path):
        name = json.loads(self.post(serving, "api/wrong/0")[1])["held"]
        assert self.post(serving, f"api/held/{name}", {"label": None})[0] == 200
        assert [(row["label"], row["reasons"]) for row in self.rows(tmp_path)] == [(None, ["wrong"])]

    def test_other_sites_and_strange_requests_are_refused(self, serving: Serving, tmp_path: Path):
        assert self.post(serving, "api/wrong/0", Origin="http://evil.example")[0] == 403
        assert self.post(serving, "api/wrong/9")[0] == 404
        assert self.post(serving, "api/held/none", {"label": "seven"})[0] == 404
        assert serving.get("api/wrong/0")[0] == 405
        assert self.rows(tmp_path) == []

    def test_a_page_without_a_pool_offers_nothing(self, serve: Callable[..., Serving]):
        serving = serve()
        assert json.loads(serving.get("api/classes")[1]) == []
        assert self.post(serving, "api/wrong/0")[0] == 404

    def test_a_token_is_asked_for(self, classifier: edgecls.Classifier, tmp_path: Path):
        keep = KeepSink(KeepConfig(keep_to=tmp_path / "pool"))
        serving = Serving(classifier, WebSink("0", "secret", keep=keep), "demo")
        try:
            serving.url = serving.url.partition("?")[0]
            assert self.post(serving, "api/wrong/0")[0] == 401
            assert self.post(serving, "api/wrong/0", Authorization="Bearer secret")[0] == 200
        finally:
            serving.end()

    @pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=str)
    def test_the_button_keeps_a_frame_by_keyboard_alone(
        self, serving: Serving, browser: Any, size: tuple[int, int], tmp_path: Path
    ):
        from selenium.webdriver.common.keys import Keys

        browser.set_window_size(*size)
        browser.get(serving.url)
        until(lambda: any(each.is_displayed() for each in browser.find_elements("css selector", "button.wrong")))
        browser.find_element("css selector", "button.wrong").send_keys(Keys.ENTER)
        until(lambda: len(browser.find_elements("css selector", "#choices button")) == 11)
        until(lambda: browser.execute_script("return document.getElementById('held').naturalWidth") > 0)
        browser.save_screenshot(str(tmp_path / "wrong.png"))
        choice = browser.switch_to.active_element
        while choice.text != "seven":
            choice.send_keys(Keys.TAB)
            choice = browser.switch_to.active_element
        choice.send_keys(Keys.ENTER)
        until(lambda: len(self.rows(tmp_path)) == 1)
        until(lambda: not browser.find_element("id", "wrong").is_displayed())
        assert self.rows(tmp_path)[0]["label"] == "seven"
        browser.find_element("css selector", "button.wrong").send_keys(Keys.ENTER)
        until(lambda: browser.find_element("id", "typed").is_displayed())
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        browser.find_element("id", "typed").send_keys("scratched", Keys.ENTER)
        until(lambda: len(self.rows(tmp_path)) == 2)
        assert self.rows(tmp_path)[1]["label"] == "scratched"
        until(lambda: not browser.find_element("id", "wrong").is_displayed())
        browser.find_element("css selector", "button.wrong").send_keys(Keys.ENTER)
        until(lambda: len(browser.find_elements("css selector", "#choices button")) == 12)
