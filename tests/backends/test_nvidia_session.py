"""How images and scores travel, on a simulated GPU: CUDA's calls work on host memory, and streams work when waited for.

What a real GPU makes of the same calls is tested where there is one (`-m gpu`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgecls.artifact.card import INPUT_NAME, OUTPUT_NAME
from edgecls.artifact.golden import Golden
from edgecls.backends.nvidia import session as module
from edgecls.backends.nvidia.flavours import FLAVOURS
from edgecls.backends.nvidia.session import TensorRtSession
from edgecls.errors import BackendError
from edgecls.runtime.store import Artifact

pytest.importorskip("cuda.bindings.runtime")
FULL, RTX = FLAVOURS


class SimulatedCuda:
    """The calls of the CUDA runtime that a session makes. Work on a stream waits until the stream is waited for."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.capturing: dict[int, list[Callable[[], None]]] = {}
        self.launched: list[str] = []
        self._handles = iter(range(1, 10_000))

    def __call__(self, function: str, *arguments: Any) -> Any:
        self.launched.append(function)
        return getattr(self, function)(*arguments)

    def cudaMalloc(self, size: int) -> int:  # noqa: N802
        buffer = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    cudaMallocHost = cudaMalloc  # noqa: N815

    def cudaFree(self, pointer: int) -> None:  # noqa: N802
        del self.memory[pointer]

    cudaFreeHost = cudaFree  # noqa: N815

    def cudaStreamCreate(self) -> int:  # noqa: N802
        handle = next(self._handles)
        self.streams[handle] = []
        return handle

    def cudaStreamDestroy(self, stream: int) -> None:  # noqa: N802
        assert not self.streams.pop(stream), "destroyed with work on it"

    def queue(self, stream: int, work: Callable[[], None]) -> None:
        self.capturing.get(stream, self.streams[stream]).append(work)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, _kind: Any, stream: int) -> None:  # noqa: N802
        self.queue(stream, lambda: ctypes.memmove(to, source, size) and None)

    def cudaStreamSynchronize(self, stream: int) -> None:  # noqa: N802
        assert stream not in self.capturing, "a stream that is being captured cannot be waited for"
        for work in self.streams[stream]:
            work()
        self.streams[stream].clear()

    def cudaStreamBeginCapture(self, stream: int, _mode: Any) -> None:  # noqa: N802
        self.capturing[stream] = []

    def cudaStreamEndCapture(self, stream: int) -> int:  # noqa: N802
        handle = next(self._handles)
        self.graphs[handle] = self.capturing.pop(stream)
        return handle

    def cudaGraphInstantiate(self, graph: int, _flags: int) -> int:  # noqa: N802
        handle = next(self._handles)
        self.graphs[handle] = self.graphs[graph]
        return handle

    def cudaGraphDestroy(self, graph: int) -> None:  # noqa: N802
        del self.graphs[graph]

    cudaGraphExecDestroy = cudaGraphDestroy  # noqa: N815

    def cudaGraphLaunch(self, graph: int, stream: int) -> None:  # noqa: N802
        self.streams[stream].extend(self.graphs[graph])


class SimulatedContext:
    """An execution context that computes what ONNX Runtime computes on the same graph."""

    def __init__(self, cuda: SimulatedCuda, scores_of: Callable[[np.ndarray], np.ndarray]):
        self._cuda, self._scores_of = cuda, scores_of
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self.capturable = True

    def set_tensor_address(self, name: str, address: int) -> None:
        self._addresses[name] = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        assert name == INPUT_NAME
        self._shape = tuple(shape)

    def execute_async_v3(self, stream: int) -> bool:
        shape = self._shape
        if stream in self._cuda.capturing and not self.capturable:
            return False

        def compute() -> None:
            size = int(np.prod(shape))
            images = np.frombuffer(self._cuda.memory[self._addresses[INPUT_NAME]], np.uint8, size).reshape(shape)
            content = np.ascontiguousarray(self._scores_of(images))
            ctypes.memmove(self._addresses[OUTPUT_NAME], content.ctypes.data, content.nbytes)

        self._cuda.queue(stream, compute)
        return True


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> SimulatedCuda:
    simulated = SimulatedCuda()
    monkeypatch.setattr(module, "call", simulated)
    return simulated


