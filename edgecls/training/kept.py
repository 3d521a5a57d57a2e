"""Images that are decoded in the first epoch and kept for the others: in memory, then in a file without a name."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from edgecls import cache
from edgecls.errors import OutputError
from edgecls.files import make_folder
from edgecls.runtime import machine

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

Keeping = Literal["auto", "memory", "disk", "off"]
MEMORY_SHARE, DISK_SHARE = 0.3, 0.5
"""Of what is free where a training begins, over all of its processes on this machine."""


class KeptImages:
    """Images by their keys, each made once while there is room; what does not fit is made again each time.

    "auto" fills the memory first, then a file in the folder of caches, or of temporary files where nothing may be
    cached. The file has no name: it goes with this object and with the process, however that ends. Each of `processes`
    keeps its own images in its part of the room. Safe to share between threads.
    """

    def __init__(self, keeping: Keeping = "auto", processes: int = 1):
        self._share = 1 / processes
        in_memory, on_disk = keeping in ("auto", "memory"), keeping in ("auto", "disk")
        self._memory_bytes = int(machine.available_memory_bytes() * MEMORY_SHARE * self._share) if in_memory else 0
        self._images: dict[str, NDArray[uint8]] = {}
        self._file = _File(self._share) if on_disk else None
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], NDArray[uint8]]) -> NDArray[uint8]:
        """The image that `make` returned for this key, which nobody may change. What `make` raises is raised."""
        image = self._images.get(key)
        if image is None and self._file:
            image = self._file.read(key)
        if image is None:
            image = make()
            self._keep(key, image)
        return image

    def _keep(self, key: str, image: NDArray[uint8]) -> None:
        with self._lock:
            in_memory = image.nbytes <= self._memory_bytes
            if in_memory:
                self._memory_bytes -= image.nbytes
        if in_memory:
            self._images[key] = image if image.base is None else image.copy()  # of a part the whole would be kept
        elif self._file:
            self._file.write(key, image)


class _File:
    """Images one after another in a nameless file.

    It is read and written, not mapped: on a full disk a write fails in one place, where a mapped page kills the
    process, and the system keeps its pages in memory in either case.
    """

    def __init__(self, share: float):
        self._share = share
        self._file: IO[bytes] | None = None
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._end_bytes = self._limit_bytes = 0
        self._opened = False
        self._lock = threading.Lock()

    def read(self, key: str) -> NDArray[uint8] | None:
        import numpy as np

        if self._file is None or (place := self._places.get(key)) is None:
            return None
        start, shape = place
        image = np.empty(shape, np.uint8)
        try:
            complete = os.preadv(self._file.fileno(), [image.data], start) == image.nbytes
        except OSError:
            complete = False
        return image if complete else None

    def write(self, key: str, image: NDArray[uint8]) -> None:
        import numpy as np

        with self._lock:
            file, start = self._open(), self._end_bytes
            if file is None or start + image.nbytes > self._limit_bytes:
                return
            self._end_bytes += image.nbytes
        try:
            complete = os.pwrite(file.fileno(), np.ascontiguousarray(image).data, start) == image.nbytes
        except OSError:
            complete = False
        if complete:
            self._places[key] = start, image.shape
        else:
            self._limit_bytes = 0  # the disk is full: others filled it too

    def _open(self) -> IO[bytes] | None:
        """The file, made when it is first needed; None where no folder takes it."""
        if not self._opened:
            self._opened = True
            try:
                folder = make_folder(cache.folder() or Path(tempfile.gettempdir()))
                self._limit_bytes = int(shutil.disk_usage(folder).free * DISK_SHARE * self._share)
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
            except (OSError, OutputError):
                return None
            weakref.finalize(self, self._file.close)
        return self._file
