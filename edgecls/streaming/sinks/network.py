"""For other machines: MQTT and webhooks."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from edgecls.backends.base import missing_package
from edgecls.errors import MissingExtraError, OutputError, UsageError, first_line
from edgecls.streaming.camera import one_line
from edgecls.streaming.decision import DriftChange, Event, Health, StateChange
from edgecls.streaming.sinks.base import Sink
from edgecls.urls import SecretUrl, checked

PREFIX = "edgecls"
LONGEST_PREFIX_BYTES = 60_000
"""MQTT takes topics of 65,535 bytes; a camera's name comes behind the prefix."""
QUEUED = 1000
"""Messages that wait for a broker that is away; the oldest makes room."""
ATTEMPTS = 8
"""Of one webhook call, over about a minute where the server answers at once."""
RETRY_S, RETRY_MAX_S = 0.5, 30.0
CALL_TIMEOUT_S, SHUTDOWN_S = 10.0, 2.0
"""How long a whole answer may take, and how long when the stream is ending."""
HURRIED_ATTEMPTS = 4
ANSWER_BYTES = 64 * 1024
"""Of an answer at most; nothing in it matters."""
REDIRECTS = 5
LOGGERS = ("urllib3.connection", "urllib3.connectionpool", "urllib3.poolmanager", "urllib3.util.retry")


class MqttSink(Sink):
    """Events and states to an MQTT broker, at least once (QoS 1).

    Topics: `PREFIX/CAMERA/event`, `PREFIX/CAMERA/state` and `PREFIX/CAMERA/drift` (which the broker keeps) and
    `PREFIX/status`: "online" and, by the connection's last will, "offline". A broker that is away is waited for; what
    happens meanwhile is sent later.
    """

    name = "mqtt"
    takes_frames = False

    def __init__(self, address: str):
        form = "mqtt://[user:password@]host[:port][/prefix]"
        parts = checked(address, ("mqtt", "mqtts"), "`mqtt`", form)
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

    def drift(self, change: DriftChange) -> None:
        """See `Sink.drift`."""
        self._publish(f"{_topic(change.camera)}/drift", change.to_json(), retain=True)

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
        raise UsageError("`mqtt`: the prefix of topics takes no +, #, ? and no control characters")
    if len(prefix.encode()) > LONGEST_PREFIX_BYTES:
        raise UsageError(f"`mqtt`: the prefix of topics takes {LONGEST_PREFIX_BYTES} bytes at most")
    return prefix


def _topic(camera: str) -> str:
    """A camera's name as one level of a topic."""
    return "".join("_" if c in "/+#" or ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 else c for c in camera)[:250]


class WebhookSink(Sink):
    """Events and states as JSON, POSTed one after the other, each until the server has taken it.

    A name and password in the address are sent as basic authentication. What fails on the way, 408, 429 and 5xx are
    tried again, with growing pauses; other answers say that trying again will not help. 307 and 308 are followed with
    the body on the same server; another redirect would lose the body or carry credentials away, and is a failure, and
    so is an answer that does not come to an end. The header Idempotency-Key lets a server know what it has seen.
    """

    name = "webhook"
    takes_frames = False

    def __init__(self, address: str):
        parts = checked(address, ("http", "https"), "`webhook`", "an http or https address")
        if missing_package("urllib3", "webhook", ""):
            raise MissingExtraError("urllib3", "webhook", "sending to a webhook")
        self._shown = SecretUrl(address, secret_path=True)
        host = str(parts.hostname).encode("idna").decode()
        port = f":{parts.port}" if parts.port else ""
        self._address = parts._replace(netloc=f"{f'[{host}]' if ':' in host else host}{port}", fragment="").geturl()
        self._headers = {"Content-Type": "application/json"}
        if parts.username:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {b64encode(credentials).decode()}"
        self._hurry = threading.Event()
        self._deadline = _Deadline(self._hurry)
        self._manager = _manager(self._address, self._deadline)

    def open(self, health: Callable[[], Health]) -> None:  # noqa: ARG002
        """See `Sink.open`. What urllib3 logs shows no secret either."""
        for name in LOGGERS:
            logging.getLogger(name).addFilter(self._without_secrets)

    def close(self) -> None:
        """Close the connections."""
        self._manager.clear()
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(self._without_secrets)

    def _without_secrets(self, record: logging.LogRecord) -> bool:
        record.msg, record.args, record.exc_info = self._shown.scrubbed(record.getMessage()), (), None
        return True

    def event(self, event: Event) -> None:
        """See `Sink.event`."""
        self._send(f"{event.id}-{event.kind}", event.to_json())

    def state(self, change: StateChange) -> None:
        """See `Sink.state`."""
        self._send(f"{change.camera}-{change.at}-{change.state.value}", change.to_json())

    def drift(self, change: DriftChange) -> None:
        """See `Sink.drift`."""
        self._send(f"{change.camera}-{change.at}-drift", change.to_json())

    def begin_shutdown(self) -> None:
        """See `Sink.begin_shutdown`."""
        self._hurry.set()
        self._deadline.renew()

    def _send(self, key: str, values: dict[str, Any]) -> None:
        from urllib3.exceptions import HTTPError

        body = json.dumps(values, ensure_ascii=False).encode(errors="replace")
        headers = {**self._headers, "Idempotency-Key": quote(key, safe=" :+()", errors="replace")}
        address: str | None = self._address
        try:
            for _ in range(REDIRECTS + 1):
                address = self._post(str(address), body, headers)
                if address is None:
                    return
            raise OutputError("it redirects without an end")
        except (HTTPError, OutputError) as error:
            late = f"no whole answer within {self._deadline.seconds:g} s"
            reason = late if self._deadline.passed else one_line(_reason(error))
            raise OutputError(f"{self._shown} did not take an event: {self._shown.scrubbed(reason)}") from None
        finally:
            self._deadline.stop()

    def _post(self, address: str, body: bytes, headers: dict[str, str]) -> str | None:
        """POST with retries; returns where the server wants it instead. Raises what says why it failed."""
        response = self._manager.urlopen(
            "POST", address, body=body, headers=headers, retries=_retry(self._hurry), timeout=CALL_TIMEOUT_S,
            redirect=False, preload_content=False,
        )  # fmt: skip
        try:
            if response.status in (307, 308):
                return _on_the_same_server(address, response.headers.get("Location"))
            if not 200 <= response.status < 300:
                loses = ", a redirect that loses the body; give the final address" * (300 <= response.status < 400)
                raise OutputError(f"{response.status} {response.reason}{loses}")
            if len(response.read(ANSWER_BYTES + 1, decode_content=False)) > ANSWER_BYTES or self._deadline.passed:
                raise OutputError(f"the answer does not end; it was cut after {ANSWER_BYTES // 1024} KiB")
        finally:
            response.close()
        return None