@pytest.fixture
def open_simulated(cuda: SimulatedCuda, bundle: Callable[[str, str], Artifact]):
    """Open a session of a flavour for a range of batches; yields it with the answers that are expected of it."""
    artifact = bundle("onnx", "fp32")
    with artifact.open() as reference:

        def open_session(flavour=FULL, batch=(1, 1, 8), capturable: bool = True) -> TensorRtSession:
            def context() -> SimulatedContext:
                made = SimulatedContext(cuda, reference.infer)
                made.capturable = capturable
                return made

            engine = SimpleNamespace(
                flavour=flavour, context=context, keep_runtime_cache=lambda: None,
                logger=SimpleNamespace(reason=lambda: "no reason given"),
            )  # fmt: skip
            return TensorRtSession(engine, artifact.card, batch)

        yield open_session, Golden.read(artifact.path).images, reference.infer


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.title)
@pytest.mark.parametrize("count", [1, 3, 8, 16])
def test_any_number_of_images_comes_back_in_order(open_simulated, flavour, count: int):
    open_session, images, expected = open_simulated
    with open_session(flavour) as session:
        for _ in range(2):
            np.testing.assert_allclose(session.infer(images[:count]), expected(images[:count]), atol=1e-5)


def test_two_images_are_under_way_at_once_and_come_back_in_order(open_simulated, cuda: SimulatedCuda):
    open_session, images, expected = open_simulated
    with open_session() as session:
        assert session.depth == 2
        first, second = session.start(images[:1]), session.start(images[1:2])
        assert sum(bool(work) for work in cuda.streams.values()) == 2
        third, others = session.start(images[2:3]), session.start(images[3:6])  # no lane is free, or of another number
        np.testing.assert_allclose(second.result(), expected(images[1:2]), atol=1e-5)
        np.testing.assert_allclose(first.result(), expected(images[:1]), atol=1e-5)
        np.testing.assert_allclose(third.result(), expected(images[2:3]), atol=1e-5)
        np.testing.assert_allclose(others.result(), expected(images[3:6]), atol=1e-5)


def test_the_usual_batch_is_one_launch_of_a_captured_graph(open_simulated, cuda: SimulatedCuda):
    open_session, images, expected = open_simulated
    with open_session(batch=(1, 4, 8)) as session:
        cuda.launched.clear()
        np.testing.assert_allclose(session.infer(images[:4]), expected(images[:4]), atol=1e-5)
        assert cuda.launched == ["cudaGraphLaunch", "cudaStreamSynchronize"]


def test_a_flavour_that_captures_graphs_itself_is_left_to_it(open_simulated, cuda: SimulatedCuda):
    open_session, images, _ = open_simulated
    with open_session(RTX) as session:
        session.infer(images[:1])
    assert "cudaGraphLaunch" not in cuda.launched


def test_a_network_that_cannot_be_captured_runs_without(open_simulated, cuda: SimulatedCuda):
    open_session, images, expected = open_simulated
    with open_session(capturable=False) as session:
        np.testing.assert_allclose(session.infer(images[:1]), expected(images[:1]), atol=1e-5)
    assert "cudaGraphLaunch" not in cuda.launched
    assert cuda.graphs == {}


def test_images_cross_the_bus_as_bytes(open_simulated, cuda: SimulatedCuda, monkeypatch: pytest.MonkeyPatch):
    open_session, images, _ = open_simulated
    sizes: list[int] = []
    original = cuda.cudaMemcpyAsync
    monkeypatch.setattr(cuda, "cudaMemcpyAsync", lambda *a: (sizes.append(a[2]), original(*a))[1])
    with open_session(RTX) as session:
        session.infer(images[:1])
    assert sizes == [32 * 32 * 3, 10 * 4]


def test_closing_waits_and_gives_everything_back(open_simulated, cuda: SimulatedCuda):
    open_session, images, _ = open_simulated
    session = open_session()
    session.infer(images[:5])
    session.start(images[:1])
    session.close()
    session.close()
    assert (cuda.memory, cuda.streams, cuda.graphs) == ({}, {}, {})


def test_an_execution_that_fails_is_an_error(open_simulated, monkeypatch: pytest.MonkeyPatch):
    open_session, images, _ = open_simulated
    with open_session(RTX) as session:
        monkeypatch.setattr(SimulatedContext, "execute_async_v3", lambda *_: False)
        with pytest.raises(BackendError, match="could not run the engine"):
            session.infer(images[:1])
