"""What a runtime must be able to do. Public methods check once; a backend fills in the small methods behind them."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakSet

from edgecls import cache, processor
from edgecls.artifact.card import Card, Runtime, check_files, with_files
from edgecls.artifact.terms import InnerTensor
from edgecls.cache import Entry
from edgecls.errors import ArtifactError, BackendError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray
    from typing_extensions import Self

MAX_THREADS = 4096
PROCESSORS = ("x86-vnni", "x86", "arm")
"""The kinds of processors that want different int8."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What a bundle is built for, where the target asks.

    `device` is a kind of processor, a runtime's device or compute capabilities; `batch` the smallest, most frequent and
    largest number of images at a time; `workspace_mib` the memory that building may use on the device.
    """

    device: str | None = None
    batch: tuple[int, int, int] | None = None
    workspace_mib: int | None = None


@dataclass(frozen=True)
class Layer:
    """One step of what a runtime computes. `kind` is the runtime's own word for it, `precision` that of its arithmetic,
    `time_ms` its mean time where it was measured, and `weighted` says whether it is a convolution or a matrix product.
    """

    name: str
    kind: str
    precision: str
    time_ms: float | None = None
    weighted: bool = False


@dataclass(frozen=True)
class Parallelism:
    """How a session uses the processor.

    `threads` are those of all inferences together, `streams` is how many of these run beside each other: one for the
    shortest latency, more for throughput. None leaves either to the runtime. A runtime without streams has one.
    Without `spinning` threads sleep between two inferences: somewhat slower, and at the pace of a camera a fraction of
    the processor time where a runtime would spin (ONNX Runtime does).
    """

    threads: int | None = None
    streams: int | None = 1
    spinning: bool = True

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        for name, value in (("threads", self.threads), ("streams", self.streams)):
            if value is not None and (not isinstance(value, int) or not 1 <= value <= MAX_THREADS):
                raise UsageError(f"`{name}` must be at least 1 and at most {MAX_THREADS}, not {str(value)[:20]}")


NO_OPTIONS = BuildOptions()
LOW_LATENCY = Parallelism()
THROUGHPUT = Parallelism(streams=None)
OnProgress = Callable[[str], None]
"""Hears in words what is being done."""
EntryFor = Callable[..., Entry]
"""Gives the cache entry of a compiled graph, by what else than its files and the processor decides about it."""
PROFILED_RUNS = 20
"""Runs over which the times of layers are averaged."""


_open_sessions: WeakSet[Session] = WeakSet()


def _leave_sessions_alone() -> None:
    """Never free what a forked process got from its parent: runtimes then wait for threads that stayed behind."""
    for session in _open_sessions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_sessions_alone)


class Pending:
    """Scores of one `Session.start`, on their way. Each belongs to the thread that started it."""

    def __init__(self, session: Session, finish: Callable[[], tuple[NDArray[Any], ...]]):
        self._session, self._finish = session, finish
        self._outputs: tuple[NDArray[float32], ...] = ()

    def result(self) -> NDArray[float32]:
        """Scores (N, C) float32, waited for if need be. Raises `BackendError` where the session is closed."""
        return self.results()[0]

    def results(self) -> tuple[NDArray[float32], ...]:
        """Scores and inner tensors as of `Session.infer_all`, waited for if need be. Raises as `result` does."""
        if not self._outputs:
            with self._session.in_use():
                self._outputs = self._session._tidied(self._finish())
        return self._outputs


class Session(ABC):
    """An opened model: raw images in, scores out, host to host. A context manager.

    Many threads may share one: each call has a request of its own. `start` lets inference overlap with other work;
    more than `depth` inferences under way at a time gain nothing. A session belongs to the process that opened it.
    """

    depth = 1
    """`tensors` are those inside of the network that `infer_all` gives besides the scores."""

    def __init__(self, card: Card):
        self.card = card
        self.tensors: tuple[InnerTensor, ...] = ()
        self._process = os.getpid()
        self._state = threading.Condition()
        self._calls: Counter[int] = Counter()  # by thread
        self._closed = self._freed = False
        _open_sessions.add(self)

    def infer(self, images: NDArray[uint8]) -> NDArray[float32]:
        """Scores (N, C) float32 of images (N, h, w, 3) uint8 RGB. Raises `UsageError` for any other input."""
        images = self._checked(images)
        with self.in_use():
            return self._infer(images)

    def infer_all(self, images: NDArray[uint8]) -> tuple[NDArray[float32], ...]:
        """Scores as `infer` gives them, and each of `tensors` float32: an embedding is (N, D), a feature map
        (N, channels, height, width).
        """
        images = self._checked(images)
        with self.in_use():
            return self._tidied(self._infer_all(images))

    def start(self, images: NDArray[uint8]) -> Pending:
        """Start on images as for `infer`, and return what their scores come from."""
        images = self._checked(images)
        with self.in_use():
            return Pending(self, self._start_all(images))

    def close(self) -> None:
        """Free what the runtime holds, after the calls that are running; nothing can be asked of it afterwards."""
        if os.getpid() != self._process:
            return  # the runtime's threads did not come along into this process, and would be waited for
        own = threading.get_ident()
        with self._state:
            self._closed = True
            self._state.wait_for(lambda: not any(calls for thread, calls in self._calls.items() if thread != own))
        self._free()

    def _free(self) -> None:
        """Free what the runtime holds, once, unless a call of this thread is under it: closed by a signal's handler."""
        with self._state:
            if self._freed or self._calls.total():
                return
            self._freed = True
        self._close()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the session open during a call. Raises `BackendError` where it is not open in this process."""
        if os.getpid() != self._process:
            raise BackendError(
                "this model was opened before the process was forked, and its runtime's threads stayed behind; load it "
                "in the new process, or start processes by multiprocessing's spawn method"
            )
        with self._state:
            if self._closed:
                raise BackendError("this model is closed; load it again")
            self._calls[threading.get_ident()] += 1
        try:
            yield
        finally:
            self._end_call()

    def _end_call(self) -> None:
        with self._state:
            self._calls[threading.get_ident()] -= 1
            self._calls += Counter()  # forgets threads without calls
            self._state.notify_all()
            closed = self._closed
        if closed:
            self._free()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session holds a runtime's memory and cannot be pickled; open the model where it is needed")

    @abstractmethod
    def _infer(self, images: NDArray[uint8]) -> NDArray[float32]:
        """Scores of checked images; from several threads at a time."""

    def _start(self, images: NDArray[uint8]) -> Callable[[], NDArray[float32]]:
        """Start on checked images; what is returned waits for their scores."""
        scores = self._infer(images)
        return lambda: scores

    def _infer_all(self, images: NDArray[uint8]) -> tuple[NDArray[Any], ...]:
        """Scores, and each of `tensors` as the runtime gives it, of checked images."""
        return (self._infer(images),)

    def _start_all(self, images: NDArray[uint8]) -> Callable[[], tuple[NDArray[Any], ...]]:
        """Start on checked images; what is returned waits for what `_infer_all` returns."""
        finish = self._start(images)
        return lambda: (finish(),)

    def _close(self) -> None:
        """Free what the runtime holds, once."""

    def _tidied(self, outputs: tuple[NDArray[Any], ...]) -> tuple[NDArray[float32], ...]:
        """Float32, and embeddings without the places of a picture, where a network has its last layer before the
        pooling.
        """
        scores, *inner = outputs
        tidy = [scores]
        for kind, tensor in zip(self.tensors, inner, strict=True):
            if kind == "embedding":
                tensor = tensor.reshape(*tensor.shape[:2], -1).mean(axis=2) if tensor.ndim > 2 else tensor
            tidy.append(tensor.astype("float32", copy=False))
        return tuple(tidy)

    def _checked(self, images: NDArray[uint8]) -> NDArray[uint8]:
        import numpy as np

        expected = self.card.input_shape
        if not isinstance(images, np.ndarray):
            raise UsageError(f"the model takes a NumPy array of images, got {type(images).__name__}")
        if images.dtype != np.uint8 or images.shape[1:] != expected or not len(images):
            wanted = f"uint8 images (N, {', '.join(map(str, expected))})"
            raise UsageError(f"the model takes {wanted}, got {images.dtype} {images.shape}")
        return np.ascontiguousarray(images)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Backend(ABC):
    """One runtime.

    `name` is its name on the command line and in the card, `package` the Python package behind it, `extra` the
    pip extra that brings it. `bare_suffix` is set where this backend opens model files that come alone.
    `fallback` names the backend that can run the same graph where this one cannot run.
    """

    name: str
    package: str
    extra: str | None = None
    precisions: tuple[str, ...] = ("fp32",)
    exportable = True
    bare_suffix: str | None = None
    fallback: str | None = None
    in_every_install = False
    """Whether the runtime comes with the base install, so that graphs can be run wherever the program is."""
    in_triton: str | None = None
    """What Triton calls its own runtime of the same files; None where they are none that it opens on any machine."""
    in_triton_on_gpu = False
    in_model_server = False
    """Whether OpenVINO Model Server opens the same files."""
    gives_inner_tensors = False
    """Whether sessions can give what is inside of a network: embeddings and feature maps."""
    survives_fork = True
    """Whether a forked process can use the runtime after its parent did."""
    _used_in: int | None = None
    """The process that first opened a session."""

    def available(self) -> str | None:
        """Why sessions cannot be opened on this machine, or None where they can."""
        return self._missing()

    def buildable(self) -> str | None:
        """Why bundles cannot be built on this machine, or None where they can."""
        return self._missing()

    def version(self) -> str | None:
        """Version of the installed runtime, or None."""
        from importlib import metadata

        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return None

    def build(self, graph: Path, card: Card, out: Path, options: BuildOptions = NO_OPTIONS) -> Card:
        """Turn an ONNX graph of the card's precision into a bundle's files in the folder `out`.

        Returns the card completed with runtime and file hashes; writing it is the caller's job. Raises `BackendError`.
        """
        self.check_request(card.precision, options)
        card = replace(card, target=self.name)
        runtime, names = self._build(graph, card, out, options)
        return with_files(replace(card, runtime=runtime), out, names)

    def check_request(self, precision: str, options: BuildOptions = NO_OPTIONS) -> None:
        """Raise before any work is done: `UsageError` where this backend has no such precision or option,
        `BackendError` where it cannot build on this machine.
        """
        if precision not in self.precisions:
            raise UsageError(
                f"target {self.name} has no precision {precision}; it has {', '.join(self.precisions)}", "precision"
            )
        self._check_options(options)
        if reason := self.buildable():
            raise BackendError(reason)

    def open(
        self,
        path: Path,
        card: Card,
        parallelism: Parallelism = LOW_LATENCY,
        on_progress: OnProgress = lambda _: None,
        cached: bool = False,
        tensors: tuple[InnerTensor, ...] = (),
    ) -> Session:
        """Open a bundle's folder, or a bare model file with the card that was read from it.

        `on_progress` hears what is built first, where that takes long. With `cached` the runtime's compiled graph is
        kept on this machine (`edgecls.cache`) and taken from there. `tensors` are those inside of the network that the
        session is to give besides scores. Raises `ArtifactError` for files that do not fit the card, `UsageError` for
        tensors that cannot be had, and `BackendError` where the runtime is missing or refuses the files.
        """
        self.check_tensors(card, tensors)
        parallelism.check()
        if not self.survives_fork:
            self._check_process()
        file = self._runnable(path, card)
        processor_known = processor.fingerprint()
        size_bytes = sum((path / name).stat().st_size for name in card.lineage.files) if path.is_dir() else 0
        session = None
        if cached and size_bytes and processor_known and cache.keeps(size_bytes):
            identity = (self.version(), processor_known, *card.lineage.files.values(), *tensors)
            session = self._open_cached(file, card, parallelism, partial(Entry.of, self.name, *identity), tensors)
        if session:
            return session
        if tensors:
            return self._open_with(tensors, file, card, parallelism)
        return self._open(file, card, parallelism, on_progress)

    def open_exact(self, graph: Path, card: Card) -> Session:  # noqa: ARG002
        """Open an ONNX graph with quantizers so that integers are computed without saturation, as on no processor but
        with the answers that every processor should give. Slow. Raises `UsageError` where this runtime has no such way.
        """
        raise UsageError(f"{self.name} cannot compute integers exactly; ONNX Runtime can")

    def has_device(self, device: str | None) -> bool:  # noqa: ARG002
        """Whether the device of a card is on this machine, as far as the runtime knows devices."""
        return True

    def check_tensors(self, card: Card, tensors: tuple[InnerTensor, ...]) -> None:
        """Raise `UsageError` for tensors that this runtime or this network does not give."""
        if tensors and not self.gives_inner_tensors:
            raise UsageError(f"{self.name} gives scores alone; use a bundle for onnx or openvino")
        for kind in tensors:
            if not self._has_tensor(kind, card):
                what = kind.replace("_", " ")
                raise UsageError(f"the bundle names no {what} of its {card.arch}; export the run again")

    def _has_tensor(self, kind: InnerTensor, card: Card) -> bool:
        return kind in card.inner_tensors

    def _check_process(self) -> None:
        self._used_in = self._used_in or os.getpid()
        if self._used_in != os.getpid():
            raise BackendError(
                f"{self.package} was used before this process was forked, and its threads stayed behind; start "
                "processes by multiprocessing's spawn method, or load the first model after the fork"
            )

    def _runnable(self, path: Path, card: Card) -> Path:
        """The model file of a bundle that can run here. Raises as `open` does."""
        if reason := self.available():
            raise BackendError(f"{path} cannot run here: {reason}")
        if not path.is_dir():
            return path
        check_files(card, path)
        return path / card.model_file

    def prepare(
        self,
        path: Path,  # noqa: ARG002
        card: Card,  # noqa: ARG002
        device: str | None = None,
        on_progress: OnProgress = lambda _: None,  # noqa: ARG002
    ) -> list[Path]:
        """Build ahead of time what opening the bundle would build; returns these files, which may have stood there.

        `device` names other devices than this machine's, where the runtime can build for them. Raises `BackendError`.
        """
        self._check_device(device)
        return []

    def layers(self, path: Path, card: Card, images: NDArray[uint8]) -> list[Layer]:
        """What the runtime computes, in order, with the mean time of each step on `images` (N, h, w, 3).

        Raises `UsageError` where the runtime does not tell, and as `open` does.
        """
        return self._layers(self._runnable(path, card), card, images)

    def _layers(self, file: Path, card: Card, images: NDArray[uint8]) -> list[Layer]:  # noqa: ARG002
        raise UsageError(f"{self.name} does not tell its layers; give a bundle")

    def bundle_of(self, file: Path) -> Path | None:  # noqa: ARG002
        """The bundle that a file of this backend's cache belongs to; None for other files."""
        return None

    def read_embedded(self, file: Path) -> Card:
        """The card inside a bare model file. Raises `ArtifactError` where there is none."""
        raise ArtifactError(f"{file}: {self.name} files carry no card; give the folder that holds card.json")

    def _open_with(self, tensors: tuple[InnerTensor, ...], file: Path, card: Card, parallelism: Parallelism) -> Session:
        """As `_open`, for a session that gives these tensors too; where `gives_inner_tensors`."""
        raise NotImplementedError

    @abstractmethod
    def _open(self, file: Path, card: Card, parallelism: Parallelism, on_progress: OnProgress) -> Session: ...

    def _open_cached(
        self,
        file: Path,  # noqa: ARG002
        card: Card,  # noqa: ARG002
        parallelism: Parallelism,  # noqa: ARG002
        entry: EntryFor,  # noqa: ARG002
        tensors: tuple[InnerTensor, ...],  # noqa: ARG002
    ) -> Session | None:
        """As `_open` or `_open_with`, with the compiled graph kept in the cache; None for runtimes that keep nothing
        there.
        """
        return None

    def _build(self, graph: Path, card: Card, out: Path, options: BuildOptions) -> tuple[Runtime, list[str]]:  # noqa: ARG002
        """Write the model files to `out`; return the runtime and their names, the one to open first at the front."""
        raise UsageError(f"{self.name} is not an export target")

    def _check_options(self, options: BuildOptions) -> None:
        self._check_device(options.device)
        for name, value in (("`batch`", options.batch), ("`workspace_mib`", options.workspace_mib)):
            if value is not None:
                raise UsageError(f"target {self.name} takes any batch and needs no building here; leave {name} out")

    def _check_device(self, device: str | None) -> None:
        if device is not None:
            raise UsageError(f"target {self.name} builds one bundle for every device; leave `device` out")

    def _missing(self) -> str | None:
        return missing_package(self.package, self.extra or "all", f"the {self.name} backend")


def missing_package(package: str, extra: str, purpose: str) -> str | None:
    """One line that says what needs the package and how to get it, or None where it is installed."""
    if importlib.util.find_spec(package) is not None:
        return None
    return str(MissingExtraError(package, extra, purpose))