class _Deadline:
    """Ends the reading from a socket when its time is over, whatever still drips in. Any thread may call it."""

    def __init__(self, begin_shutdown: threading.Event):
        self._hurry = begin_shutdown
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._watched: socket.socket | None = None
        self.passed = False

    @property
    def seconds(self) -> float:
        """How long an answer may take now."""
        return SHUTDOWN_S if self._hurry.is_set() else CALL_TIMEOUT_S

    def watch(self, watched: socket.socket) -> None:
        """Begin anew, with the socket of an attempt."""
        with self._lock:
            self.passed, self._watched = False, watched
            self._restart()

    def renew(self) -> None:
        """Count from now on."""
        with self._lock:
            self._restart()

    def stop(self) -> None:
        """There is nothing to wait for."""
        with self._lock:
            self.passed, self._watched = False, None
            self._restart()

    def _restart(self) -> None:
        """A new timer, where there is a socket to watch; for who holds the lock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watched is not None:
            self._timer = threading.Timer(self.seconds, self._pass)
            self._timer.daemon = True
            self._timer.start()

    def _pass(self) -> None:
        with self._lock:
            # A timer that was cancelled too late to notice has nothing to say any more.
            if self._watched is not None and threading.current_thread() is self._timer:
                self.passed = True
                with suppress(OSError):
                    socket.socket.shutdown(self._watched, socket.SHUT_RDWR)


def _manager(address: str, deadline: _Deadline) -> Any:
    """What keeps the connections, through the environment's proxy if there is one for this address."""
    import urllib3

    def watched(base: Any) -> Any:
        class Connection(base.ConnectionCls):  # type: ignore[misc]
            def getresponse(self) -> Any:
                deadline.watch(self.sock)
                response = super().getresponse()
                response.drain_conn = response.close  # before another attempt it would read an endless answer
                return response

        return type("Pool", (base,), {"ConnectionCls": Connection})

    parts = urlsplit(address)
    proxy = None if proxy_bypass(str(parts.hostname)) else getproxies().get(parts.scheme)
    if proxy:
        login = urlsplit(proxy)
        headers = urllib3.make_headers(
            proxy_basic_auth=f"{unquote(login.username)}:{unquote(login.password or '')}" if login.username else None
        )
        manager: Any = urllib3.ProxyManager(proxy, proxy_headers=headers)
    else:
        manager = urllib3.PoolManager()
    manager.pool_classes_by_scheme = {
        "http": watched(urllib3.HTTPConnectionPool), "https": watched(urllib3.HTTPSConnectionPool)
    }  # fmt: skip
    return manager


def _retry(begin_shutdown: threading.Event) -> Any:
    """When to try again, and after how long; less of both once the stream is ending."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    class Waiting(Retry):  # type: ignore[misc]
        def sleep(self, response: Any = None) -> None:
            pause_s = self.get_backoff_time()
            with suppress(InvalidHeader, ValueError, OverflowError):
                pause_s = (response is not None and self.get_retry_after(response)) or pause_s
            begin_shutdown.wait(min(pause_s, RETRY_MAX_S))

        def increment(self, *arguments: Any, **named: Any) -> Any:
            if begin_shutdown.is_set() and len(self.history) >= HURRIED_ATTEMPTS - 1:
                self.total = 0
            return super().increment(*arguments, **named)

    return Waiting(
        total=ATTEMPTS - 1, allowed_methods=None, status_forcelist=[408, 429, *range(500, 600)], raise_on_status=False,
        backoff_factor=RETRY_S, backoff_max=RETRY_MAX_S, backoff_jitter=RETRY_S,
    )  # fmt: skip


def _on_the_same_server(address: str, location: str | None) -> str:
    """Where a redirect leads. Raises `OutputError` where that is another server, which the body is not meant for."""
    try:
        target = urljoin(address, location or "")
        parts = urlsplit(target)
        if location and _origin(target) == _origin(address) and not parts.username:
            return parts._replace(fragment="").geturl()
    except ValueError:
        pass
    raise OutputError(f"it redirects to {SecretUrl(location or 'nowhere', secret_path=True)}, not on the same server")


def _origin(address: str) -> tuple[str, str | None, int]:
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _reason(error: Exception) -> str:
    """What went wrong at last, without urllib3's words around it, which hold the path."""
    message = first_line(getattr(error, "reason", None) or error)
    return re.sub(r"^(<[^>]*>|\w*(Connection|Pool)\([^)]*\)): ", "", message)
