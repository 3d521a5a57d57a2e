"""A live source: the newest frame, and a watch over whatever gives it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress

from edgecls.clock import milliseconds_since, now_ns
from edgecls.errors import EdgeclsError, SourceError, first_line
from edgecls.imaging.yuv import Picture
from edgecls.streaming.config import ReconnectPolicy
from edgecls.streaming.decision import State
from edgecls.streaming.frames import Frame, Geometry
from edgecls.streaming.sources.base import DEFAULT_FPS, RegionError, Source

OPEN_TIMEOUT_S = 8.0
"""How long a device or an address may take to open."""


class Device(ABC):
    """Something that is opened by being made, and gives pictures until it fails."""

    fps: float = DEFAULT_FPS
    _grabbed: Picture | None = None

    @abstractmethod
    def read(self) -> Picture | None:
        """Block until the next picture; None where there will be no more. Raises `SourceError` where it fails."""

    def grab(self) -> bool:
        """Block as `read` does, without converting the picture; false where there will be no more."""
        self._grabbed = self.read()
        return self._grabbed is not None

    def retrieve(self) -> Picture:
        """The picture that was grabbed last; at most once for each. Raises `SourceError` where it fails."""
        picture, self._grabbed = self._grabbed, None
        if picture is None:
            raise SourceError("no picture was grabbed")
        return picture

    def close(self) -> None:
        """Let go."""


class LiveSource(Source):
    """Reads in a thread and keeps the newest frame only, so that a slow model never looks at the past.

    `due_ns` is when the next frame will be taken (`clock.now_ns`); frames that come long before are not converted.
    `take` and `watch` never block. A reader that hangs in a driver is left behind, and a new one begins.
    """

    live = True

    def __init__(
        self,
        name: str,
        connect: Callable[[], Device],
        reconnect: ReconnectPolicy = ReconnectPolicy(),
        geometry: Geometry = Geometry(),
    ):
        self.name = name
        self.geometry = geometry
        self.state = State.CONNECTING
        self.reason = ""
        self.reconnects = 0
        self.changed = threading.Condition()
        self._connect = connect
        self._reconnect = reconnect
        self._newest: Frame | None = None
        self._error: SourceError | None = None
        self._closing = threading.Event()
        self._reader: threading.Thread | None = None
        self._left_behind: list[threading.Thread] = []
        self._deadline_ns: int | None = None
        self._last_frame_ns = now_ns()
        self._was_live = False
        self.due_ns = 0

    def start(self, changed: threading.Condition | None = None) -> None:
        """Begin to read; `changed` is notified of each frame and each end."""
        self.changed = changed or self.changed
        self._last_frame_ns = now_ns()
        self._begin()

    def _begin(self) -> None:
        self._reader = threading.Thread(target=self._read_all, name=f"edgecls-capture-{self.name}", daemon=True)
        self._reader.start()

    def _is_current(self) -> bool:
        return threading.current_thread() is self._reader and not self._closing.is_set()

    def _read_all(self) -> None:
        """The reading thread: open, read until it fails, wait, open again."""
        attempt = 0
        while self._is_current():
            self._expect_within(2 * OPEN_TIMEOUT_S)
            try:
                device = self._connect()
            except Exception as error:
                attempt += 1
                self._failed(self._as_source_error(error), attempt)
                continue
            try:
                if self._is_current():
                    self.fps = device.fps
                    self._read_from(device)
                    attempt = 0
                    self._end(None)
            except Exception as error:
                attempt = 1 if self.state in (State.LIVE, State.STALE) else attempt + 1
                self._failed(self._as_source_error(error), attempt)
            finally:
                with suppress(Exception):
                    device.close()

    def _as_source_error(self, error: Exception) -> SourceError:
        """Drivers and the devices of other packages raise whatever they like; none of it may end the thread."""
        if isinstance(error, SourceError):
            return error
        return SourceError(str(error) if isinstance(error, EdgeclsError) else f"{self.name}: {first_line(error)}")

    def _read_from(self, device: Device) -> None:
        last_ns = now_ns()
        while self._is_current():
            self._expect_within(self._reconnect.stall_s)
            if not device.grab() or not self._is_current():
                return
            captured_ns = now_ns()
            interval_ns, last_ns = max(int(1e9 / device.fps), captured_ns - last_ns), captured_ns
            picture = None
            # Where one more picture will come before the next decision is due, this one needs no conversion.
            if self.due_ns <= captured_ns + interval_ns:
                picture = self._as_seen(device.retrieve())
            self._put(picture, captured_ns)

    def _expect_within(self, seconds: float) -> None:
        if threading.current_thread() is self._reader:
            self._deadline_ns = now_ns() + int(seconds * 1e9)

    def _put(self, picture: Picture | None, captured_ns: int) -> None:
        """Keep a picture as the newest; None is one that was skipped."""
        with self.changed:
            if not self._is_current():
                return
            if picture is None:
                self.dropped += 1
            else:
                self.dropped += self._newest is not None
                self._newest = Frame(picture, self.captured, captured_ns, captured_ns / 1e9)
            self.captured += 1
            self._last_frame_ns = captured_ns
            self._was_live = True
            self.state, self.reason = State.LIVE, ""
            self.changed.notify_all()

    def _failed(self, error: SourceError, attempt: int) -> None:
        """Note a failure, and wait before the next attempt; or end, where patience is at its end."""
        if not self._is_current():
            return
        hopeless = isinstance(error, RegionError) or (self._reconnect.must_exist and self._reconnect.give_up_s is None)
        if not self._was_live and hopeless:
            self._end(error)
            return
        self._lost(str(error))
        outage_s = milliseconds_since(self._last_frame_ns) / 1000
        if self._reconnect.give_up_s is not None and outage_s >= self._reconnect.give_up_s:
            self._end(error)
            return
        self._deadline_ns = None
        self._closing.wait(self._reconnect.wait_s(attempt))

    def _lost(self, reason: str) -> None:
        with self.changed:
            if self._was_live and self.state is not State.RECONNECTING:
                self.reconnects += 1
            self.state = State.RECONNECTING if self._was_live else State.CONNECTING
            self.reason = reason
            self.changed.notify_all()

    def _end(self, error: SourceError | None) -> None:
        with self.changed:
            if not self._is_current():
                return
            self._error, self.state, self.reason = error, State.ENDED, str(error or "")
            self._closing.set()
            self.changed.notify_all()

    def watch(self) -> None:
        """Notice what gives no frame and no error. Call it several times a second. Raises the `SourceError` of an end.

        A reader past its deadline is stuck in a call that cannot be interrupted: it is left behind. Where three are
        stuck, no further one is begun before one comes back.
        """
        if self._error:
            raise self._error
        if self.state is State.LIVE and milliseconds_since(self._last_frame_ns) > self._reconnect.stale_s * 1000:
            self.state, self.reason = State.STALE, f"no frame for {self._reconnect.stale_s:g} s"
        self._left_behind = [thread for thread in self._left_behind if thread.is_alive()]
        overdue = self._deadline_ns is not None and now_ns() > self._deadline_ns
        if overdue and not self._closing.is_set() and self._reader and len(self._left_behind) < 3:
            self._left_behind.append(self._reader)
            self._lost(f"no answer within {self._reconnect.stall_s:g} s; opening it again")
            self._deadline_ns = None
            self._begin()

    @property
    def ended(self) -> bool:
        """Whether no further frame will come, and none waits."""
        return self.state is State.ENDED and self._newest is None

    @property
    def ready(self) -> bool:
        """Whether a frame waits."""
        return self._newest is not None

    def take(self) -> Frame | None:
        """The newest frame, if there is one that nobody took."""
        with self.changed:
            frame, self._newest = self._newest, None
            return frame

    def __iter__(self) -> Iterator[Frame]:
        """The newest frame each time, for a reader that has nothing else to do."""
        if self._reader is None:
            self.start()
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.ready or self.state is State.ENDED, timeout=0.1)
            frame = self.take()
            if frame is not None:
                yield frame
            else:
                self.watch()
                if self.ended:
                    return

    def close(self) -> None:
        """Stop reading, and count a frame that nobody took as dropped."""
        self._closing.set()
        for thread in (self._reader, *self._left_behind):
            if thread is not None and thread.is_alive():
                thread.join(timeout=OPEN_TIMEOUT_S)
        if self.take() is not None:
            self.dropped += 1
