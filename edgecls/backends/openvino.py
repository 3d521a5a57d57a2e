"""OpenVINO: Intel processors, integrated graphics and NPUs, and fast on other x86 and Arm processors too."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.artifact.card import EMBEDDED_KEY, Card, Runtime
from edgecls.artifact.terms import InnerTensor
from edgecls.backends.base import (
    LOW_LATENCY,
    NO_OPTIONS,
    PROFILED_RUNS,
    Backend,
    BuildOptions,
    EntryFor,
    Layer,
    OnProgress,
    Parallelism,
    Session,
)
from edgecls.errors import ArtifactError, BackendError, UsageError

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

MODEL_FILE = "model.xml"
WEIGHTS_FILE = "model.bin"
CAPABILITIES = {"bf16": "BF16", "fp16": "FP16"}
"""What OpenVINO calls a device's ability to compute in a lowered float precision."""
TYPES = {"i8": "int8", "u8": "int8", "f32": "fp32", "fp32": "fp32", "f16": "fp16", "fp16": "fp16", "bf16": "bf16"}
WEIGHTED = ("Convolution", "GroupConvolution", "MatMul", "FullyConnected")
"""The beginnings of what OpenVINO calls its layers with weights."""


class _Compiled:
    """A model compiled for one shape of input, and requests for it.

    A request serves one call at a time, and what it returns is a view that the next call overwrites.
    """

    def __init__(self, compiled: Any, kept: int):
        self.compiled = compiled
        self._idle: deque[Any] = deque(maxlen=kept)  # more than that are let go

    def start(self, images: NDArray[uint8]) -> Callable[[], tuple[NDArray[Any], ...]]:
        """Start on images; what is returned waits for the outputs."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        request.start_async({0: images})

        def finish() -> tuple[NDArray[Any], ...]:
            request.wait()
            outputs = tuple(tensor.data.copy() for tensor in request.output_tensors)
            self._idle.append(request)
            return outputs

        return finish


class OpenVinoSession(Session):
    """A model compiled twice: for single images, the case that matters on a camera, and for any batch on first use."""

    def __init__(
        self,
        file: Path,
        card: Card,
        parallelism: Parallelism,
        device: str,
        entry: EntryFor | None = None,
        tensors: tuple[InnerTensor, ...] = (),
    ):
        super().__init__(card)
        self.tensors = tensors
        self._file, self._device, self._entry = file, device, entry
        self._settings = _settings(card.precision, device, parallelism)
        compiled = self._compile(1)
        # The runtime computes so many requests at a time; one more hides pre- and postprocessing.
        self.depth = 1 + int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._single = _Compiled(compiled, self.depth + 1)
        self._batched: _Compiled | None = None
        self._compiling = threading.Lock()

    @cached_property
    def _model(self) -> Any:
        model = _read(self._file)
        for kind in self.tensors:
            try:
                model.add_outputs(self.card.inner_tensors[kind])
            except RuntimeError as error:
                raise ArtifactError(f"{self._file} has no {kind} ({_reason(error)}); export again") from error
        return model

    def _compile(self, batch: int) -> Any:
        """The model for batches of this size, from the cache where it was compiled before."""
        # Drivers of other devices decide about their code too, and keep it themselves.
        entry = self._entry(self._settings, batch) if self._entry and self._device == "CPU" else None
        if entry and (content := entry.read()):
            try:
                return _core().import_model(content, self._device, self._settings)
            except RuntimeError:
                entry.discard()
        compiled = _compile(self._model, [batch, *self.card.input_shape], self._device, self._settings)
        if entry:
            with suppress(RuntimeError):  # what cannot be written out is compiled at each start
                entry.write(compiled.export_model().getvalue())
        return compiled

    def _compiled(self, images: NDArray[uint8]) -> _Compiled:
        if len(images) == 1:
            return self._single
        with self._compiling:
            if self._batched is None:
                self._batched = _Compiled(self._compile(-1), self.depth + 1)
            return self._batched

    def _infer(self, images: NDArray[uint8]) -> NDArray[float32]:
        return self._infer_all(images)[0]

    def _infer_all(self, images: NDArray[uint8]) -> tuple[NDArray[Any], ...]:
        return self._start_all(images)()

    def _start_all(self, images: NDArray[uint8]) -> Callable[[], tuple[NDArray[Any], ...]]:
        return self._compiled(images).start(images)

    def _close(self) -> None:
        self._single = self._batched = None  # type: ignore[assignment]
        self.__dict__.pop("_model", None)


class OpenVinoBackend(Backend):
    """OpenVINO IR: `model.xml` with `model.bin` beside it."""

    name = "openvino"
    package = "openvino"
    extra = "openvino"
    precisions = ("fp32", "fp16", "bf16", "int8")
    bare_suffix = ".xml"
    survives_fork = False
    in_triton = "openvino"
    in_model_server = True
    gives_inner_tensors = True

    def read_embedded(self, file: Path) -> Card:
        """See `Backend.read_embedded`."""
        if reason := self.available():
            raise ArtifactError(f"{file} cannot be read: {reason}")
        model = _read(file)
        text = model.get_rt_info(EMBEDDED_KEY).astype(str) if model.has_rt_info(EMBEDDED_KEY) else None
        return Card.from_embedded(text, str(file))

    def _check_device(self, device: str | None) -> None:
        if device is not None and device not in ("CPU", "GPU", "NPU"):
            raise UsageError(f"`device`: OpenVINO has no device {device!r}; choose CPU, GPU or NPU")

    def has_device(self, device: str | None) -> bool:
        """See `Backend.has_device`. Several GPUs are called GPU.0, GPU.1 and so on."""
        known = [name.partition(".")[0] for name in _core().available_devices]
        return (device or "CPU") in known

    def check_request(self, precision: str, options: BuildOptions = NO_OPTIONS) -> None:
        """See `Backend.check_request`. bfloat16 is refused where the device cannot compute in it."""
        super().check_request(precision, options)
        device = options.device or "CPU"
        if precision == "bf16" and not _computes_in("bf16", device):
            raise BackendError(f"the {device} of this machine has no bfloat16 arithmetic; export int8")

    def _layers(self, file: Path, card: Card, images: NDArray[uint8]) -> list[Layer]:
        """OpenVINO gives a layer's precision as the end of the name of what computes it."""
        device = _device(card)
        settings = {**_settings(card.precision, device), "PERF_COUNT": True}
        request = _compile(_read(file), images.shape, device, settings).create_infer_request()
        request.infer({0: images})  # the first run sets things up
        total_ms: dict[str, float] = {}
        for _ in range(PROFILED_RUNS):
            request.infer({0: images})
            steps = [step for step in request.profiling_info if step.status == step.Status.EXECUTED]
            for step in steps:
                spent_ms = step.real_time.total_seconds() * 1000
                total_ms[step.node_name] = total_ms.get(step.node_name, 0.0) + spent_ms
        return [
            Layer(
                step.node_name,
                step.node_type,
                TYPES.get(step.exec_type.rpartition("_")[2].lower(), "other"),
                total_ms[step.node_name] / PROFILED_RUNS,
                step.node_type.startswith(WEIGHTED),
            )
            for step in steps
        ]

    def _open(self, file: Path, card: Card, parallelism: Parallelism, on_progress: OnProgress) -> Session:  # noqa: ARG002
        return OpenVinoSession(file, card, parallelism, _device(card))

    def _open_with(self, tensors: tuple[InnerTensor, ...], file: Path, card: Card, parallelism: Parallelism) -> Session:
        return OpenVinoSession(file, card, parallelism, _device(card), tensors=tensors)

    def _open_cached(
        self, file: Path, card: Card, parallelism: Parallelism, entry: EntryFor, tensors: tuple[InnerTensor, ...]
    ) -> Session:
        return OpenVinoSession(file, card, parallelism, _device(card), entry, tensors)

    def _build(self, graph: Path, card: Card, out: Path, options: BuildOptions) -> tuple[Runtime, list[str]]:
        import openvino

        model = _read(graph)
        model.set_rt_info(card.embedded(), EMBEDDED_KEY)
        for key, value in card.model_info().items():
            model.set_rt_info(value, ["model_info", key])
        openvino.save_model(model, out / MODEL_FILE, compress_to_fp16=False)
        return Runtime(self.package, self.version() or "", options.device or "CPU"), [MODEL_FILE, WEIGHTS_FILE]


