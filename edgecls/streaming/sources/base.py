"""What every source of frames is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgecls.streaming.frames import Frame, Geometry

if TYPE_CHECKING:
    from typing_extensions import Self

DEFAULT_FPS = 25.0


class Source(ABC):
    """An iterator of frames and a context manager.

    `live` sources skip what could not be looked at in time, and count it as `dropped`; the others give every frame in
    order. `skipped` counts files that could not be read, `sequence` says whether frames follow each other in time.
    """

    name: str
    live = False
    sequence = True
    fps: float = DEFAULT_FPS
    geometry: Geometry = Geometry()
    captured: int = 0
    dropped: int = 0
    skipped: int = 0

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Frames until the source ends. Raises `SourceError` where it fails."""

    def close(self) -> None:
        """Let go of the device or file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
