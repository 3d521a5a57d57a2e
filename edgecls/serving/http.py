"""The protocol's REST form, and an image sent as it is. Every error is a JSON object with `error`."""

from __future__ import annotations

import asyncio
import json
import logging
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from edgecls.errors import first_line
from edgecls.logs import quiet
from edgecls.serving import metrics
from edgecls.serving.errors import HTTP_STATUS, RETRY_AFTER_S, RequestError, invalid
from edgecls.serving.model import Asked, confidence_in
from edgecls.serving.protocol import format_response, parameters_in, parse_object, parse_request, shown
from edgecls.serving.service import Call, Service, check_load_parameters
from edgecls.web.app import LOOPBACK_NAMES, as_json, has_other_origin, is_from_other_site

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

logger = logging.getLogger(__name__)
T = TypeVar("T")

JSON_SIZE = "Inference-Header-Content-Length"
REQUEST_ID = "X-Request-ID"
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
OPEN_PATHS = ("/healthz", "/v2/health/live", "/v2/health/ready")
"""What probes ask, without a token."""
TOP = 1
"""Classes that an image's answer tells unless it is asked for more; as `predict` does."""
_GONE = 499
"""What the log says where nobody waited for the answer."""
Handler = Callable[["Request", Call], Awaitable["Response"]]


def build(service: Service) -> Callable[..., Any]:
    """The application, an ASGI callable."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware.cors import CORSMiddleware
    from starlette.routing import Route

    handlers = _Handlers(service)

    def route(path: str, handler: Handler, method: str = "GET") -> Route:
        async def answer(request: Request) -> Response:
            return await _answered(handler, request, request.scope["edgecls.call"])

        return Route(path, answer, methods=[method])

    async def as_error(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = as_json({"error": str(error.detail).lower()}, error.status_code)
        response.headers.update(error.headers or {})
        return response

    models = [route(f"/v2/models/{{name}}{end}", work, method) for end, work, method in handlers.of_models()]
    versions = [
        route(f"/v2/models/{{name}}/versions/{{version}}{end}", work, method)
        for end, work, method in handlers.of_models()
    ]
    others = [route(path, work, method) for path, work, method in handlers.of_server()]
    app = Starlette(routes=[*others, *models, *versions], exception_handlers={HTTPException: as_error})
    app.router.redirect_slashes = False  # an error in place of an answer without a body, which clients do not follow
    guarded = _Guard(app, service)
    if not service.config.allow_origin:
        return guarded
    return CORSMiddleware(
        guarded, allow_origins=service.config.allow_origin, allow_methods=["GET", "POST"], allow_headers=["*"],
        expose_headers=[JSON_SIZE, REQUEST_ID, "Retry-After"],
    )  # fmt: skip


def refusal_of_connection(message: str) -> tuple[str, bytes]:
    """What is answered to a head that is no HTTP."""
    return "application/json", json.dumps({"error": message}).encode()


class _Handlers:
    """What each address answers."""

    def __init__(self, service: Service):
        self._service = service

    def of_models(self) -> list[tuple[str, Handler, str]]:
        """Below a model's address, with or without a version."""
        return [
            ("", self._metadata, "GET"), ("/ready", self._model_ready, "GET"), ("/infer", self._infer, "POST"),
            ("/classify", self._classify, "POST"), ("/stats", self._statistics, "GET"),
        ]  # fmt: skip

    def of_server(self) -> list[tuple[str, Handler, str]]:
        """All others."""
        return [
            ("/v2", self._server, "GET"), ("/v2/health/live", self._live, "GET"),
            ("/v2/health/ready", self._ready, "GET"), ("/healthz", self._ready, "GET"),
            ("/metrics", self._metrics, "GET"), ("/v2/models/stats", self._statistics_of_all, "GET"),
            ("/v2/repository/index", self._index, "POST"),
            ("/v2/repository/models/{name}/load", self._load, "POST"),
            ("/v2/repository/models/{name}/unload", self._unload, "POST"),
        ]  # fmt: skip

    async def _server(self, _request: Request, _call: Call) -> Response:
        return as_json(self._service.metadata())

    async def _live(self, _request: Request, _call: Call) -> Response:
        return as_json({"live": True})

    async def _ready(self, _request: Request, _call: Call) -> Response:
        ready = self._service.ready
        return as_json({"ready": ready}, 200 if ready else 503)

    async def _metrics(self, _request: Request, _call: Call) -> Response:
        from starlette.responses import Response

        service = self._service
        text = metrics.exposition(service.models, service.ready, service.unanswered)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _index(self, request: Request, call: Call) -> Response:
        ready = parse_object(await _body(request, call)).get("ready", False)
        if not isinstance(ready, bool):
            raise invalid("ready must be true or false")
        return as_json(self._service.models.index(ready))

    async def _load(self, request: Request, call: Call) -> Response:
        call.model = request.path_params["name"]
        check_load_parameters(parameters_in(parse_object(await _body(request, call))))
        await self._service.models.load(call.model)
        return as_json({})

    async def _unload(self, request: Request, call: Call) -> Response:
        call.model = request.path_params["name"]
        check_load_parameters(parameters_in(parse_object(await _body(request, call))))
        await self._service.models.unload(call.model)
        return as_json({})

    async def _metadata(self, request: Request, call: Call) -> Response:
        name, version = _model_in(request, call)
        model = self._service.models.get(name, version)
        versions = [version] if version else self._service.models.versions(name)
        values = model.metadata()
        return as_json({"name": values.pop("name"), "versions": versions, **values})

    async def _model_ready(self, request: Request, call: Call) -> Response:
        model = self._service.models.get(*_model_in(request, call))
        return as_json({"name": model.name, "ready": True})

    async def _statistics(self, request: Request, call: Call) -> Response:
        model = self._service.models.get(*_model_in(request, call))
        return as_json({"model_stats": [metrics.statistics_of(model)]})

    async def _statistics_of_all(self, _request: Request, _call: Call) -> Response:
        return as_json({"model_stats": [metrics.statistics_of(model) for model in self._service.models]})

    async def _infer(self, request: Request, call: Call) -> Response:
        from starlette.responses import Response

        named = _model_in(request, call)
        self._service.models.get(*named).require_place()  # before anything is read
        body = await _body(request, call)
        asked = parse_request(body, _json_size(request))
        call.take_id(asked.id)
        with self._service.models.get(*named).in_use() as model:
            response, call.times = await _unless_gone(request, model.infer(asked, call.deadline_ns))
        call.version, call.images = model.version, response.outputs[0].shape[0]
        content, json_bytes = format_response(response, asked)
        if json_bytes is None:
            return Response(content, media_type="application/json")
        return Response(content, media_type="application/octet-stream", headers={JSON_SIZE: str(json_bytes)})

    async def _classify(self, request: Request, call: Call) -> Response:
        named = _model_in(request, call)
        self._service.models.get(*named).require_place()
        content, fields = await _image_in(request, await _body(request, call))
        top, asked = _wishes({**fields, **request.query_params}, call)
        with self._service.models.get(*named).in_use() as model:
            answer, call.times = await _unless_gone(request, model.classify(content, top, asked))
        call.version, call.images = model.version, 1
        return as_json(answer)