_core_made = threading.Lock()


def _core() -> Any:
    """The one OpenVINO core of the process.

    A core's processor plugin gives the thread a stack for its signals and, when it goes, puts back the one that was
    there before. Cores that go in another order than they came leave a stack behind that is no more, and the next
    Ctrl-C or SIGTERM crashes the process.
    """
    with _core_made:
        return _only_core()


@cache
def _only_core() -> Any:
    import numpy as np
    import openvino

    # The first arrays are handed over here, by one thread. OpenVINO's bindings look up NumPy under a lock of C++ while
    # they let go of Python's: of two threads that were the first, each would wait for the other for good.
    openvino.Tensor(np.zeros(1, np.uint8)).data.copy()
    return openvino.Core()


def _compile(model: Any, shape: Sequence[int], device: str, settings: Mapping[str, Any]) -> Any:
    """A copy of the model for inputs of this shape, compiled. Raises `BackendError` where the device cannot have it."""
    core, copy = _core(), model.clone()
    copy.reshape(list(shape))
    try:
        return core.compile_model(copy, device, settings)
    except RuntimeError as error:
        if device in core.available_devices:
            raise BackendError(f"OpenVINO cannot compile the model for {device}: {_reason(error)}") from error
        devices = ", ".join(core.available_devices) or "none"
        raise BackendError(f"OpenVINO finds no device {device} on this machine; found: {devices}") from error


