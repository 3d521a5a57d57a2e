"""The page of collecting, and what it asks for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgecls.collecting.session import Session
from edgecls.errors import EdgeclsError, SourceError, UsageError
from edgecls.web.app import as_json, for_viewers, guarded, mjpeg, page, read_object, updates
from edgecls.web.limits import LIMITS, Limits

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
"""What a browser calls itself, and a press."""


def build(session: Session, token: str | None, limits: Limits = LIMITS) -> Callable[..., Any]:
    """The application; see `web.app.guarded`.

    What is asked for by POST is answered with the new state, and what fails with `error`: 400 for what makes no sense,
    409 while the camera is away, 507 where the folder cannot be written.
    """
    from starlette.responses import HTMLResponse, PlainTextResponse
    from starlette.responses import Response as Answer
    from starlette.routing import Route

    content = page("edgecls.collecting")

    async def index(_request: Request) -> Response:
        return HTMLResponse(content)

    async def figures(request: Request) -> Response:
        client = _named(request.query_params.get("client"))
        return updates(lambda: session.state(client), session.closing)

    async def live(_request: Request) -> Response:
        return mjpeg(session.picture.jpeg, session.closing)

    async def recent(request: Request) -> Response:
        path = request.path_params["path"]
        thumbnail = next((each.thumbnail for each in [*session.taking.recent] if each.row.path == path), None)
        return (
            PlainTextResponse("no such picture\n", 404)
            if thumbnail is None
            else Answer(thumbnail, media_type="image/jpeg")
        )

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    def doing(work: Callable[[dict[str, Any], str], Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            given = await read_object(request, limits)
            if given is None:
                return as_json({"error": "the request must bring a JSON object"}, 400)
            client = _named(given.get("client"))
            try:
                outcome = await asyncio.to_thread(work, given, client)
            except EdgeclsError as error:
                code = 400 if isinstance(error, UsageError) else 409 if isinstance(error, SourceError) else 507
                return as_json({"error": str(error)}, code)
            return as_json({"outcome": outcome, "state": await asyncio.to_thread(session.state, client)})

        return answer

    def take(given: dict[str, Any], client: str) -> str:
        press = _named(given.get("press"))
        if not press:
            raise UsageError("a press has a name of letters and digits")
        label = _text(given, "label")
        if label not in session.taking.classes:
            raise UsageError(f"there is no class {label!r}")
        return session.take(label, f"{client} {press}", client)

    def undo(_given: dict[str, Any], client: str) -> dict[str, Any] | None:
        undone = session.taking.undo(client)
        return None if undone is None else {"label": undone[0], "images": undone[1]}

    def add_class(given: dict[str, Any], _client: str) -> str:
        return session.taking.add_class(_text(given, "label"))

    limited = for_viewers(limits)
    routes = [
        Route("/", index), Route("/healthz", healthz), Route("/api/updates", figures, middleware=limited),
        Route("/camera.mjpg", live, middleware=limited), Route("/recent/{path:path}", recent),
        Route("/api/take", doing(take), methods=["POST"]), Route("/api/undo", doing(undo), methods=["POST"]),
        Route("/api/classes", doing(add_class), methods=["POST"]),
    ]  # fmt: skip
    return guarded(routes, token)


def _named(value: Any) -> str:
    return value if isinstance(value, str) and _ID.fullmatch(value) else ""


def _text(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise UsageError(f"{name} must be text")
    return value
