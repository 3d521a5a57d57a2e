"""What cameras and networks do, done by real servers on loopback: seen, told, and lived through."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import edgecls
from edgecls.errors import SourceError
from edgecls.streaming.config import EACH_FRAME, CameraOptions, LoopConfig, ReconnectPolicy
from edgecls.streaming.decision import State
from edgecls.streaming.loop import Stream
from edgecls.streaming.sources import LiveSource, open_source
from edgecls.streaming.sources.live import Device
from tests.schemas import assert_described
from tests.streaming.cameras import MjpegServer, RtspServer, free_port, missing_rtsp, numbered, until
from tests.streaming.test_loop import Remembering

QUICK = ReconnectPolicy(stale_s=0.4, stall_s=1.0, retry_s=0.05, retry_max_s=0.3)

CALM = ReconnectPolicy(stale_s=30.0, stall_s=30.0, retry_s=0.05, retry_max_s=0.3)
"""Takes a slow machine for no outage: only a lost connection is one."""


class Running:
    """A stream in a thread, with the sink that remembers."""

    def __init__(self, classifier: edgecls.Classifier, *cameras: str, reconnect: ReconnectPolicy = QUICK):
        self.sink = Remembering()
        self.sources = [open_source(each, None, CameraOptions(reconnect=reconnect)) for each in cameras]
        self.stream = Stream(self.sources, classifier, [self.sink], LoopConfig(smoothing=EACH_FRAME))
        self._stop = threading.Event()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.summary = self.stream.run(self._stop)
        except SourceError as error:
            self.error = error

    def camera(self, number: int = 0):
        return self.stream.health().cameras[number]

    def decides(self, number: int = 0) -> None:
        """Wait for further decisions."""
        before = self.camera(number).decided
        until(lambda: self.camera(number).decided > before + 5)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture
def start(classifier: edgecls.Classifier) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def begin(*cameras: str, **options) -> Running:
        started.append(Running(classifier, *cameras, **options))
        return started[-1]

    yield begin
    for running in started:
        running.end()
        for message in (*running.sink.events, *running.sink.states):
            assert_described("event", message.to_json())
        if running.error is None:
            for camera in running.summary.cameras:
                assert camera.captured == camera.decided + camera.dropped
                assert camera.in_flight == 0


class TestMjpeg:
    def test_a_server_that_is_killed_and_restarted(self, start: Callable[..., Running]):
        server = MjpegServer()
        running = start(server.url, reconnect=CALM)
        running.decides()
        port = server.port
        server.stop()
        until(lambda: running.camera().state is State.RECONNECTING)
        again = MjpegServer(port)
        running.decides()
        assert running.camera().state is State.LIVE
        assert running.camera().reconnects == 1
        message = [change.state for change in running.sink.states]
        assert message == [State.LIVE, State.RECONNECTING, State.LIVE]
        again.stop()
        until(lambda: running.camera().state is State.RECONNECTING)
        assert running.camera().captured <= server.served + again.served  # never an invented frame

    def test_a_server_that_freezes_is_stale_and_then_opened_anew(self, start: Callable[..., Running]):
        server = MjpegServer()
        running = start(server.url)
        running.decides()
        server.frozen = True
        until(lambda: running.camera().state is State.STALE)
        assert running.camera().reason == "no frame for 0.4 s"
        until(lambda: running.camera().state is State.RECONNECTING)
        server.frozen = False
        running.decides()
        server.stop()

    def test_pictures_that_change_their_size(self, start: Callable[..., Running]):
        server = MjpegServer()
        running = start(server.url)
        running.decides()
        server.size = (320, 200)
        running.decides()
        assert running.camera().state is State.LIVE
        server.stop()

    def test_a_server_that_is_not_there_yet(self, start: Callable[..., Running]):
        port = free_port()
        running = start(f"http://127.0.0.1:{port}/video.mjpg")
        until(lambda: "cannot be opened" in running.camera().reason)
        assert running.camera().state is State.CONNECTING
        server = MjpegServer(port)
        running.decides()
        server.stop()

    def test_one_lost_camera_does_not_stall_the_other(self, start: Callable[..., Running]):
        first, second = MjpegServer(), MjpegServer()
        running = start(f"door={first.url}", f"gate={second.url}", reconnect=CALM)
        running.decides(0)
        running.decides(1)
        first.stop()
        until(lambda: running.camera(0).state is State.RECONNECTING)
        before = running.camera(1).decided
        until(lambda: running.camera(1).decided > before + 20)
        assert running.camera(0).state is State.RECONNECTING
        assert [change.state for change in running.sink.states if change.camera == "gate"] == [State.LIVE]
        second.stop()

    def test_patience_can_end(self, start: Callable[..., Running]):
        server = MjpegServer()
        reconnect = ReconnectPolicy(stale_s=0.2, stall_s=1.0, retry_s=0.05, retry_max_s=0.1, give_up_s=0.6)
        running = start(server.url, reconnect=reconnect)
        running.decides()
        server.stop()
        until(lambda: running.error is not None)
        assert "stopped giving frames" in str(running.error) or "cannot be opened" in str(running.error)


@pytest.mark.skipif(missing_rtsp() is not None, reason=str(missing_rtsp()))
class TestRtsp:
    def test_a_server_that_is_killed_and_restarted_with_other_pictures(self, start: Callable[..., Running]):
        port = free_port()
        server = RtspServer(port)
        running = start(server.url)
        running.decides()
        server.kill()
        until(lambda: running.camera().state is State.RECONNECTING)
        server = RtspServer(port, (640, 360))
        running.decides()
        assert running.sources[0].reconnects == 1
        server.kill()

    def test_a_server_that_stops_in_the_middle_without_a_word(self, start: Callable[..., Running]):
        import signal

        server = RtspServer(free_port())
        running = start(server.url)
        running.decides()
        server.process.send_signal(signal.SIGSTOP)
        until(lambda: running.camera().state in (State.STALE, State.RECONNECTING))
        until(lambda: running.camera().state is State.RECONNECTING)
        server.process.send_signal(signal.SIGCONT)
        running.decides()
        server.kill()


class Hanging(Device):
    """Gives a few frames, then does not come back from a read before it is let go: as a driver that hangs."""

    opened: int = 0
    let_go = threading.Event()

    def __init__(self) -> None:
        type(self).opened += 1
        self._left = 5

    def read(self) -> np.ndarray | None:
        self._left -= 1
        if self._left < 0:
            self.let_go.wait()
            return None
        time.sleep(0.01)
        return numbered(self._left)


def test_a_driver_that_hangs_is_left_behind_and_the_device_opened_anew():
    reconnect = ReconnectPolicy(stale_s=0.1, stall_s=0.3, retry_s=0.05)
    with LiveSource("hanging", Hanging, reconnect) as camera:
        frames = iter(camera)
        seen = [next(frames).index for _ in range(8)]
        Hanging.let_go.set()
    assert seen == sorted(set(seen))
    assert camera.reconnects >= 1
    assert Hanging.opened >= 2


def test_waits_grow_and_differ():
    reconnect = ReconnectPolicy(retry_s=0.5, retry_max_s=30.0)
    for attempt, (low, high) in enumerate([(0.5, 0.75), (1, 1.5), (2, 3), (4, 6), (8, 12), (16, 24), (30, 45)], 1):
        waits = {reconnect.wait_s(attempt) for _ in range(50)}
        assert low <= min(waits) <= max(waits) <= high
        assert len(waits) > 10
    assert reconnect.wait_s(100_000) <= 45