class _Guard:
    """Stands before everything: who may ask, errors in the protocol's form, ids, the log, the end of connections."""

    def __init__(self, app: Callable[..., Any], service: Service):
        self._app, self._service = app, service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not scope["path"].startswith("/"):  # the whole address, as it is sent to proxies
            scope["path"] = "/" + scope["path"].partition("://")[2].partition("/")[2]
        client = scope["client"][0] if scope.get("client") else ""
        method = f"{scope['method']} {scope['path'][:200]}"
        with self._service.call(
            "http", method, client, headers.get(b"x-request-id", ""), headers.get(b"traceparent", "")
        ) as call:
            scope["edgecls.call"] = call

            async def finished(message: Any) -> None:
                if message["type"] == "http.response.start":
                    call.status = str(message["status"])
                    message = {**message, "headers": [*message.get("headers", []), *self._headers(call)]}
                await send(message)

            try:
                self._check(scope, headers)
                app = self._app
            except RequestError as error:
                app = _as_error(error, call)
            await app(scope, receive, finished)

    def _headers(self, call: Call) -> list[tuple[bytes, bytes]]:
        values = [*HEADERS.items(), (REQUEST_ID, _safe(call.id))]
        if self._service.draining:
            values.append(("Connection", "close"))
        return [(name.lower().encode(), value.encode()) for name, value in values]

    def _check(self, scope: Any, headers: dict[bytes, str]) -> None:
        """Who may ask. Raises `RequestError`."""
        allowed = self._service.config.allow_origin
        host = headers.get(b"host", "")
        if headers.get(b"origin") not in allowed and (has_other_origin(headers) or is_from_other_site(headers)):
            raise RequestError("forbidden", "asked for by another site's page; allow_origin lets a site ask")
        if scope["path"] in OPEN_PATHS:
            return
        if self._service.has_token:
            self._service.check_token(headers.get(b"authorization"))
        elif host and not {host.lower(), host.lower().rpartition(":")[0]} & {*LOOPBACK_NAMES}:  # browsers name one
            raise RequestError("forbidden", "without a token the server answers to this machine's own names only")


def _safe(text: str) -> str:
    """A text as a header can hold it."""
    return "".join(each if each.isascii() and each.isprintable() else "?" for each in text).strip() or "?"


def _as_error(error: RequestError, call: Call) -> Response:
    call.error = first_line(error)
    response = as_json({"error": str(error)}, HTTP_STATUS[error.reason])
    if error.reason == "busy":
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    if error.reason == "unauthenticated":
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


async def _answered(handler: Handler, request: Request, call: Call) -> Response:
    """What a handler answers, errors included: raised on, one would end the connection."""
    from starlette.requests import ClientDisconnect
    from starlette.responses import Response

    try:
        return await handler(request, call)
    except RequestError as error:
        return _as_error(error, call)
    except ClientDisconnect:
        return Response(status_code=_GONE)
    except Exception:
        logger.exception("a request failed")
        return _as_error(RequestError("failed", "the server failed; its log says why"), call)


