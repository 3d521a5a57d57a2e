"""The web application: pictures as MJPEG, figures as server-sent events, Prometheus metrics, a token where needed."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Callable, Iterable
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, unquote

from edgecls.streaming.decision import Health, State
from edgecls.streaming.web.guard import LIMITS, Limits, Viewers, client_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

COOKIE = "edgecls_token"
PICTURES_PER_S = 15
UPDATES_PER_S = 4
BOUNDARY = "frame"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Feed(Protocol):
    """What the page shows."""

    closing: bool

    def health(self) -> Health:
        """The stream in figures."""

    def events(self) -> list[dict[str, Any]]:
        """Recent events, newest first."""

    def picture(self, camera: str, after: int) -> tuple[int, bytes] | None:
        """The newest picture of a camera as JPEG and its number; None where there is none newer than `after`."""


def build(feed: Feed, token: str | None, limits: Limits = LIMITS) -> Callable[..., Any]:
    """The application. Without a token it answers only to a loopback address' own names."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
    from starlette.routing import Route

    page = resources.files("edgecls.streaming.web").joinpath("page.html").read_text(encoding="utf-8")

    async def index(_request: Request) -> Response:
        return HTMLResponse(page)

    async def updates(_request: Request) -> Response:
        return StreamingResponse(_updates(feed), media_type="text/event-stream")

    async def health(_request: Request) -> Response:
        return JSONResponse(feed.health().to_json())

    async def healthz(_request: Request) -> Response:
        healthy = feed.health().healthy
        return PlainTextResponse("ok\n" if healthy else "a camera is away\n", 200 if healthy else 503)

    async def metrics(_request: Request) -> Response:
        return PlainTextResponse(exposition(feed.health()), media_type="text/plain; version=0.0.4")

    async def mjpeg(request: Request) -> Response:
        camera = _named(feed, request)
        if camera is None:
            return PlainTextResponse("no such camera\n", 404)
        media_type = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
        return StreamingResponse(_pictures(feed, camera), media_type=media_type)

    async def jpeg(request: Request) -> Response:
        from starlette.responses import Response

        camera = _named(feed, request)
        picture = None if camera is None else await asyncio.to_thread(feed.picture, camera, -1)
        if picture is None:
            return PlainTextResponse("no picture\n", 404)
        return Response(picture[1], media_type="image/jpeg")

    guard = Middleware(_TokenGuard, token=token) if token else Middleware(
        TrustedHostMiddleware, allowed_hosts=list(LOOPBACK_NAMES)
    )  # fmt: skip
    limited = [Middleware(_ViewerGuard, viewers=Viewers(limits))]
    routes = [
        Route("/", index), Route("/api/updates", updates, middleware=limited), Route("/api/health", health),
        Route("/healthz", healthz), Route("/metrics", metrics),
        Route("/camera/{number}.mjpg", mjpeg, middleware=limited), Route("/camera/{number}.jpg", jpeg),
    ]  # fmt: skip
    return _SameHeaders(Starlette(routes=routes, middleware=[Middleware(_SiteGuard), guard]))


def _named(feed: Feed, request: Request) -> str | None:
    cameras = feed.health().cameras
    number = request.path_params["number"]
    return next((camera.camera for index, camera in enumerate(cameras) if str(index) == number), None)


async def _updates(feed: Feed) -> AsyncIterator[str]:
    while not feed.closing:
        content = {"health": feed.health().to_json(), "events": feed.events()}
        yield f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
        await asyncio.sleep(1 / UPDATES_PER_S)


async def _pictures(feed: Feed, camera: str) -> AsyncIterator[bytes]:
    """New pictures as they come and as the browser takes them: a slow one skips some."""
    shown = -1
    while not feed.closing:
        picture = await asyncio.to_thread(feed.picture, camera, shown)
        if picture is not None:
            shown, jpeg = picture
            yield b"--%b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (BOUNDARY.encode(), len(jpeg))
            yield jpeg + b"\r\n"
        await asyncio.sleep(1 / PICTURES_PER_S)


class _SameHeaders:
    """Gives every answer the same security headers, refusals and redirects included."""

    def __init__(self, app: Callable[..., Any]):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *ours]}
            await send(message)

        await self._app(scope, receive, with_headers)


