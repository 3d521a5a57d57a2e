"""The page of a review, and what it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from edgecls.errors import DataError, EdgeclsError, UsageError
from edgecls.imaging.decode import read_image
from edgecls.reviewing.queue import Shown
from edgecls.web.app import client_of_page, for_viewers, guarded, page, posted, text_in, updates
from edgecls.web.limits import LIMITS, Limits

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from edgecls.reviewing.run import Review

MOST_CLIENTS = 100
PAGE = 24
"""Decided pictures on one page."""


def build(
    review: Review, closing: Callable[[], bool], token: str | None, limits: Limits = LIMITS
) -> Callable[..., Any]:
    """The application; see `web.app.guarded`.

    For what is asked for by POST see `web.app.posted`; where that fails nothing was decided.
    """
    from starlette.responses import HTMLResponse, PlainTextResponse
    from starlette.responses import Response as Answer
    from starlette.routing import Route

    from edgecls.web.pictures import to_jpeg

    queue, content = review.queue, page("edgecls.reviewing")
    others = {item.other for item in queue.items if item.other}
    undoable_of: dict[str, tuple[int, dict[str, Any] | None]] = {}

    async def index(_request: Request) -> Response:
        return HTMLResponse(content)

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def figures(request: Request) -> Response:
        client = client_of_page(request.query_params.get("client"))

        def now() -> dict[str, Any]:
            queue.renew(client)
            return state(client)

        return updates(now, closing)

    def state(client: str) -> dict[str, Any]:
        with queue.lock:
            if undoable_of.get(client, (-1, None))[0] != queue.version:
                event = queue.decisions.undoable(client)
                undoable = None if event is None else _undoable(event, len(queue.decisions.still(event)))
                if len(undoable_of) > MOST_CLIENTS:
                    undoable_of.clear()
                undoable_of[client] = queue.version, undoable
            counts = queue.counts()
            return {
                "pictures": str(review.pictures), "folder": str(review.config.data), "in_place": review.in_place,
                "classes": [{"label": label, "count": counts[label]} for label in queue.classes],
                "reject": counts["reject"], "unknown": counts["unknown"],
                "total": len(queue.items), "left": queue.left(), "known": review.known,
                "unreadable": len(review.looks.unreadable), "gone": len(review.gone),
                "unplaced": len(queue.decisions.unplaced), "error": review.error,
                "undo": undoable_of[client][1],
            }  # fmt: skip

    def picture(get: Callable[[str], bytes]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            # What starlette makes of the path has lost the bytes that are not UTF-8.
            path = unquote(request.scope["raw_path"].decode("ascii"), errors="surrogateescape").split("/", 2)[2]
            known = path in queue.position_of or path in others
            try:
                if not known:
                    raise DataError("no such picture")
                return Answer(await asyncio.to_thread(get, path), media_type="image/jpeg")
            except (EdgeclsError, OSError):
                return PlainTextResponse("no such picture\n", 404)

        return answer

    def get_next(given: dict[str, Any], client: str) -> list[dict[str, Any]]:
        if given.get("later") is True:
            queue.later(client)
        return [_shown(each) for each in queue.next(client)]

    def decide(given: dict[str, Any], client: str) -> dict[str, Any]:
        seen = given.get("seen")
        if not isinstance(seen, dict) or not all(type(version) is int for version in seen.values()):
            raise UsageError("seen must give the version of each picture")
        label = text_in(given, "label") if given.get("verdict") == "label" else ""
        outcome = queue.decide(client, seen, text_in(given, "verdict"), label)
        return {
            "n": outcome.n,
            "done": outcome.done,
            "conflicts": [_shown(each) for each in queue.shown(outcome.conflicts)],
        }

    def undo(_given: dict[str, Any], client: str) -> dict[str, Any] | None:
        undone = queue.undo(client)
        return None if undone is None else _undoable(undone[0], len(undone[1]))

    def rename(given: dict[str, Any], client: str) -> str:
        return queue.rename_class(client, text_in(given, "old"), text_in(given, "label"))

    def look_back(given: dict[str, Any], _client: str) -> dict[str, Any]:
        label, number = given.get("label"), given.get("page", 0)
        if not isinstance(number, int) or not 0 <= number < 1_000_000 or not isinstance(label, str | None):
            raise UsageError("label must be text, and page a number")
        found, count = queue.decided(label, number, PAGE)
        return {"items": [_shown(each) for each in found], "count": count, "size": PAGE}

    def add_class(given: dict[str, Any], client: str) -> str:
        return queue.add_class(client, text_in(given, "label"))

    works: dict[str, Callable[[dict[str, Any], str], Any]] = {
        "next": get_next, "decide": decide, "undo": undo, "rename": rename, "decided": look_back, "classes": add_class,
    }  # fmt: skip
    limited = for_viewers(limits)
    routes = [
        Route("/", index), Route("/healthz", healthz), Route("/api/updates", figures, middleware=limited),
        Route("/thumbnail/{path:path}", picture(review.thumbnails.get)),
        Route("/picture/{path:path}", picture(lambda path: to_jpeg(read_image(review.pictures / path)))),
        *(posted(f"/api/{name}", work, state, limits, client_required=True) for name, work in works.items()),
    ]  # fmt: skip
    return guarded(routes, token)


def _shown(each: Shown) -> dict[str, Any]:
    item, verdict = each.item, each.verdict
    return {
        "id": item.path, "label": item.label, "guess": each.guess, "others": each.others,
        "reason": item.reason, "other": item.other,
        "source": item.source, "time": item.time.isoformat(timespec="seconds") if item.time else "",
        "verdict": None if verdict is None else {"kind": verdict.kind, "label": verdict.label},
        "version": each.version,
    }  # fmt: skip


def _undoable(event: dict[str, Any], images: int) -> dict[str, Any]:
    return {"verdict": event["verdict"], "label": event.get("label", ""), "images": images}
