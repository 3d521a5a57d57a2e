"""Execution: raw images to the GPU, an engine, scores back.

Each lane is one execution context with its own stream and page-locked buffers, so that one image is copied while
another is computed. For the most frequent batch size copies and kernels are captured once as a CUDA graph and launched
as one. This follows NVIDIA's documentation of `execute_async_v3`, CUDA graphs and TensorRT-RTX's runtime cache.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.artifact.card import INPUT_NAME, OUTPUT_NAME, Card
from edgecls.backends.base import Session
from edgecls.backends.nvidia.cuda import call
from edgecls.backends.nvidia.flavours import Flavour, logger_for
from edgecls.errors import BackendError, OutputError
from edgecls.files import write_bytes

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

LANES = 2
"""One computes while the other one copies."""


class Engine:
    """A deserialized engine with what must live as long as it. Raises `BackendError` where TensorRT refuses it."""

    def __init__(self, flavour: Flavour, content: bytes, runtime_cache: Path | None = None):
        self.flavour, self.trt = flavour, flavour.load()
        self.logger = logger_for(self.trt)
        self._runtime = self.trt.Runtime(self.logger)
        self.engine = self._runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise BackendError(f"{flavour.title} refused the engine: {self.logger.reason()}")
        self._cache_file = runtime_cache
        self._cache: Any = None
        self._kept = b""

    def context(self) -> Any:
        """A new execution context. Raises `BackendError`, for want of memory for one."""
        if self.flavour.compiles_on_device:
            config = self.engine.create_runtime_config()
            config.cuda_graph_strategy = self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            config.set_runtime_cache(self._runtime_cache(config))
            context = self.engine.create_execution_context(config)
        else:
            context = self.engine.create_execution_context()
        if context is None:
            raise BackendError(
                f"{self.flavour.title} has no room to run the engine: {self.logger.reason()}; stop what else runs on "
                "the GPU, or export with a smaller `batch`"
            )
        return context

    def _runtime_cache(self, config: Any) -> Any:
        """What TensorRT-RTX compiled on this device before; one from elsewhere it ignores."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            with contextlib.suppress(OSError):
                self._kept = self._cache_file.read_bytes() if self._cache_file else b""
                if self._kept:
                    self._cache.deserialize(self._kept)
        return self._cache

    def keep_runtime_cache(self) -> None:
        """Write down what was compiled on this device, where it can be written."""
        if self._cache is None or self._cache_file is None:
            return
        compiled = bytes(self._cache.serialize())
        if compiled != self._kept:
            with contextlib.suppress(OutputError):
                write_bytes(self._cache_file, compiled)
                self._kept = compiled


