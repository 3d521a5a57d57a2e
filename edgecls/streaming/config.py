"""What a stream is asked for: cameras, what is looked at, how decisions are made, and where they go."""

from __future__ import annotations

import random
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from edgecls.errors import UsageError
from edgecls.settings import LONGEST_S, MOST, Config, check_bounds, setting
from edgecls.streaming.frames import FASTEST_FPS, MAX_SIDE_PX, SLOWEST_FPS, Geometry
from edgecls.web.config import TokenConfig

Decoder: TypeAlias = Literal["software", "hardware"]

SHORTEST_S = 1e-3
"""Of a stream that is to end by itself, and of what waits."""
SHORTEST_SEGMENT_S = 1.0
DAY_S = 86_400.0
"""Of smoothing: what is decided on a frame does not hold for longer."""
MOST_VOTES = 10_000
"""Of frames: each camera keeps so many scores."""
LARGEST_LEAD = 0.99
"""Of one class over another: with 1 no other class could ever take over."""
SLOWEST_STEADY_FPS = 1.0
"""Of a device that shows nothing between two pictures: it would be taken for a dead one."""


@dataclass(frozen=True, kw_only=True)
class CaptureFormat(Config):
    """What a camera is asked for; None leaves it to the camera."""

    width: int | None = setting(None, "Ask the camera for this width.", low=1, high=MAX_SIDE_PX, unit="pixels")
    height: int | None = setting(None, "Ask the camera for this height.", low=1, high=MAX_SIDE_PX, unit="pixels")
    fps: float | None = setting(
        None, "Ask the camera for this rate.", low=SLOWEST_FPS, high=FASTEST_FPS, unit="frames a second"
    )

    def steady_fps(self, usual: float) -> float:
        """The rate of a camera that shows nothing between two pictures, `usual` unless asked for.

        Raises `UsageError` for one so slow that the camera would be taken for a dead one.
        """
        if self.fps is None:
            return usual
        check_bounds("fps", self.fps, SLOWEST_STEADY_FPS, FASTEST_FPS, "frames a second, for this camera,")
        return self.fps


@dataclass(frozen=True, kw_only=True)
class ReconnectPolicy(Config):
    """How long to wait for what, in seconds.

    Between attempts the wait doubles from `retry_s` to `retry_max_s`, each with up to half of it at random on top, so
    that many boxes do not storm a server that comes back. A camera that has not once been there is an error at once
    where `must_exist`.
    """

    stale_s: float = setting(2.0, "Without a frame for so long a camera is stale.", low=SHORTEST_S, high=LONGEST_S)
    stall_s: float = setting(
        6.0, "A read that takes longer is given up, and the camera opened anew.", low=SHORTEST_S, high=LONGEST_S
    )
    retry_s: float = setting(0.5, "The first wait between attempts.", low=SHORTEST_S, high=LONGEST_S)
    retry_max_s: float = setting(30.0, "The longest wait between attempts.", low=SHORTEST_S, high=LONGEST_S)
    give_up_s: float | None = setting(
        None,
        "End with an error when no camera gave a frame for so many seconds; 0 means at the first failure. Otherwise "
        "lost cameras are waited for, and only a local one that is not there at the start is an error.",
        low=0.0, high=LONGEST_S, unit="seconds",
    )  # fmt: skip
    must_exist: bool = setting(False, "A camera that has not once been there is an error at once.")

    def wait_s(self, attempt: int) -> float:
        """How long to wait after so many failures in a row."""
        wait_s = min(self.retry_max_s, self.retry_s * 2.0 ** min(attempt - 1, 16))
        return wait_s * (1 + random.random() / 2)


@dataclass(frozen=True, kw_only=True)
class CameraOptions(Config):
    """How cameras are opened, and what of their pictures is looked at."""

    capture: CaptureFormat = CaptureFormat()
    geometry: Geometry = Geometry()
    reconnect: ReconnectPolicy = ReconnectPolicy()
    realtime: bool = setting(False, "Play video files at their pace, over and over, as live cameras.")
    decoder: Decoder = setting(
        "software", "What decodes video files; hardware wants PyAV and a device that it can use."
    )