class _SiteGuard:
    """Refuses what other sites ask for through somebody's browser; only a link to the page itself may be there.

    Browsers say where a request comes from in Sec-Fetch-Site (on https and loopback) and Origin; programs send neither.
    """

    def __init__(self, app: Callable[..., Any]):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        headers = {name: value.decode("latin-1").lower() for name, value in scope.get("headers", [])}
        origin = headers.get(b"origin")
        strange = origin is not None and origin.partition("://")[2] != headers.get(b"host")
        other = headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin")
        link = (scope["path"], headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")) == (
            "/", "navigate", "document",
        )  # fmt: skip
        if strange or (other and not link):
            await PlainTextResponse("asked for by another site\n", 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class _ViewerGuard:
    """Keeps the number of endless answers within limits."""

    def __init__(self, app: Callable[..., Any], viewers: Viewers):
        self._app = app
        self._viewers = viewers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        with self._viewers.slot(client_of(scope.get("client"))) as free:
            refused = PlainTextResponse("too many viewers\n", 503, {"Retry-After": "10"})
            await (self._app if free else refused)(scope, receive, send)


class _TokenGuard:
    """Lets requests through that know the token: by cookie, as a bearer, or in the address, which sets the cookie."""

    def __init__(self, app: Callable[..., Any], token: str):
        self._app = app
        self._token = token

    def _knows(self, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(), self._token.encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request
        from starlette.responses import HTMLResponse, RedirectResponse

        if scope["type"] != "http" or scope["path"] == "/healthz":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        asked = request.query_params.get("token")
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if self._knows(asked):
            response: Any = RedirectResponse("/" + quote(scope["path"].lstrip("/\\")), 303)
            response.set_cookie(
                COOKIE, quote(self._token, safe=""), max_age=30 * 86400, httponly=True, samesite="strict",
                secure=scope["scheme"] == "https",
            )  # fmt: skip
        elif self._knows(unquote(request.cookies.get(COOKIE, ""))) or (
            scheme.lower() == "bearer" and self._knows(bearer)
        ):
            response = self._app
        else:
            response = HTMLResponse(_login_page(asked is not None), 401)
        await response(scope, receive, send)


def _login_page(refused: bool) -> str:
    message = "That token was refused." if refused else "This page needs the token that the program printed."
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        "<title>edgecls</title><style>body{font:16px system-ui;max-width:26rem;margin:18vh auto;padding:0 1rem;"
        "color-scheme:light dark}input,button{font:inherit;padding:.4rem .7rem}</style>"
        f"<h1>edgecls</h1><p>{escape(message)}</p>"
        "<form><input name='token' type='password' aria-label='token' autofocus> "
        "<button>Open</button></form></html>"
    )


def exposition(health: Health) -> str:
    """The stream in figures in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(health))
    return generate_latest(registry).decode()


class _Collector:
    def __init__(self, health: Health):
        self._health = health

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        cameras = self._health.cameras
        yield GaugeMetricFamily("edgecls_running_seconds", "Time since the stream began.", self._health.running_s)
        for name, message, value in (
            ("captured", "Frames that the camera gave.", lambda c: c.captured),
            ("decided", "Frames decided about.", lambda c: c.decided),
            ("dropped", "Frames that a newer one replaced.", lambda c: c.dropped),
            ("reconnects", "Times that the camera was lost.", lambda c: c.reconnects),
        ):
            counter = CounterMetricFamily(f"edgecls_{name}", message, labels=["camera"])
            for camera in cameras:
                counter.add_metric([camera.camera], value(camera))  # type: ignore[no-untyped-call]
            yield counter
        for name, message, value in (
            ("in_flight", "Frames between capture and decision.", lambda c: c.in_flight),
            ("frames_per_second", "Recent rate of decisions.", lambda c: c.fps),
            ("inference_seconds", "Recent mean from preprocessing to scores.", lambda c: c.inference_ms / 1000),
            ("frame_age_seconds", "Recent mean from capture to decision.", lambda c: c.age_ms / 1000),
        ):
            gauge = GaugeMetricFamily(f"edgecls_{name}", message, labels=["camera"])
            for camera in cameras:
                gauge.add_metric([camera.camera], value(camera))
            yield gauge
        states = GaugeMetricFamily("edgecls_camera_state", "1 for the state that it is in.", labels=["camera", "state"])
        for camera in cameras:
            for state in State:
                states.add_metric([camera.camera, state.value], camera.state is state)
        yield states
        for name, message, value in (
            ("written", "What a sink took.", lambda s: s.written),
            ("lost", "What its full queue let go.", lambda s: s.lost),
            ("failed", "What failed.", lambda s: s.failed),
        ):
            counter = CounterMetricFamily(f"edgecls_sink_{name}", message, labels=["sink"])
            for sink in self._health.sinks:
                counter.add_metric([sink.sink], value(sink))
            yield counter