class Lane:
    """One execution context, its stream, and buffers on both sides for up to `batch` images."""

    def __init__(self, engine: Engine, card: Card, batch: int):
        import numpy as np

        self._engine, self._shape = engine, card.input_shape
        self._context = engine.context()
        self._stream = call("cudaStreamCreate")
        height, width, channels = card.input_shape
        self._sizes = (batch * height * width * channels, batch * len(card.classes) * 4)
        self._device = [call("cudaMalloc", size) for size in self._sizes]
        self._host = [call("cudaMallocHost", size) for size in self._sizes]
        images, scores = (
            np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(pointer)))
            for size, pointer in zip(self._sizes, self._host, strict=True)
        )
        self._images = images.reshape(batch, height, width, channels)
        self._scores = scores.view(np.float32).reshape(batch, len(card.classes))
        self._count = 0
        self._current: tuple[int, ...] = ()
        self._graph: Any = None
        self._context.set_tensor_address(INPUT_NAME, int(self._device[0]))
        self._context.set_tensor_address(OUTPUT_NAME, int(self._device[1]))

    def start(self, images: NDArray[uint8]) -> None:
        """Queue images (N, h, w, 3) on the stream and return."""
        self._count = len(images)
        self._images[: self._count] = images
        if self._graph is not None:
            call("cudaGraphLaunch", self._graph, self._stream)
        else:
            self._enqueue()

    def finish(self) -> NDArray[float32]:
        """Wait for what `start` queued; scores (N, C)."""
        call("cudaStreamSynchronize", self._stream)
        return self._scores[: self._count].copy()

    def run(self, images: NDArray[uint8]) -> NDArray[float32]:
        """Scores (N, C) of images (N, h, w, 3)."""
        self.start(images)
        return self.finish()

    def capture(self, count: int) -> None:
        """From now on launch copies and kernels for exactly `count` images as one CUDA graph, where that works."""
        from cuda.bindings import runtime as cudart

        self._count = count
        self._enqueue()  # TensorRT sets itself up at the first run of a shape, which must not be captured
        call("cudaStreamSynchronize", self._stream)
        call("cudaStreamBeginCapture", self._stream, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            self._enqueue()
        except BackendError:
            call("cudaGraphDestroy", call("cudaStreamEndCapture", self._stream))
            raise
        graph = call("cudaStreamEndCapture", self._stream)
        self._graph = call("cudaGraphInstantiate", graph, 0)
        call("cudaGraphDestroy", graph)

    def profile(self, profiler: Any, images: NDArray[uint8], runs: int) -> None:
        """Run `runs` times with TensorRT telling `profiler` the time of each layer."""
        self.run(images)
        self._context.profiler = profiler
        for _ in range(runs):
            self.run(images)

    def _enqueue(self) -> None:
        from cuda.bindings import runtime as cudart

        shape = (self._count, *self._shape)
        sent = self._images[: self._count].nbytes
        received = self._scores[: self._count].nbytes
        to_device = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        to_host = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        if shape != self._current:
            self._context.set_input_shape(INPUT_NAME, shape)
            self._current = shape
        call("cudaMemcpyAsync", self._device[0], self._host[0], sent, to_device, self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise BackendError(f"TensorRT could not run the engine: {self._engine.logger.reason()}")
        call("cudaMemcpyAsync", self._host[1], self._device[1], received, to_host, self._stream)

    def free(self) -> None:
        """Give back memory, stream and graph."""
        call("cudaStreamSynchronize", self._stream)
        if self._graph is not None:
            call("cudaGraphExecDestroy", self._graph)
        for pointer in self._device:
            call("cudaFree", pointer)
        del self._images, self._scores
        for pointer in self._host:
            call("cudaFreeHost", pointer)
        call("cudaStreamDestroy", self._stream)
        self._context = None


class TensorRtSession(Session):
    """An engine with lanes for the most frequent batch size, and on first use one for every other size."""

    def __init__(self, engine: Engine, card: Card, batch: tuple[int, int, int]):
        super().__init__(card)
        self._engine = engine
        _, self._usual, self._largest = batch
        self.depth = LANES
        self._lanes = [Lane(engine, card, self._usual) for _ in range(LANES)]
        self._idle = deque(self._lanes)
        self._any_size: Lane | None = None
        self._any_size_free = threading.Lock()
        if not engine.flavour.compiles_on_device:
            for lane in self._lanes:
                _capture_if_possible(lane, self._usual)

    def _infer(self, images: NDArray[uint8]) -> NDArray[float32]:
        return self._start(images)()

    def _start(self, images: NDArray[uint8]) -> Callable[[], NDArray[float32]]:
        lane = self._take_lane() if len(images) == self._usual else None
        if lane is None:
            scores = self._in_parts(images)
            return lambda: scores
        lane.start(images)

        def finish() -> NDArray[float32]:
            scores = lane.finish()
            self._idle.append(lane)
            return scores

        return finish

    def _take_lane(self) -> Lane | None:
        """A lane that nobody uses; what was started in the others may be waited for by callers that wait for us."""
        try:
            return self._idle.popleft()
        except IndexError:
            return None

    def _in_parts(self, images: NDArray[uint8]) -> NDArray[float32]:
        import numpy as np

        parts = [images[first : first + self._largest] for first in range(0, len(images), self._largest)]
        with self._any_size_free:
            self._any_size = self._any_size or Lane(self._engine, self.card, self._largest)
            return np.concatenate([self._any_size.run(part) for part in parts])

    def _close(self) -> None:
        """Keep what the device compiled, wait for what is running, and free the GPU's memory."""
        self._engine.keep_runtime_cache()
        for lane in [*self._lanes, *([self._any_size] if self._any_size else ())]:
            lane.free()


def _capture_if_possible(lane: Lane, count: int) -> None:
    """Some networks cannot be captured; their kernels are then launched one by one."""
    with contextlib.suppress(BackendError):
        lane.capture(count)
