"""The usual attacks on the page, over real connections: nobody is locked out, nothing fails, nothing is given away."""

from __future__ import annotations

import functools
import itertools
import socket
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edgecls.runtime.classifier import Prediction
from edgecls.streaming.decision import CameraHealth, Decision, Health, State
from edgecls.streaming.frames import Frame
from edgecls.streaming.sinks.web import WebSink
from edgecls.web.app import HEADERS
from edgecls.web.limits import LIMITS, Limits

TOKEN = "a#b&c=d %/\\'\"é+"
QUICK = Limits(head_s=0.3, stalled_s=0.5)


class Page:
    """A page with one camera, served on loopback."""

    def __init__(self, token: str | None = None, limits: Limits = LIMITS, side_px: int = 32):
        self.sink = WebSink("0", token, limits)
        self._side_px = side_px
        self._numbers = itertools.count()
        camera = CameraHealth("door", State.LIVE, "", "", 1, 1, 0, 0, 0, 30.0, 1.0, 1.0, "cat", 0.9)
        self.sink.open(lambda: Health("model", 1.0, (camera,), ()))
        self.port = int(self.sink.server.url.partition("?")[0].rpartition(":")[2].strip("/"))
        self.show()

    def show(self) -> None:
        """A new picture."""
        image = np.random.default_rng(0).integers(0, 255, (self._side_px, self._side_px, 3), np.uint8)
        prediction = Prediction("cat", 0.9, 1, ("dog", "cat"), np.array([0.1, 0.9], np.float32))
        decision = Decision("door", prediction, "cat", 0.9, 1.0, 1.0, 30.0, 1, 0)
        self.sink.write(Frame(image, next(self._numbers), 0, 0.0), decision)

    def connect(self, sent: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10, source_address=(source, 0))
        connection.sendall(sent)
        return connection

    def raw(self, sent: bytes) -> bytes:
        """All that is answered before the connection ends."""
        with self.connect(sent) as connection:
            return everything(connection)

    def ask(self, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        named = {"Host": "localhost", "Connection": "close", **{k.replace("_", "-"): v for k, v in headers.items()}}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items()), "", ""]
        return parsed(self.raw("\r\n".join(lines).encode("latin-1")))


def everything(connection: socket.socket) -> bytes:
    content = b""
    try:
        while more := connection.recv(65536):
            content += more
    except ConnectionResetError:
        pass
    return content