@dataclass(frozen=True, kw_only=True)
class Smoothing(Config):
    """How decisions are kept from flickering.

    With `majority` the votes among frames take the place of averaged probabilities.
    """

    smooth_s: float = setting(
        0.5,
        "Average probabilities over about so many seconds; 0 takes each frame for itself.",
        low=0.0, high=DAY_S, unit="seconds",
    )  # fmt: skip
    majority: int | None = setting(
        None, "Vote among so many latest frames instead.", low=1, high=MOST_VOTES, unit="frames"
    )
    hysteresis: float = setting(0.1, "Lead that another class needs to take over.", low=0.0, high=LARGEST_LEAD)
    dwell_s: float = setting(0.3, "Seconds for which it must lead.", low=0.0, high=DAY_S, unit="seconds")
    min_confidence: float | None = setting(
        None, 'Below it the decision is "unsure"; the card\'s threshold unless given.', low=0.0, high=1.0
    )


EACH_FRAME = Smoothing(smooth_s=0.0, hysteresis=0.0, dwell_s=0.0)
"""No smoothing, for images that have nothing to do with each other."""


@dataclass(frozen=True, kw_only=True)
class SinkConfig(TokenConfig):
    """Where decisions go."""

    record: Path | None = setting(None, "Write an annotated video (.mp4, .avi, .mkv), over an older one.")
    segment_minutes: float | None = setting(
        None,
        "Begin a new video, named by its time, after so many minutes.",
        low=SHORTEST_SEGMENT_S / 60, high=LONGEST_S / 60, unit="minutes",
    )  # fmt: skip
    events: Path | None = setting(None, "Append one JSON line per change of decision or of a camera's state.")
    log: Path | None = setting(None, "Append one line per frame (.csv or .jsonl).")
    mqtt: str | None = setting(
        None, "Send events to a broker: mqtt://[user:password@]host[:port][/prefix].", secret=True
    )
    webhook: str | None = setting(None, "POST events as JSON to this address.", secret=True)
    others: tuple[str, ...] = setting((), "NAME or NAME:ARGUMENT of a sink that another package brings.")
    web: str | None = setting(
        None, "Serve a page with pictures, and Prometheus' /metrics: a port of this machine alone, or host:port."
    )

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        super().check()
        if self.segment_minutes is not None and self.record is None:
            raise UsageError("`segment_minutes` divides what `record` writes; give both")
        written = [path.resolve() for path in (self.record, self.events, self.log) if path is not None]
        if len(set(written)) < len(written):
            raise UsageError("`record`, `events` and `log` are written to a file each; give different ones")


KEEP_REASONS = ("unsure", "changed", "drifted", "unknown")
_SAMPLE = re.compile(r"sample=([0-9.eE+-]+)")
SMALLEST_POOL_BYTES, LARGEST_POOL_BYTES = 1 << 20, 1 << 50


@dataclass(frozen=True, kw_only=True)
class KeepConfig(Config):
    """Which frames are kept for a human's look, where, and how many."""

    keep: tuple[str, ...] | None = setting(
        None,
        "Frames to keep for review: unsure, changed, drifted, unknown, sample=0.001 (that share of all), separated by "
        "commas.",
    )
    keep_to: Path | None = setting(None, "The folder for these, and for frames that the page's viewers call wrong.")
    keep_max_bytes: int = setting(
        2_000_000_000,
        "Size of that folder at most; the oldest frames of what is there most often are deleted first.",
        low=SMALLEST_POOL_BYTES, high=LARGEST_POOL_BYTES, unit="bytes",
    )  # fmt: skip
    keep_per_hour: int = setting(
        60, "Frames an hour at most, for each camera, reason and class.", low=1, high=MOST, unit="frames"
    )

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        super().check()
        for reason in self.keep or ():
            if reason not in KEEP_REASONS and not (_SAMPLE.fullmatch(reason) and 0 < self.sample_share() <= 1):
                raise UsageError(
                    f"`keep` takes {', '.join(KEEP_REASONS)} and sample=SHARE, a share above 0 and up to 1; "
                    f"not {reason[:40]!r}"
                )
        if self.keep and self.keep_to is None:
            raise UsageError("`keep` needs `keep_to`, the folder to keep frames in")

    def reasons(self) -> tuple[str, ...]:
        """The reasons without the random sample."""
        return tuple(reason for reason in self.keep or () if reason in KEEP_REASONS)

    def sample_share(self) -> float:
        """The share of all frames that is kept at random; 0 for none, and for what is no number."""
        shares = [match[1] for reason in self.keep or () if (match := _SAMPLE.fullmatch(reason))]
        with suppress(ValueError):
            return float(shares[-1]) if shares else 0.0
        return 0.0


