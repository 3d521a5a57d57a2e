"""The stream's page: pictures as MJPEG, figures as server-sent events, Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from edgecls.errors import OutputError, UsageError
from edgecls.labels import typed_label
from edgecls.streaming.decision import CameraHealth, Health, State
from edgecls.streaming.drift import SIGNS
from edgecls.web.app import as_json, for_viewers, guarded, in_thread, mjpeg, page, read_object, updates
from edgecls.web.limits import LIMITS, Limits

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class Feed(Protocol):
    """What the page shows."""

    @property
    def closing(self) -> bool:
        """Whether endless answers are to end."""

    def health(self) -> Health:
        """The stream in figures."""

    def events(self) -> list[dict[str, Any]]:
        """Recent events, newest first."""

    def drifts(self) -> dict[str, dict[str, Any]]:
        """By camera, how its pictures have moved away from those that the model knows."""

    def strange(self, camera: str, number: int) -> bytes | None:
        """A small JPEG of a frame that shows the drift."""

    @property
    def classes(self) -> list[str]:
        """What a frame that is called wrong can show, unless somebody types another; empty where none are kept."""

    def hold(self, camera: str) -> str | None:
        """Hold a camera's present frame, which somebody calls wrong; returns a name for it."""

    def held(self, name: str) -> bytes | None:
        """Such a frame as JPEG."""

    def keep(self, name: str, label: str | None) -> bool:
        """Keep it with a class that it shows, None for none of them. False where it is held no more. Raises
        `OutputError`.
        """

    @property
    def explains(self) -> bool:
        """Whether pictures of what the model looks at can be had."""

    def picture(self, camera: str, after: int, explained: bool = False) -> tuple[int, bytes] | None:
        """The newest picture of a camera as JPEG and its number; None where there is none newer than `after`. With
        `explained` it shows what the model looks at.
        """


def build(feed: Feed, token: str | None, limits: Limits = LIMITS) -> Callable[..., Any]:
    """The application; see `web.app.guarded`."""
    from starlette.responses import HTMLResponse, PlainTextResponse
    from starlette.responses import Response as Answer
    from starlette.routing import Route

    content = page("edgecls.streaming")

    def closing() -> bool:
        return feed.closing

    async def index(_request: Request) -> Response:
        return HTMLResponse(content)

    async def figures(_request: Request) -> Response:
        return updates(
            lambda: {
                "health": feed.health().to_json(),
                "events": feed.events(),
                "drifts": feed.drifts(),
                "explains": feed.explains,
            },
            closing,
        )

    async def health(_request: Request) -> Response:
        return as_json(feed.health().to_json())

    async def healthz(_request: Request) -> Response:
        healthy = feed.health().healthy
        return PlainTextResponse("ok\n" if healthy else "a camera is disconnected\n", 200 if healthy else 503)

    async def metrics(_request: Request) -> Response:
        return PlainTextResponse(exposition(feed.health()), media_type="text/plain; version=0.0.4")

    async def live(request: Request) -> Response:
        camera = _named(feed, request)
        if camera is None:
            return PlainTextResponse("no such camera\n", 404)
        return mjpeg(partial(feed.picture, camera, explained=_is_to_explain(request)), closing)

    async def still(request: Request) -> Response:
        camera = _named(feed, request)
        explained = _is_to_explain(request)
        picture = None if camera is None else await in_thread(feed.picture, camera, -1, explained)
        if picture is None:
            return PlainTextResponse("no picture\n", 404)
        return Answer(picture[1], media_type="image/jpeg")

    async def strange(request: Request) -> Response:
        camera, frame = _named(feed, request), request.path_params["frame"]
        jpeg = feed.strange(camera, int(frame)) if camera and frame.isdecimal() else None
        return Answer(jpeg, media_type="image/jpeg") if jpeg else PlainTextResponse("no picture\n", 404)

    async def classes(_request: Request) -> Response:
        return as_json(feed.classes)

    async def hold(request: Request) -> Response:
        camera = _named(feed, request)
        name = await in_thread(feed.hold, camera) if camera else None
        return as_json({"held": name}) if name else PlainTextResponse("nothing to keep, or nowhere\n", 404)

    async def held(request: Request) -> Response:
        jpeg = feed.held(request.path_params["name"])
        return Answer(jpeg, media_type="image/jpeg") if jpeg else PlainTextResponse("no picture\n", 404)

    async def keep(request: Request) -> Response:
        given = await read_object(request, limits)
        label = None if given is None else given.get("label")
        if given is None or "label" not in given or not isinstance(label, str | None):
            return PlainTextResponse("give a class as label, or null\n", 400)
        try:
            label = None if label is None else typed_label(label, feed.classes)
            kept = await in_thread(feed.keep, request.path_params["name"], label)
        except UsageError as error:
            return PlainTextResponse(f"{error}\n", 400)
        except OutputError as error:
            return PlainTextResponse(f"{error}\n", 507)
        return as_json({"kept": True}) if kept else PlainTextResponse("it is held no more\n", 404)

    limited = for_viewers(limits)
    routes = [
        Route("/", index), Route("/api/updates", figures, middleware=limited), Route("/api/health", health),
        Route("/healthz", healthz), Route("/metrics", metrics),
        Route("/camera/{number}.mjpg", live, middleware=limited), Route("/camera/{number}.jpg", still),
        Route("/camera/{number}/strange/{frame}.jpg", strange), Route("/api/classes", classes),
        Route("/api/wrong/{number}", hold, methods=["POST"]), Route("/api/held/{name}.jpg", held),
        Route("/api/held/{name}", keep, methods=["POST"]),
    ]  # fmt: skip
    return guarded(routes, token)


def _named(feed: Feed, request: Request) -> str | None:
    cameras = feed.health().cameras
    number = request.path_params["number"]
    return next((camera.camera for index, camera in enumerate(cameras) if str(index) == number), None)


def _is_to_explain(request: Request) -> bool:
    return "explained" in request.query_params


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
        yield from _drift_figures(cameras)
        for name, message, value in (
            ("written", "What a sink took.", lambda s: s.written),
            ("lost", "What its full queue let go.", lambda s: s.lost),
            ("failed", "What failed.", lambda s: s.failed),
        ):
            counter = CounterMetricFamily(f"edgecls_sink_{name}", message, labels=["sink"])
            for sink in self._health.sinks:
                counter.add_metric([sink.sink], value(sink))
            yield counter


def _drift_figures(cameras: Iterable[CameraHealth]) -> Iterable[Any]:
    from prometheus_client.core import GaugeMetricFamily

    watched = [(camera.camera, camera.drift) for camera in cameras if camera.drift is not None]
    signs = GaugeMetricFamily("edgecls_drift", "1 for a sign of drift that holds.", labels=["camera", "sign"])
    figures = GaugeMetricFamily(
        "edgecls_drift_figure",
        "Recent frames beside validation images: mean ranks (0.5 is usual), share of unknown, PSI of classes.",
        labels=["camera", "figure"],
    )
    for camera, drift in watched:
        for sign in SIGNS:
            signs.add_metric([camera, sign], sign in drift.signs)
        for name in (*SIGNS, "class_shares_psi"):
            figures.add_metric([camera, name], getattr(drift, name))
    yield from (signs, figures)