def parsed(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, body


@pytest.fixture(scope="module")
def page() -> Iterator[Callable[..., Page]]:
    """Makes a page of each kind once: what one attack leaves behind, the next one meets."""
    pages: list[Page] = []

    @functools.cache
    def serve(*arguments: object, **options: object) -> Page:
        pages.append(Page(*arguments, **options))  # type: ignore[arg-type]
        return pages[-1]

    yield serve
    for each in pages:
        each.sink.close()


@pytest.fixture(autouse=True)
def quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No attack makes the server print anything."""
    yield
    assert capfd.readouterr().err == ""


HEAD = b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n"
IDLE = {
    "nothing": b"",
    "half a head": HEAD,
    "half a body": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n",
    "kept alive": HEAD + b"\r\n",
    "endless and unread": b"GET /camera/0.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("sent", IDLE.values(), ids=IDLE.keys())
def test_two_hundred_connections_lock_nobody_out(page: Callable[..., Page], sent: bytes) -> None:
    served = page()
    idle = [served.connect(sent) for _ in range(200)]
    for path in ("/healthz", "/metrics", "/", "/api/health", "/camera/0.jpg"):
        assert served.ask(path)[0] == 200, path
    for each in idle:
        each.close()


def test_who_watches_is_not_thrown_out_by_who_idles(page: Callable[..., Page]) -> None:
    served = page()
    viewer = served.connect(IDLE["endless and unread"])
    assert viewer.recv(65536)
    idle = [served.connect() for _ in range(200)]
    assert served.ask("/healthz")[0] == 200
    served.show()
    assert viewer.recv(65536)
    for each in (viewer, *idle):
        each.close()


def test_connections_from_everywhere_lock_nobody_out(page: Callable[..., Page]) -> None:
    served = page(limits=Limits(connections=40, connections_per_client=10))
    idle = [served.connect(source=f"127.0.0.{number // 10 + 2}") for number in range(100)]
    assert served.ask("/healthz")[0] == 200
    for each in idle:
        each.close()


def test_endless_answers_are_limited_and_given_back(page: Callable[..., Page]) -> None:
    served = page(limits=Limits(streams_per_client=2))
    viewers = [served.connect(IDLE["endless and unread"]) for _ in range(2)]
    assert all(each.recv(100).startswith(b"HTTP/1.1 200") for each in viewers)
    for path in ("/api/updates", "/camera/0.mjpg"):
        assert served.ask(path)[0] == 503
    assert served.ask("/metrics")[0] == 200
    viewers.pop().close()
    for _ in range(100):
        served.show()  # the server notices the end when it sends
        with served.connect(IDLE["endless and unread"]) as again:
            if again.recv(100).startswith(b"HTTP/1.1 200"):
                break
    else:
        pytest.fail("the place was not given back")
    viewers.pop().close()


@pytest.mark.parametrize("sent", [*IDLE.values()][:4], ids=[*IDLE.keys()][:4])
def test_who_does_not_come_to_an_end_is_cut(page: Callable[..., Page], sent: bytes) -> None:
    page(limits=QUICK).raw(sent)  # ends, because the server ends it


def test_who_sends_a_head_byte_by_byte_is_cut(page: Callable[..., Page]) -> None:
    with page(limits=QUICK).connect(HEAD) as slow:
        slow.settimeout(0.1)
        for _ in range(200):
            try:
                slow.sendall(b"X")
                if slow.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            pytest.fail("still served")


def test_who_does_not_read_is_cut(page: Callable[..., Page]) -> None:
    served = page(limits=QUICK, side_px=1200)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", served.port))
        deaf.settimeout(0.1)
        deaf.sendall(IDLE["endless and unread"])
        for _ in range(200):
            served.show()
            try:
                deaf.sendall(b"X" * 10)  # fails once the server is gone
            except OSError:
                break
            time.sleep(0.05)
        else:
            pytest.fail("still served")


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"X: " + b"a" * 100_000 + b"\r\n\r\n", HEAD + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"\0" * 100_000,
        b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", HEAD + b"Na me: x\r\n\r\n",
        HEAD + b"Transfer-Encoding: odd\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_with_the_usual_headers(page: Callable[..., Page], sent: bytes) -> None:
    served = page()
    answer = served.raw(sent)
    if answer:  # reset while it was still sending, it may not see the answer
        status, headers, _ = parsed(answer)
        assert status in (400, 501)
        assert {name.lower() for name in HEADERS} <= headers.keys()
    assert served.ask("/healthz")[0] == 200


@pytest.mark.parametrize("broken", [b"zz\r\n", b"5\r\nab", b"-1\r\n", b"f" * 40 + b"\r\n"])
def test_a_broken_body_ends_the_connection(page: Callable[..., Page], broken: bytes) -> None:
    served = page(limits=QUICK)
    served.raw(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + broken)
    assert served.ask("/healthz")[0] == 200


PATHS = [
    "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/camera/../../etc/passwd", "/camera/%2e%2e%2f%2e%2e%2fetc.jpg",
    "//", "//evil.example", "///healthz", "/\\evil.example", "/%5cevil.example", "/%00", "/camera/%00.jpg", "/%ff%fe",
    "/camera/0.jpg/", "/camera//0.jpg", "/camera/.jpg", "/camera/-1.jpg", "/camera/00.jpg", "/camera/0.0.jpg",
    "/camera/1e3.jpg", f"/camera/{'9' * 5000}.jpg", f"/camera/{'9' * 5000}.mjpg", "/camera/%C2%B2.jpg",
    "/camera/%D9%A0.jpg", "/camera/NaN.mjpg", "/camera/0x0.jpg", "/api/../api/health/", "/page.html", "/favicon.ico",
    "/%", "/%zz", "/;a", "http://evil.example/", "*", "/camera/0.jpg%0d%0aSet-Cookie:x=y",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("token", [None, "t"])
def test_odd_paths_lead_nowhere(page: Callable[..., Page], path: str, token: str | None) -> None:
    served = page(token)
    status, headers, body = served.ask(path, **({"Authorization": "Bearer t"} if token else {}))
    assert status in (200, 307, 400, 404)
    assert {name.lower() for name in HEADERS} <= headers.keys()
    assert not headers.get("location", "/").startswith(("//", "/\\", "http://evil"))
    assert "set-cookie" not in headers
    assert b"root:" not in body
    if path != "/camera/00.jpg":
        assert headers.get("content-type") != "image/jpeg"


@pytest.mark.parametrize("path", PATHS)
def test_the_login_leads_nowhere_else(page: Callable[..., Page], path: str) -> None:
    status, headers, _ = page("t").ask(f"{path}?token=t")
    assert status in (303, 400)
    assert not headers.get("location", "/").startswith(("//", "/\\", "http"))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "OPTIONS", "BREW", "get"])
@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/camera/0.jpg", "/api/health"])
def test_only_reading_is_served(page: Callable[..., Page], method: str, path: str) -> None:
    status, headers, _ = page().ask(path, method)
    assert status == 405
    assert {name.lower() for name in HEADERS} <= headers.keys()


def test_head_has_no_body(page: Callable[..., Page]) -> None:
    assert page().ask("/healthz", "HEAD")[::2] == (200, b"")


def test_an_upgrade_is_not_taken(page: Callable[..., Page]) -> None:
    assert page().ask("/healthz", Connection="Upgrade, close", Upgrade="websocket")[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "localhost@evil", "[", "[::1", "", "127.0.0.1.nip.io", "a" * 9000],
)
def test_a_loopback_page_answers_to_its_own_names_alone(page: Callable[..., Page], host: str) -> None:
    assert page().ask("/api/health", Host=host)[0] == 400


@pytest.mark.parametrize("host", ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080", "LOCALHOST"])
def test_its_own_names_are_known(page: Callable[..., Page], host: str) -> None:
    assert page().ask("/api/health", Host=host)[0] == 200


@pytest.mark.parametrize("host", ["camera.example:99999999", "[", "\xff", ""])
def test_with_a_token_any_host_will_do(page: Callable[..., Page], host: str) -> None:
    assert page("t").ask("/?token=t", Host=host)[0] == 303


STRANGE = [
    {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://localhost:81"}, {"Origin": ""},
    {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}, {"Sec_Fetch_Site": "odd"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
]  # fmt: skip


@pytest.mark.parametrize("headers", STRANGE, ids=str)
@pytest.mark.parametrize("token", [None, "t"])
def test_other_sites_get_nothing(page: Callable[..., Page], headers: dict[str, str], token: str | None) -> None:
    served = page(token)
    for path in ("/camera/0.jpg", "/camera/0.mjpg", "/api/updates", "/api/health", "/metrics", "/"):
        assert served.ask(path, Cookie="edgecls_token=t", **headers)[0] == 403, path


def test_the_page_itself_and_links_to_it_work(page: Callable[..., Page]) -> None:
    served = page()
    assert served.ask("/camera/0.jpg", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="no-cors")[0] == 200
    assert served.ask("/api/health", Origin="http://localhost")[0] == 200
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert served.ask("/", **link)[0] == 200
    assert served.ask("/camera/0.jpg", **link)[0] == 403


@pytest.mark.parametrize("token", [TOKEN, "ü", "a;b", "a,b", 'a"b', " a ", "%41"])
def test_any_token_opens_the_page_by_its_link_and_by_the_cookie(page: Callable[..., Page], token: str) -> None:
    served = page(token)
    status, headers, _ = served.ask("/" + served.sink.server.url.partition("/?")[2].join(["?", ""]))
    assert status == 303
    assert headers["location"] == "/"
    assert "HttpOnly" in headers["set-cookie"]
    assert served.ask("/api/health", Cookie=headers["set-cookie"].partition("; ")[0])[0] == 200


@pytest.mark.parametrize("given", ["", "T", "t ", "\xfc", "%00", "t%00", "t" * 9000])
def test_another_token_does_not(page: Callable[..., Page], given: str) -> None:
    served = page("t")
    query = given.encode().hex("%") if not given.startswith("%") else given
    assert served.ask(f"/api/health?token={'%' * bool(query and query[0] != '%')}{query[:9000]}")[0] == 401
    assert served.ask("/api/health", Authorization=f"Bearer {given}x")[0] == 401
    assert served.ask("/api/health", Cookie=f"edgecls_token={given}x")[0] == 401


@pytest.mark.parametrize("odd", ["a, b", "[", "\xff", "999.1.1.1:99999", "::1", "a" * 9000])
def test_what_proxies_say_may_be_anything(page: Callable[..., Page], odd: str) -> None:
    served = page()
    assert served.ask("/api/health", X_Forwarded_For=odd, X_Forwarded_Proto=odd)[0] == 200