def _device(card: Card) -> str:
    return card.device or "CPU"


def _settings(precision: str, device: str, parallelism: Parallelism = LOW_LATENCY) -> dict[str, Any]:
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY" if parallelism.streams == 1 else "THROUGHPUT"}
    if parallelism.streams not in (None, 1):
        settings["NUM_STREAMS"] = parallelism.streams
    if parallelism.threads:
        settings["INFERENCE_NUM_THREADS"] = parallelism.threads
    if hint := _float_precision(precision, device):
        settings["INFERENCE_PRECISION_HINT"] = hint
    return settings


def _float_precision(precision: str, device: str) -> str | None:
    """What OpenVINO is to compute float layers in; None leaves it to the device.

    Left alone, processors with bfloat16 arithmetic compute float32 models in it, and GPUs in float16: fast, but neither
    what the card says nor the same on the next machine.
    """
    if device == "NPU":
        return None
    if precision == "int8":
        return "f32" if device == "CPU" else None
    if precision in CAPABILITIES and _computes_in(precision, device):
        return {"bf16": "bf16", "fp16": "f16"}[precision]
    return "f32"


def _computes_in(precision: str, device: str) -> bool:
    core = _core()
    if device not in core.available_devices:
        return False
    return CAPABILITIES[precision] in core.get_property(device, "OPTIMIZATION_CAPABILITIES")


def _read(file: Path) -> Any:
    try:
        return _core().read_model(file)
    except RuntimeError as error:
        raise ArtifactError(f"OpenVINO cannot read {file} ({_reason(error)}); export again") from error


def _reason(error: RuntimeError) -> str:
    """The first line that says something: OpenVINO's messages begin with the place in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("Exception from")), "no reason given")[:200]


BACKEND = OpenVinoBackend()
