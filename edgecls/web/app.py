"""An application of pages behind guards: the token, the same site, hosts, viewers, and the same headers everywhere."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote

from edgecls.concurrency import usable_cpus
from edgecls.errors import EdgeclsError, SourceError, UsageError
from edgecls.web.limits import LIMITS, Limits, Viewers, client_of

if TYPE_CHECKING:
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

T = TypeVar("T")

COOKIE = "edgecls_token"
PICTURES_PER_S = 15
UPDATES_PER_S = 4
SHOWN_AGAIN_S = 1.0
"""A picture is sent again where there is no newer one: browsers show one when they see the next, and who is gone is
noticed when something is sent."""
BOUNDARY = b"frame"
LARGEST_BODY_BYTES = 64 * 1024
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_SHARED = {"/* style.css */": "style.css", "/* shared.js */": "shared.js"}
"""Where a page wants the styles and functions that pages share."""
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_SLOW = ThreadPoolExecutor(usable_cpus() + 2, "edgecls-web-slow")
"""Apart from asyncio's own threads, which endless answers take their content from."""


def guarded(routes: Sequence[BaseRoute], token: str | None) -> Callable[..., Any]:
    """An application of these routes. Without a token it answers only to a loopback address' own names.

    /healthz needs no token, where there is one.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    guard = Middleware(_TokenGuard, token=token) if token else Middleware(
        TrustedHostMiddleware, allowed_hosts=list(LOOPBACK_NAMES)
    )  # fmt: skip
    return _SameHeaders(Starlette(routes=routes, middleware=[Middleware(_SiteGuard), guard]))


def for_viewers(limits: Limits) -> list[Middleware]:
    """What stands before routes whose answers are endless: all that get this list share the limits."""
    from starlette.middleware import Middleware

    return [Middleware(_ViewerGuard, viewers=Viewers(limits))]


def page(package: str, name: str = "page.html") -> str:
    """The text of a page that lies in a package, with the styles and functions that pages share put in."""
    text = resources.files(package).joinpath(name).read_text(encoding="utf-8")
    for mark, file in _SHARED.items():
        text = text.replace(mark, resources.files("edgecls.web").joinpath(file).read_text(encoding="utf-8").strip())
    return text


def as_json(content: Any, status: int = 200) -> Response:
    """An answer of JSON in ASCII: any text can be sent, also names of files that are not UTF-8."""
    from starlette.responses import Response

    return Response(json.dumps(content, allow_nan=False), status, media_type="application/json")


async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """What slow work gives, of which a few are done at once: endless answers never wait for it."""
    return await asyncio.get_running_loop().run_in_executor(_SLOW, work, *arguments)


def updates(content: Callable[[], Any], closing: Callable[[], bool]) -> Response:
    """The endless answer of server-sent events: what `content` gives, in a thread, as JSON, several times a second."""
    from starlette.responses import StreamingResponse

    async def events() -> AsyncIterator[str]:
        while not closing():
            yield f"data: {json.dumps(await asyncio.to_thread(content))}\n\n"
            await asyncio.sleep(1 / UPDATES_PER_S)

    return StreamingResponse(events(), media_type="text/event-stream")


def mjpeg(picture: Callable[[int], tuple[int, bytes] | None], closing: Callable[[], bool]) -> Response:
    """The endless answer of new pictures as they come and as the browser takes them: a slow one skips some.

    `picture` gives the newest one as JPEG and its number, or None where there is none newer than the number given.
    """
    from starlette.responses import StreamingResponse

    async def pictures() -> AsyncIterator[bytes]:
        shown, sent_s = -1, 0.0
        yield b"--%b\r\n" % BOUNDARY
        while not closing():
            now_s = asyncio.get_running_loop().time()
            newest = await asyncio.to_thread(picture, shown if now_s < sent_s + SHOWN_AGAIN_S else -1)
            if newest is not None:
                (shown, jpeg), sent_s = newest, now_s
                yield b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                # The mark comes at once, not with the next picture: a browser shows a picture when it has seen it.
                yield jpeg + b"\r\n--%b\r\n" % BOUNDARY
            await asyncio.sleep(1 / PICTURES_PER_S)

    return StreamingResponse(pictures(), media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY.decode()}")


def client_of_page(value: Any) -> str:
    """What a browser calls itself, or a press: letters, digits and hyphens; an empty text for anything else."""
    return value if isinstance(value, str) and _ID.fullmatch(value) else ""


def text_in(given: dict[str, Any], name: str) -> str:
    """A text that a request brings under a name. Raises `UsageError` for anything else."""
    value = given.get(name)
    if not isinstance(value, str):
        raise UsageError(f"{name} must be text")
    return value


def posted(
    path: str,
    work: Callable[[dict[str, Any], str], Any],
    state: Callable[[str], Any],
    limits: Limits = LIMITS,
    client_required: bool = False,
) -> BaseRoute:
    """A route by which browsers change something: `work` is given, in a thread, the request's JSON object and who asks.

    It is answered with what `work` returns and the new `state` for that browser, and what fails with `error`: 400 for
    what makes no sense, 409 while the camera is disconnected, 507 where nothing can be written.
    """
    from starlette.routing import Route

    wanted = "a JSON object with the client's name" if client_required else "a JSON object"

    async def answer(request: Request) -> Response:
        given = await read_object(request, limits)
        client = client_of_page(given.get("client")) if given is not None else ""
        if given is None or (client_required and not client):
            return as_json({"error": f"the request must bring {wanted}"}, 400)
        try:
            outcome = await in_thread(work, given, client)
        except EdgeclsError as error:
            code = 400 if isinstance(error, UsageError) else 409 if isinstance(error, SourceError) else 507
            return as_json({"error": str(error)}, code)
        return as_json({"outcome": outcome, "state": await asyncio.to_thread(state, client)})

    return Route(path, answer, methods=["POST"])


async def read_object(request: Request, limits: Limits = LIMITS) -> dict[str, Any] | None:
    """The JSON object that a request brings; None where it brings another thing, too much, or takes too long."""

    async def content() -> bytes:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST_BODY_BYTES:
                break
        return body

    try:
        body = await asyncio.wait_for(content(), limits.head_s)
        value = json.loads(body) if len(body) <= LARGEST_BODY_BYTES else None
    except (asyncio.TimeoutError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


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


def has_other_origin(headers: Mapping[bytes, str]) -> bool:
    """Whether a request's Origin is another than the host that it asks."""
    origin = headers.get(b"origin")
    return origin is not None and origin.partition("://")[2].lower() != headers.get(b"host", "").lower()


def is_from_other_site(headers: Mapping[bytes, str]) -> bool:
    """Whether a browser says that another site asks."""
    return headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin")


class _SiteGuard:
    """Refuses what other sites ask for through somebody's browser; only a link to the page itself may be there.

    Browsers say where a request comes from in Sec-Fetch-Site (on https and loopback) and Origin; programs send neither.
    """

    def __init__(self, app: Callable[..., Any]):
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        headers = {name: value.decode("latin-1").lower() for name, value in scope.get("headers", [])}
        link = (scope["path"], headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")) == (
            "/", "navigate", "document",
        )  # fmt: skip
        if has_other_origin(headers) or (is_from_other_site(headers) and not link):
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
