"""The page of a review, and what it asks for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from edgecls.errors import DataError, EdgeclsError, UsageError
from edgecls.imaging.decode import read_image
from edgecls.reviewing.queue import Shown
from edgecls.web.app import as_json, for_viewers, guarded, page, read_object, updates
from edgecls.web.limits import LIMITS, Limits

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from edgecls.reviewing.run import Review

_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
"""What a browser calls itself."""
MOST_CLIENTS = 100
PAGE = 24
"""Decided pictures on one page."""


def build(
    review: Review, closing: Callable[[], bool], token: str | None, limits: Limits = LIMITS
) -> Callable[..., Any]:
    """The application; see `web.app.guarded`.

    What is asked for by POST is answered with the outcome and the new state, and what fails with `error`: 400 for what
    makes no sense, 507 where the log cannot be written; then nothing was decided.
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
        client = _named(request.query_params.get("client"))

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

    def doing(work: Callable[[dict[str, Any], str], Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            given = await read_object(request, limits)
            client = _named(given.get("client")) if given is not None else ""
            if given is None or not client:
                return as_json({"error": "the request must bring a JSON object with the client's name"}, 400)
            try:
                outcome = await asyncio.to_thread(work, given, client)
            except EdgeclsError as error:
                return as_json({"error": str(error)}, 400 if isinstance(error, UsageError) else 507)
            return as_json({"outcome": outcome, "state": await asyncio.to_thread(state, client)})

        return answer

    def get_next(given: dict[str, Any], client: str) -> list[dict[str, Any]]:
        if given.get("later") is True:
            queue.later(client)
        return [_shown(each) for each in queue.next(client)]

    def decide(given: dict[str, Any], client: str) -> dict[str, Any]:
        seen = given.get("seen")
        if not isinstance(seen, dict) or not all(type(version) is int for version in seen.values()):
            raise UsageError("seen must give the version of each picture")
        label = _text(given, "label") if given.get("verdict") == "label" else ""
        outcome = queue.decide(client, seen, _text(given, "verdict"), label)
        return {
            "n": outcome.n,
            "done": outcome.done,
            "conflicts": [_shown(each) for each in queue.shown(outcome.conflicts)],
        }

    def undo(_given: dict[str, Any], client: str) -> dict[str, Any] | None:
        undone = queue.undo(client)
        return None if undone is None else _undoable(undone[0], len(undone[1]))

    def rename(given: dict[str, Any], client: str) -> str:
        return queue.rename_class(client, _text(given, "old"), _text(given, "label"))

    def look_back(given: dict[str, Any], _client: str) -> dict[str, Any]:
        label, number = given.get("label"), given.get("page", 0)
        if not isinstance(number, int) or not 0 <= number < 1_000_000 or not isinstance(label, str | None):
            raise UsageError("label must be text, and page a number")
        found, count = queue.decided(label, number, PAGE)
        return {"items": [_shown(each) for each in found], "count": count, "size": PAGE}

    limited = for_viewers(limits)
    routes = [
        Route("/", index), Route("/healthz", healthz), Route("/api/updates", figures, middleware=limited),
        Route("/thumbnail/{path:path}", picture(review.thumbnails.get)),
        Route("/picture/{path:path}", picture(lambda path: to_jpeg(read_image(review.pictures / path)))),
        Route("/api/next", doing(get_next), methods=["POST"]), Route("/api/decide", doing(decide), methods=["POST"]),
        Route("/api/undo", doing(undo), methods=["POST"]), Route("/api/rename", doing(rename), methods=["POST"]),
        Route("/api/decided", doing(look_back), methods=["POST"]),
        Route("/api/classes", doing(lambda given, who: queue.add_class(who, _text(given, "label"))), methods=["POST"]),
    ]  # fmt: skip
    return guarded(routes, token)


def _shown(each: Shown) -> dict[str, Any]:
    item, verdict = each.item, each.verdict
    return {
        "id": item.path, "label": item.label, "guess": each.guess, "reason": item.reason, "other": item.other,
        "source": item.source, "time": item.time.isoformat(timespec="seconds") if item.time else "",
        "verdict": None if verdict is None else {"kind": verdict.kind, "label": verdict.label},
        "version": each.version,
    }  # fmt: skip


def _undoable(event: dict[str, Any], images: int) -> dict[str, Any]:
    return {"verdict": event["verdict"], "label": event.get("label", ""), "images": images}


def _named(value: Any) -> str:
    return value if isinstance(value, str) and _ID.fullmatch(value) else ""


def _text(given: dict[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise UsageError(f"{name} must be text")
    return value
