"""From what is asked for to sinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgecls import plugins
from edgecls.errors import UsageError
from edgecls.runtime.explanation import Explainer
from edgecls.streaming.config import SinkConfig
from edgecls.streaming.sinks.base import Sink
from edgecls.streaming.sinks.files import EventSink, LogSink, VideoSink
from edgecls.streaming.sinks.keep import KeepSink
from edgecls.streaming.sinks.network import MqttSink, WebhookSink
from edgecls.streaming.sinks.web import WebSink
from edgecls.streaming.sources import Source


def make_sinks(
    config: SinkConfig,
    sources: Sequence[Source],
    keep: KeepSink | None = None,
    explain: Callable[[], Explainer] | None = None,
) -> list[Sink]:
    """The sinks of a configuration, not begun yet, and the one that keeps frames for a human's look, which the page can
    hand frames to.

    `explain` opens the model once more where the page can show what it looks at. Raises `UsageError` and
    `MissingExtraError`.
    """
    config.check()
    sinks: list[Sink] = [keep] if keep else []
    if config.record is not None:
        minutes = config.segment_minutes
        sinks.append(VideoSink(config.record, sources, None if minutes is None else 60 * minutes))
    if config.events is not None:
        sinks.append(EventSink(config.events))
    if config.log is not None:
        sinks.append(LogSink(config.log))
    if config.mqtt:
        sinks.append(MqttSink(config.mqtt))
    if config.webhook:
        sinks.append(WebhookSink(config.webhook))
    if config.web is not None:
        sinks.append(WebSink(config.web, config.token(), keep=keep, explain=explain))
    return [*sinks, *map(from_other_package, config.others)]


def from_other_package(text: str) -> Sink:
    """The sink that NAME or NAME:ARGUMENT means, of a package with entry points of the group `edgecls.sinks`.

    Each is a function of the argument, an empty one where there is none. Raises `UsageError`.
    """
    name, _, argument = text.partition(":")
    sink = plugins.load_named(plugins.SINKS, name)(argument)
    if not isinstance(sink, Sink):
        raise UsageError(f"{name} gives no Sink but a {type(sink).__name__}")
    return sink
