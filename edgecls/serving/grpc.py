"""The protocol's gRPC form, and gRPC's own health check."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from edgecls.clock import now_ns
from edgecls.errors import first_line
from edgecls.serving.errors import GRPC_STATUS, RETRY_AFTER_S, RequestError, invalid
from edgecls.serving.messages import HEALTH, NOT_SERVING, SERVICE, SERVING, messages
from edgecls.serving.metrics import statistics_of
from edgecls.serving.protocol import (
    InferRequest,
    InferResponse,
    InputTensor,
    RequestedOutput,
    checked_shape,
    shown,
)
from edgecls.serving.service import Call, Service, check_load_parameters

logger = logging.getLogger(__name__)

CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}
"""Where typed data of the datatypes stand that a model can take."""
HANDSHAKE_MS, IDLE_MS = 10_000, 300_000
"""How long a connection may be none yet, or bring no request."""
FEWEST, MOST, OWN_FILES = 64, 8192, 256
"""Of connections, and of files that are none."""
STREAMS = 256
"""Requests that a connection may have under way."""
HEAD_BYTES = 16 * 1024
WATCH_S = 0.5
"""How often who watches the health is told of a change."""
WATCHERS = 256
"""Of the health, who need no token."""
OPEN_METHODS = ("ServerLive", "ServerReady", "Check", "Watch")
"""What probes ask, without a token."""
Handler = Callable[[Any, Call, Any], Awaitable[Any]]


def build(service: Service) -> Any:
    """A server, not yet listening."""
    import grpc

    options = [
        ("grpc.max_receive_message_length", service.config.body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", HEAD_BYTES),
        ("grpc.absolute_max_metadata_size", HEAD_BYTES),
        ("grpc.max_concurrent_streams", STREAMS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.max_allowed_incoming_connections", _most_connections(service.config.connections)),
        ("grpc.max_connection_idle_ms", IDLE_MS),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=options)
    handlers = _Handlers(service)
    methods = {name: _unary(name, handler, service) for name, handler in handlers.unary().items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    health = {"Check": _unary("Check", handlers.check, service, "HealthCheckRequest"), "Watch": _watch(service)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(HEALTH, health),))
    return server


def _most_connections(of_http: int) -> int:
    """How many may be open beside HTTP's and the program's own files: while they fit, idle ones keep nobody out."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(FEWEST, min(MOST, files - of_http - OWN_FILES))


def _unary(name: str, handler: Handler, service: Service, message: str | None = None) -> Any:
    """A method that answers one message with one, or with a status that says what is wrong."""
    import grpc

    kind = messages()[message or f"{name}Request"]

    async def answer(_messages: Any, context: Any) -> bytes:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        peer = context.peer().partition(":")[2].rpartition(":")[0]
        refusal = None
        with service.call(
            "grpc", name, peer, metadata.get("x-request-id", ""), metadata.get("traceparent", "")
        ) as call:
            call.status = "CANCELLED"  # unless it comes to its end
            try:
                if name not in OPEN_METHODS:
                    service.check_token(metadata.get("authorization"))
                content = await _read(context, call)
                call.hold(len(content))
                result: bytes = (await handler(_parsed(kind, content), call, context)).SerializeToString()
                call.status = "OK"
                return result
            except RequestError as error:
                refusal = error
            except Exception as error:
                logger.exception("a request failed")
                refusal = RequestError("failed", f"the server failed; its log says why ({type(error).__name__})")
            call.status, call.error = GRPC_STATUS[refusal.reason], first_line(refusal)
        trailing = (("retry-after", str(RETRY_AFTER_S)),) if refusal.reason == "busy" else ()
        await context.abort(grpc.StatusCode[call.status], str(refusal), trailing)
        raise AssertionError("abort raises")

    # On the wire a stream of one message is the same, but is not read before somebody may ask, nor without end.
    return grpc.stream_unary_rpc_method_handler(answer)


async def _read(context: Any, call: Call) -> bytes:
    """The message of a request. Raises `RequestError` for one that does not come, or not within the time."""
    import grpc

    try:
        content = await asyncio.wait_for(context.read(), max(0.0, call.left_s))
    except asyncio.TimeoutError:
        raise RequestError("too_slow", f"the request did not come within {call.service.config.timeout_s:g} s") from None
    if content is grpc.aio.EOF:
        raise invalid("the request brings no message")
    return bytes(content)


