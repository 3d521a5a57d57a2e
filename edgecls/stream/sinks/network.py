"""For other machines: MQTT and webhooks."""

from __future__ import annotations

import json
import random
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

from edgecls.errors import MissingExtraError, OutputError, UsageError, first_line
from edgecls.stream.decision import Event, Health, StateChange
from edgecls.stream.sinks.base import Sink
from edgecls.urls import SecretUrl, checked

PREFIX = "edgecls"
LONGEST_PREFIX_BYTES = 60_000
"""MQTT takes topics of 65,535 bytes; a camera's name comes behind the prefix."""
QUEUED = 1000
"""Messages that wait for a broker that is away; the oldest makes room."""
ATTEMPTS = 8
"""Of one webhook call, over about two minutes."""
RETRY_S, RETRY_MAX_S = 0.5, 30.0
CALL_TIMEOUT_S = 10.0


class MqttSink(Sink):
    """Events and states to an MQTT broker, at least once (QoS 1).

    Topics: `PREFIX/CAMERA/event`, `PREFIX/CAMERA/state` (which the broker keeps) and `PREFIX/status`: "online" and,
    by the connection's last will, "offline". A broker that is away is waited for; what happens meanwhile is sent later.
    """

    name = "mqtt"
    takes_frames = False

    def __init__(self, address: str):
        form = "mqtt://[user:password@]host[:port][/prefix]"
        parts = checked(address, ("mqtt", "mqtts"), "--mqtt", form)
        # A plain # or ? would end the path: with it, the prefix would silently be another one.
        self._prefix = _prefix(parts.path + "#" * any(c in address for c in "#?"))
        try:
            import paho.mqtt.client as mqtt
        except ImportError as error:
            raise MissingExtraError("paho-mqtt", "mqtt", "sending to an MQTT broker") from error
        self._host, self._port = parts.hostname, parts.port or (8883 if parts.scheme == "mqtts" else 1883)
        self._client: Any = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.max_queued_messages_set(QUEUED)
        self._client.reconnect_delay_set(1, 30)
        self._client.will_set(f"{self._prefix}/status", "offline", qos=1, retain=True)
        if parts.username:
            self._client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if parts.scheme == "mqtts":
            self._client.tls_set()
        self._client.on_connect = self._connected
        self._refused: str | None = None

    def _connected(self, client: Any, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        self._refused = str(reason) if reason.is_failure else None
        if not reason.is_failure:
            client.publish(f"{self._prefix}/status", "online", qos=1, retain=True)

    def open(self, health: Callable[[], Health]) -> None:  # noqa: ARG002
        """See `Sink.open`. A broker that is away is no error."""
        self._client.connect_async(self._host, self._port)
        self._client.loop_start()

    def event(self, event: Event) -> None:
        """See `Sink.event`."""
        self._publish(f"{_topic(event.camera)}/event", event.to_json(), retain=False)

    def state(self, change: StateChange) -> None:
        """See `Sink.state`."""
        self._publish(f"{_topic(change.camera)}/state", change.to_json(), retain=True)

    def _publish(self, topic: str, values: dict[str, Any], retain: bool) -> None:
        import paho.mqtt.client as mqtt

        body = json.dumps(values, ensure_ascii=False)
        if self._client.publish(f"{self._prefix}/{topic}", body, qos=1, retain=retain).rc == mqtt.MQTT_ERR_QUEUE_SIZE:
            raise OutputError(f"{self.trouble or self.name}; {QUEUED} messages wait already")

    @property
    def trouble(self) -> str | None:
        """See `Sink.trouble`."""
        if self._client.is_connected():
            return None
        why = f" ({self._refused})" if self._refused else ""
        return f"the MQTT broker {self._host}:{self._port} is away{why}; messages wait for it"

    def close(self) -> None:
        """Send what waits, if the broker is there, and say goodbye."""
        if self._client.is_connected():
            self._client.publish(f"{self._prefix}/status", "offline", qos=1, retain=True).wait_for_publish(3)
        self._client.disconnect()
        self._client.loop_stop()


def _prefix(path: str) -> str:
    """The prefix of all topics, from the path of the broker's address. Raises `UsageError`."""
    prefix = unquote(path).strip("/") or PREFIX
    if any(c in "+#?" or ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in prefix):
        raise UsageError("--mqtt: the prefix of topics takes no +, #, ? and no control characters")
    if len(prefix.encode()) > LONGEST_PREFIX_BYTES:
        raise UsageError(f"--mqtt: the prefix of topics takes {LONGEST_PREFIX_BYTES} bytes at most")
    return prefix


def _topic(camera: str) -> str:
    """A camera's name as one level of a topic."""
    return "".join("_" if c in "/+#" or ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 else c for c in camera)[:250]


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is a failure: followed, it would lose the body or carry credentials to another host."""

    def redirect_request(self, *_args: Any, **_options: Any) -> None:
        """Follow none."""


class WebhookSink(Sink):
    """Events and states as JSON, POSTed one after the other, each until the server has taken it.

    A name and password in the address are sent as basic authentication. Another answer than 2xx is tried again, with
    growing pauses; a 4xx other than 408 and 429 says that trying again will not help. The header
    Idempotency-Key lets a server know what it has seen.
    """

    name = "webhook"
    takes_frames = False

    def __init__(self, address: str):
        parts = checked(address, ("http", "https"), "--webhook", "an http or https address")
        self._shown = SecretUrl(address, secret_path=True)
        self._address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        self._headers = {"Content-Type": "application/json"}
        if parts.username:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {b64encode(credentials).decode()}"
        self._opener = urllib.request.build_opener(_NoRedirects())
        self._hurry = threading.Event()

    def event(self, event: Event) -> None:
        """See `Sink.event`."""
        kind = "event_started" if event.ended is None else "event_ended"
        self._send(f"{event.id}-{kind}", {"kind": kind, **event.to_json()})

    def state(self, change: StateChange) -> None:
        """See `Sink.state`."""
        self._send(f"{change.camera}-{change.at}-{change.state.value}", {"kind": "state", **change.to_json()})

    def _send(self, key: str, values: dict[str, Any]) -> None:
        body = json.dumps(values, ensure_ascii=False).encode(errors="replace")
        headers = {**self._headers, "Idempotency-Key": quote(key, safe=" :+()", errors="replace")}
        for attempt in range(1, ATTEMPTS + 1):
            request = urllib.request.Request(self._address, body, headers)
            try:
                timeout_s = 2.0 if self._hurry.is_set() else CALL_TIMEOUT_S
                with self._opener.open(request, timeout=timeout_s):
                    return
            except urllib.error.HTTPError as error:
                reason, worth_it = f"{error.code} {error.reason}", error.code >= 500 or error.code in (408, 429)
                error.close()
            except OSError as error:
                reason, worth_it = first_line(error), True
            last = attempt == ATTEMPTS or (self._hurry.is_set() and attempt >= 4)
            if last or not worth_it:
                raise OutputError(f"{self._shown} did not take an event: {reason}")
            pause_s = min(RETRY_MAX_S, RETRY_S * 2.0 ** (attempt - 1)) * (1 + random.random() / 2)
            self._hurry.wait(pause_s)

    def hurry(self) -> None:
        """See `Sink.hurry`."""
        self._hurry.set()