def _model_in(request: Request, call: Call) -> tuple[str, str]:
    """Name and version of the model that an address names; an empty version for any."""
    call.model, call.version = request.path_params["name"], request.path_params.get("version", "")
    return call.model, call.version


def _json_size(request: Request) -> int | None:
    value = request.headers.get(JSON_SIZE)
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) < 12):
        raise invalid(f"{JSON_SIZE} takes a number of bytes, not {shown(value)}")
    return int(value)


async def _body(request: Request, call: Call) -> bytes:
    """The body of a request, unpacked. Raises `RequestError` for one that is too large or too slow."""
    limit = call.service.config.body_bytes

    def too_large() -> NoReturn:
        raise RequestError("too_large", f"a request takes at most {call.service.config.body_mib:g} MiB")

    async def read() -> bytes:
        pieces, size = [], 0
        async for piece in request.stream():
            size += len(piece)
            if size > limit:
                too_large()
            call.hold(len(piece))
            pieces.append(piece)
        return b"".join(pieces)

    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        too_large()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise RequestError("unsupported", f"Content-Encoding is gzip or deflate, not {shown(encoding)}")
    try:
        body = await asyncio.wait_for(read(), max(0.0, call.left_s))
    except asyncio.TimeoutError:
        raise RequestError("too_slow", f"the request did not come within {call.service.config.timeout_s:g} s") from None
    if encoding == "identity":
        return body
    unpacking = asyncio.get_running_loop().run_in_executor(call.service.threads.work, _unpacked, body, encoding, limit)
    try:
        unpacked = await asyncio.wait_for(unpacking, max(0.0, call.left_s))
    except asyncio.TimeoutError:
        raise RequestError("expired", "the request's time is over") from None
    if len(unpacked) > limit:
        too_large()
    call.hold(len(unpacked))
    return unpacked


def _unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """The first bytes of what is packed, one more than the limit where there are more. Raises `RequestError`."""
    raw = encoding == "deflate" and not (len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0)
    unpacking = zlib.decompressobj(-zlib.MAX_WBITS if raw else zlib.MAX_WBITS | 32)
    try:
        unpacked = unpacking.decompress(body, limit + 1)
    except zlib.error:
        raise invalid(f"the request is not {encoding}, as its Content-Encoding says") from None
    if len(unpacked) <= limit and (not unpacking.eof or unpacking.unused_data):
        raise invalid(f"the request's {encoding} data is cut off, or has something behind its end")
    return unpacked


async def _image_in(request: Request, body: bytes) -> tuple[bytes, dict[str, str]]:
    """The image that a request brings, as its body or as the file of a form, and the form's other fields."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return body, {}
    if kind != "multipart/form-data":
        raise RequestError(
            "unsupported", f"send the image with Content-Type: image/jpeg (or image/*), or as a form, not {shown(kind)}"
        )
    return await _form(request, body)


async def _form(request: Request, body: bytes) -> tuple[bytes, dict[str, str]]:
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    async def content() -> AsyncIterator[bytes]:
        yield body
        yield b""

    parser = MultiPartParser(request.headers, content(), max_files=1, max_fields=8)
    parser.spool_max_size = len(body) + 1  # in memory, where it is already
    try:
        with quiet("python_multipart.multipart"):  # which warns of what the client is told
            form = await parser.parse()
    except (MultiPartException, ValueError, KeyError) as error:
        raise invalid(f"the form cannot be read: {getattr(error, 'message', None) or error}") from None
    files = [value for value in form.values() if isinstance(value, UploadFile)]
    if not files:
        raise invalid("the form has no file; send one image, as curl -F image=@photo.jpg does")
    image = files[0].file.read()
    await form.close()
    return image, {name: value for name, value in form.items() if isinstance(value, str)}


def _wishes(given: dict[str, str], call: Call) -> tuple[int, Asked]:
    """How many classes, and from which probability on an answer is sure. Raises `RequestError`."""
    if strange := sorted(set(given) - {"top", "min_confidence"}):
        raise invalid(f"there is no parameter {shown(strange[0])}; there are top and min_confidence")
    top = given.get("top", str(TOP))
    if not (top.isascii() and top.isdecimal() and len(top) < 9 and int(top)):
        raise invalid(f"top takes a whole number from 1 on, not {shown(top)}")
    minimum = None
    if (text := given.get("min_confidence")) is not None:
        try:
            minimum = confidence_in(float(text))
        except ValueError:
            raise invalid(f"min_confidence takes a number from 0 to 1, not {shown(text)}") from None
    return int(top), Asked(minimum, call.deadline_ns)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of work, which ends where its client goes away; raises `ClientDisconnect` then."""
    from starlette.requests import ClientDisconnect

    answering = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())  # the body was read: what comes next is the client's end
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ClientDisconnect
        return answering.result()
    finally:
        for each in (answering, leaving):
            each.cancel()
