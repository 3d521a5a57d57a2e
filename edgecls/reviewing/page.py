"""The page of a review, and what it asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from edgecls.errors import DataError, EdgeclsError, UsageError
from edgecls.imaging.decode import read_image
from edgecls.reviewing.queue import Shown
from edgecls.web.app import client_of_page, for_viewers, guarded, in_thread, page, posted, text_in, updates
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
    from starlette.routing import Route

    from edgecls.web.pictures import to_jpeg

    queue, content, asked = review.queue, page("edgecls.reviewing"), _Asked(review)

    async def index(_request: Request) -> Response:
        return HTMLResponse(content)

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def figures(request: Request) -> Response:
        client = client_of_page(request.query_params.get("client"))

        def now() -> dict[str, Any]:
            queue.renew(client)
            return asked.state(client)

        return updates(now, closing)

    works: dict[str, Callable[[dict[str, Any], str], Any]] = {
        "next": asked.next, "decide": asked.decide, "undo": asked.undo, "rename": asked.rename,
        "decided": asked.decided, "classes": asked.add_class,
    }  # fmt: skip
    limited = for_viewers(limits)
    routes = [
        Route("/", index), Route("/healthz", healthz), Route("/api/updates", figures, middleware=limited),
        Route("/thumbnail/{path:path}", _picture(review, review.thumbnails.get)),
        Route("/picture/{path:path}", _picture(review, lambda path: to_jpeg(read_image(review.pictures / path)))),
        *(posted(f"/api/{name}", work, asked.state, limits, client_required=True) for name, work in works.items()),
    ]  # fmt: skip
    return guarded(routes, token)


def _picture(review: Review, get: Callable[[str], bytes]) -> Callable[[Request], Any]:
    """Answers with the JPEG that `get` gives of a picture in the queue, or of one that is shown beside it."""
    from starlette.responses import PlainTextResponse
    from starlette.responses import Response as Answer

    others = {item.other for item in review.queue.items if item.other}

    async def answer(request: Request) -> Response:
        # What starlette makes of the path has lost the bytes that are not UTF-8.
        path = unquote(request.scope["raw_path"].decode("ascii"), errors="surrogateescape").split("/", 2)[2]
        try:
            if path not in review.queue.position_of and path not in others:
                raise DataError("no such picture")
            return Answer(await in_thread(get, path), media_type="image/jpeg")
        except (EdgeclsError, OSError):
            return PlainTextResponse("no such picture\n", 404)

    return answer


class _Asked:
    """What browsers ask for by POST, and what all of them are shown."""

    def __init__(self, review: Review):
        self._review, self._queue = review, review.queue
        self._undoable_of: dict[str, tuple[int, dict[str, Any] | None]] = {}

    def state(self, client: str) -> dict[str, Any]:
        """The review in figures, and what a browser can undo."""
        review, queue = self._review, self._queue
        with queue.lock:
            if self._undoable_of.get(client, (-1, None))[0] != queue.version:
                event = queue.decisions.undoable(client)
                undoable = None if event is None else _undoable(event, len(queue.decisions.still(event)))
                if len(self._undoable_of) > MOST_CLIENTS:
                    self._undoable_of.clear()
                self._undoable_of[client] = queue.version, undoable
            counts = queue.counts()
            return {
                "pictures": str(review.pictures), "folder": str(review.config.data), "in_place": review.in_place,
                "classes": [{"label": label, "count": counts[label]} for label in queue.classes],
                "reject": counts["reject"], "unknown": counts["unknown"],
                "total": len(queue.items), "left": queue.left(), "known": review.known,
                "unreadable": len(review.features.unreadable), "gone": len(review.gone),
                "unplaced": len(queue.decisions.unplaced), "error": review.error,
                "undo": self._undoable_of[client][1],
            }  # fmt: skip

    def next(self, given: dict[str, Any], client: str) -> list[dict[str, Any]]:
        if given.get("later") is True:
            self._queue.later(client)
        return [_shown(each) for each in self._queue.next(client)]

    def decide(self, given: dict[str, Any], client: str) -> dict[str, Any]:
        seen = given.get("seen")
        if not isinstance(seen, dict) or not all(type(version) is int for version in seen.values()):
            raise UsageError("seen must give the version of each picture")
        label = text_in(given, "label") if given.get("verdict") == "label" else ""
        outcome = self._queue.decide(client, seen, text_in(given, "verdict"), label)
        conflicts = [_shown(each) for each in self._queue.shown(outcome.conflicts)]
        return {"n": outcome.n, "done": outcome.done, "conflicts": conflicts}

    def undo(self, _given: dict[str, Any], client: str) -> dict[str, Any] | None:
        undone = self._queue.undo(client)
        return None if undone is None else _undoable(undone[0], len(undone[1]))

    def rename(self, given: dict[str, Any], client: str) -> str:
        return self._queue.rename_class(client, text_in(given, "old"), text_in(given, "label"))

    def decided(self, given: dict[str, Any], _client: str) -> dict[str, Any]:
        label, number = given.get("label"), given.get("page", 0)
        if not isinstance(number, int) or not 0 <= number < 1_000_000 or not isinstance(label, str | None):
            raise UsageError("label must be text, and page a number")
        found, count = self._queue.decided(label, number, PAGE)
        return {"items": [_shown(each) for each in found], "count": count, "size": PAGE}

    def add_class(self, given: dict[str, Any], client: str) -> str:
        return self._queue.add_class(client, text_in(given, "label"))


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