def _parsed(kind: Any, content: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(content)
    except DecodeError:
        raise invalid("the message is cut off, or is none of this method's") from None


def _watch(service: Service) -> Any:
    """The health check's stream: the state, and each change of it, until the server ends."""
    import grpc

    kind = messages()["HealthCheckResponse"]
    watchers = 0

    async def watch(_content: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal watchers
        if watchers >= WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watch the health already")
        watchers += 1
        try:
            before = None
            while True:
                status = _health(service)
                if status != before:
                    yield kind(status=status).SerializeToString()
                    before = status
                if service.draining:
                    return
                await asyncio.sleep(WATCH_S)
        finally:
            watchers -= 1

    return grpc.unary_stream_rpc_method_handler(watch)


def _health(service: Service) -> int:
    return SERVING if service.ready else NOT_SERVING


class _Handlers:
    """What each method answers."""

    def __init__(self, service: Service):
        self._service = service
        self._messages = messages()

    def unary(self) -> dict[str, Handler]:
        """The methods of the protocol."""
        return {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._metadata,
            "ModelInfer": self._infer,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }

    async def check(self, request: Any, _call: Call, _context: Any) -> Any:
        """The standard health check, of the server."""
        if request.service not in ("", SERVICE):
            raise RequestError("unknown", f"there is no service {shown(request.service)}")
        return self._messages["HealthCheckResponse"](status=_health(self._service))

    async def _live(self, _request: Any, _call: Call, _context: Any) -> Any:
        return self._messages["ServerLiveResponse"](live=True)

    async def _ready(self, _request: Any, _call: Call, _context: Any) -> Any:
        return self._messages["ServerReadyResponse"](ready=self._service.ready)

    async def _server(self, _request: Any, _call: Call, _context: Any) -> Any:
        return self._messages["ServerMetadataResponse"](**self._service.metadata())

    async def _model_ready(self, request: Any, call: Call, _context: Any) -> Any:
        call.model, call.version = request.name, request.version
        try:
            self._service.models.get(request.name, request.version)
        except RequestError:  # one that is not there is not ready, as Triton's clients expect
            return self._messages["ModelReadyResponse"](ready=False)
        return self._messages["ModelReadyResponse"](ready=True)

    async def _metadata(self, request: Any, call: Call, _context: Any) -> Any:
        call.model, call.version = request.name, request.version
        models = self._service.models
        model = models.get(request.name, request.version)
        versions = [request.version] if request.version else models.versions(request.name)
        return self._messages["ModelMetadataResponse"](versions=versions, **model.metadata())

    async def _infer(self, request: Any, call: Call, context: Any) -> Any:
        call.model, call.version = request.model_name, request.model_version
        call.take_id(request.id)
        left_s, deadline_ns = context.time_remaining(), call.deadline_ns
        if left_s is not None:
            deadline_ns = min(deadline_ns, now_ns() + int(1e9 * left_s))
        with self._service.models.get(request.model_name, request.model_version).in_use() as model:
            model.require_place()
            response, call.times = await model.infer(_infer_request(request), deadline_ns)
        call.version, call.images = model.version, response.outputs[0].shape[0]
        return self._infer_response(response)

    def _infer_response(self, response: InferResponse) -> Any:
        outputs = [{"name": each.name, "datatype": each.datatype, "shape": each.shape} for each in response.outputs]
        return self._messages["ModelInferResponse"](
            model_name=response.model_name, model_version=response.model_version, id=response.id, outputs=outputs,
            raw_output_contents=[each.to_raw() for each in response.outputs],
        )  # fmt: skip

    async def _index(self, request: Any, _call: Call, _context: Any) -> Any:
        return self._messages["RepositoryIndexResponse"](models=self._service.models.index(request.ready))

    async def _load(self, request: Any, call: Call, _context: Any) -> Any:
        call.model = request.model_name
        check_load_parameters(request.parameters)
        await self._service.models.load(request.model_name)
        return self._messages["RepositoryModelLoadResponse"]()

    async def _unload(self, request: Any, call: Call, _context: Any) -> Any:
        call.model = request.model_name
        check_load_parameters(request.parameters)
        await self._service.models.unload(request.model_name)
        return self._messages["RepositoryModelUnloadResponse"]()

    async def _statistics(self, request: Any, _call: Call, _context: Any) -> Any:
        models = self._service.models
        wanted = [models.get(request.name, request.version)] if request.name else [*models]
        return self._messages["ModelStatisticsResponse"](model_stats=[statistics_of(model) for model in wanted])


def _infer_request(message: Any) -> InferRequest:
    """A request for an inference. Raises `RequestError`."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise invalid(f"the request has {len(message.inputs)} inputs and {len(raw)} raw_input_contents")
    inputs = []
    for place, each in enumerate(message.inputs):
        shape, parameters = checked_shape(each.name, [*each.shape]), _parameters(each.parameters)
        if raw:
            if each.HasField("contents"):
                raise invalid(f"input {shown(each.name)} has contents and raw_input_contents; give one of them")
            inputs.append(InputTensor(each.name, each.datatype, shape, raw=raw[place], parameters=parameters))
        else:
            values = getattr(each.contents, CONTENTS.get(each.datatype, "bytes_contents"))
            inputs.append(InputTensor(each.name, each.datatype, shape, values=[*values], parameters=parameters))
    outputs = tuple(RequestedOutput(each.name, _parameters(each.parameters)) for each in message.outputs)
    return InferRequest(tuple(inputs), outputs, message.id, _parameters(message.parameters))


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {name: value.WhichOneof("choice") for name, value in given.items()}
    return {name: getattr(given[name], field) for name, field in chosen.items() if field is not None}
