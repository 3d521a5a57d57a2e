"""The cameras of a Linux machine, as its kernel lists them.

Structures and request numbers are those of linux/videodev2.h, whose layout is part of the kernel's stable interface.
Not linuxpy, which does the same: its licence, the GPL, does not go with ours.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgecls.errors import SourceError

QUERYCAP = 0x80685600
ENUM_FMT = 0xC0405602
ENUM_FRAMESIZES = 0xC02C564A
ENUM_FRAMEINTERVALS = 0xC034564B
VIDEO_CAPTURE = 1
DEVICE_CAPS = 0x80000000
DISCRETE = 1


@dataclass(frozen=True)
class Mode:
    """One picture format of a camera. `fps` are its discrete rates, highest first; empty where it does not tell."""

    pixels: str
    width: int
    height: int
    fps: tuple[float, ...]

    def __str__(self) -> str:
        rates = ", ".join(f"{rate:g}" for rate in self.fps)
        return f"{self.pixels} {self.width}x{self.height}" + (f" at {rates} fps" if rates else "")


@dataclass(frozen=True)
class FoundCamera:
    """A video device: its number and its name."""

    index: int
    name: str

    def __str__(self) -> str:
        return f"{self.index} ({self.name})"

    def modes(self) -> list[Mode]:
        """Its picture formats. Raises `SourceError` where the device cannot be asked."""
        device = f"/dev/video{self.index}"
        try:
            handle = os.open(device, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            raise SourceError(f"{device} cannot be opened: {error.strerror}") from error
        try:
            return list(_modes(handle))
        finally:
            os.close(handle)


def found_cameras() -> list[FoundCamera]:
    """Video devices that capture, in order of their numbers; one that cannot be asked counts as one that does."""
    cameras = []
    for device in sorted(Path("/dev").glob("video[0-9]*"), key=lambda path: (len(path.name), path.name)):
        try:
            name = Path(f"/sys/class/video4linux/{device.name}/name").read_text().strip()
        except OSError:
            name = "unnamed"
        if _captures(device):
            cameras.append(FoundCamera(int(device.name.removeprefix("video")), name))
    return cameras


def camera_named(text: str) -> FoundCamera | None:
    """The first camera whose name contains `text`, whatever the case."""
    return next((camera for camera in found_cameras() if text.lower() in camera.name.lower()), None)


def _captures(device: Path) -> bool:
    """Whether a device gives pictures; a camera often brings a second one for metadata alone."""
    try:
        handle = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return True
    try:
        answer = _ask(handle, QUERYCAP, bytes(104))
    finally:
        os.close(handle)
    if answer is None:
        return True
    everything, this_device = struct.unpack_from("<II", answer, 84)
    return bool((this_device if everything & DEVICE_CAPS else everything) & VIDEO_CAPTURE)


def _modes(handle: int) -> Iterator[Mode]:
    for entry in range(64):
        answer = _ask(handle, ENUM_FMT, struct.pack("<II", entry, VIDEO_CAPTURE).ljust(64, b"\0"))
        if answer is None:
            return
        pixels = answer[44:48]
        for size in range(64):
            sizes = _ask(handle, ENUM_FRAMESIZES, struct.pack("<I4s", size, pixels).ljust(44, b"\0"))
            if sizes is None:
                break
            kind, width, height = struct.unpack_from("<III", sizes, 8)
            if kind != DISCRETE:
                # Minimum, maximum and step of the width, then of the height: the largest is told.
                width, height = struct.unpack_from("<I", sizes, 16)[0], struct.unpack_from("<I", sizes, 28)[0]
            rates = tuple(sorted(_rates(handle, pixels, width, height), reverse=True))
            yield Mode(pixels.decode("ascii", "replace").strip(), width, height, rates)
            if kind != DISCRETE:
                break


def _rates(handle: int, pixels: bytes, width: int, height: int) -> Iterator[float]:
    for entry in range(32):
        asked = struct.pack("<I4sII", entry, pixels, width, height).ljust(52, b"\0")
        answer = _ask(handle, ENUM_FRAMEINTERVALS, asked)
        if answer is None:
            return
        kind, numerator, denominator = struct.unpack_from("<III", answer, 16)
        if numerator:
            yield round(denominator / numerator, 2)
        if kind != DISCRETE:
            return


def _ask(handle: int, request: int, question: bytes) -> bytes | None:
    import fcntl

    try:
        return fcntl.ioctl(handle, request, question)
    except OSError:
        return None
