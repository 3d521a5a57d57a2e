"""The page of collecting, and what it asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgecls.collecting.session import Session
from edgecls.errors import UsageError
from edgecls.web.app import client_of_page, for_viewers, guarded, mjpeg, page, posted, text_in, updates
from edgecls.web.limits import LIMITS, Limits

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


def build(session: Session, token: str | None, limits: Limits = LIMITS) -> Callable[..., Any]:
    """The application; see `web.app.guarded`.

    For what is asked for by POST see `web.app.posted`.
    """
    from starlette.responses import HTMLResponse, PlainTextResponse
    from starlette.responses import Response as Answer
    from starlette.routing import Route

    content = page("edgecls.collecting")

    async def index(_request: Request) -> Response:
        return HTMLResponse(content)

    async def figures(request: Request) -> Response:
        client = client_of_page(request.query_params.get("client"))
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

    def take(given: dict[str, Any], client: str) -> str:
        press = client_of_page(given.get("press"))
        if not press:
            raise UsageError("a press has a name of letters and digits")
        label = text_in(given, "label")
        if label not in session.taking.classes:
            raise UsageError(f"there is no class {label!r}")
        return session.take(label, f"{client} {press}", client)

    def undo(_given: dict[str, Any], client: str) -> dict[str, Any] | None:
        undone = session.taking.undo(client)
        return None if undone is None else {"label": undone[0], "images": undone[1]}

    def add_class(given: dict[str, Any], _client: str) -> str:
        return session.taking.add_class(text_in(given, "label"))

    limited = for_viewers(limits)
    routes = [
        Route("/", index), Route("/healthz", healthz), Route("/api/updates", figures, middleware=limited),
        Route("/camera.mjpg", live, middleware=limited), Route("/recent/{path:path}", recent),
        *(
            posted(f"/api/{name}", work, session.state, limits)
            for name, work in (("take", take), ("undo", undo), ("classes", add_class))
        ),
    ]  # fmt: skip
    return guarded(routes, token)