@dataclass(frozen=True, kw_only=True)
class LoopConfig(Config):
    """How decisions are made, how fast, and until when; None means never, or as fast as the frames.

    `smoothing` is not used for images that have nothing to do with each other.
    """

    smoothing: Smoothing = Smoothing()
    snapshots: Path | None = setting(None, "Folder for the first picture of each event.")
    max_fps: float | None = setting(
        None,
        "Decide at most so often a second, for each camera.",
        low=SLOWEST_FPS, high=FASTEST_FPS, unit="decisions a second",
    )  # fmt: skip
    duration_s: float | None = setting(
        None, "End after so many seconds.", low=SHORTEST_S, high=LONGEST_S, unit="seconds"
    )
    frames: int | None = setting(None, "End after so many decisions.", low=1, high=MOST)


def split_name(camera: str) -> tuple[str | None, str]:
    """The name that a camera was given ("door=rtsp://...") and the rest."""
    match = re.fullmatch(r"([A-Za-z0-9_-]+)=(.+)", camera)
    return (match[1], match[2]) if match and not Path(camera).exists() else (None, camera)


def _is_same_file(path: Path, camera: str) -> bool:
    """Whether a camera is this file."""
    with suppress(OSError, ValueError, RuntimeError):
        return path.expanduser().samefile(Path(split_name(camera)[1]).expanduser())
    return False


@dataclass(frozen=True, kw_only=True)
class StreamConfig(LoopConfig):
    """What is classified by which model, and where decisions go; None means the default."""

    cameras: tuple[str, ...] = setting(
        ("0",),
        "A camera's number or name, a URL, a video or image file, a folder, a GStreamer pipeline, csi:0, screen:, - "
        "for raw frames, or demo; NAME=... names one.",
        secret=True,
    )
    model: Path | None = setting(
        None, "A bundle, a model file or a run; the fastest verified bundle of the latest run."
    )
    golden_check: bool = setting(
        True, "Replay the model's golden inputs the first time that it is opened on a machine."
    )
    unknown: bool = setting(False, 'Say "unknown" of what the model was not trained for.')
    false_refusals: float = setting(0.01, 'Share of known images that "unknown" may be said of.', low=1e-6, high=0.5)
    drift: bool = setting(True, "Watch for pictures that move away from those that the model knows.")
    keeping: KeepConfig = KeepConfig()
    camera_options: CameraOptions = CameraOptions()
    sinks: SinkConfig = SinkConfig()
    threads: int | None = setting(None, "Processor threads; the runtime's choice unless given.", low=1)
    spin: bool = setting(
        False,
        "Keep processors spinning between a camera's frames: about a millisecond less for several times the processor "
        "time.",
    )

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        super().check()
        if not self.cameras:
            raise UsageError("`cameras` names at least one camera")
        written = (self.sinks.record, self.sinks.events, self.sinks.log)
        for name, path in zip(("record", "events", "log"), written, strict=True):
            if path is not None and any(_is_same_file(path, camera) for camera in self.cameras):
                raise UsageError(f"`{name}` {path} is the file that is read; give another one")
