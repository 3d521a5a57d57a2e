"""TensorRT and TensorRT-RTX. The bundle's portable part is the ONNX graph; engines beside it are a cache.

Precision lives in the graph (strongly typed networks), which TensorRT 10, TensorRT 11 and TensorRT-RTX all take. An
engine fits one flavour, version and kind of GPU, so its file name says all three and the graph's hash; one that does
not fit is never opened, the device builds its own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.backends.base import Backend, Session, missing_package
from edgecls.backends.onnx_graph import embed_card, quantizer_faults
from edgecls.card import INPUT_NAME, OUTPUT_NAME, Card, Runtime
from edgecls.errors import BackendError, MissingExtraError, OutputError, UsageError
from edgecls.storage import make_folder, sha256, writing_to

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

MODEL_FILE = "model.onnx"
ENGINES_FOLDER = "engines"
MAX_BATCH = 8
DEFAULT_CAPABILITIES = ("8.6", "8.9", "12.0")
"""Ampere, Ada and Blackwell, for which TensorRT-RTX builds unless told otherwise; on Turing (7.5) it lacks float32."""


@dataclass(frozen=True)
class Flavour:
    """One of NVIDIA's two packages. Only RTX builds engines without a GPU."""

    module: str
    title: str
    ahead_of_time: bool

    def load(self) -> Any:
        """Import the flavour's module. Raises `BackendError` where it is installed and broken."""
        try:
            return import_module(self.module)
        except (ImportError, OSError) as error:
            raise BackendError(f"{self.title} is installed but cannot be loaded ({error}); install it again") from error

    def version(self) -> str:
        """Version of the installed package; JetPack's carries no package metadata, so the module is asked then."""
        try:
            return importlib.metadata.version(self.module)
        except importlib.metadata.PackageNotFoundError:
            return str(self.load().__version__)


FLAVOURS = (Flavour("tensorrt", "TensorRT", False), Flavour("tensorrt_rtx", "TensorRT-RTX", True))
INSTALL = (
    "pip install 'edgecls[tensorrt-rtx]', or NVIDIA's TensorRT (on a Jetson it comes with JetPack, else "
    "pip install 'edgecls[tensorrt]')"
)


def installed_flavours() -> list[Flavour]:
    """The flavours that are installed, full TensorRT first."""
    return [flavour for flavour in FLAVOURS if importlib.util.find_spec(flavour.module)]


@cache
def gpu_capability() -> str | None:
    """Compute capability of the first NVIDIA GPU, such as "8.9", or None without GPU, driver or CUDA bindings."""
    try:
        from cuda.bindings import runtime as cudart
    except ImportError:
        return None
    status, count = cudart.cudaGetDeviceCount()
    if status != cudart.cudaError_t.cudaSuccess or not count:
        return None
    status, properties = cudart.cudaGetDeviceProperties(0)
    return f"{properties.major}.{properties.minor}" if status == cudart.cudaError_t.cudaSuccess else None


class TensorRtBackend(Backend):
    """An ONNX graph for TensorRT, and engines built from it."""

    name = "tensorrt"
    package = "tensorrt"
    extra = "tensorrt-rtx"
    precisions = ("fp32", "fp16", "int8")
    stand_in = "onnx"

    def version(self) -> str | None:
        """Title and version of each installed flavour."""
        found = [f"{flavour.title} {flavour.version()}" for flavour in installed_flavours()]
        return ", ".join(found) or None

    def available(self) -> str | None:
        """See `Backend.available`."""
        if not installed_flavours():
            return f"TensorRT is not installed: {INSTALL}"
        if importlib.util.find_spec("cuda") is None:
            return str(MissingExtraError("cuda-python", "tensorrt-rtx", "running TensorRT engines"))
        if gpu_capability() is None:
            return "no NVIDIA GPU with a working driver was found"
        return None

    def buildable(self) -> str | None:
        """The portable bundle needs onnx alone; engines are built where a flavour is installed."""
        return missing_package("onnx", "train", "exporting")

    def _check_device(self, device: str | None) -> None:
        _capabilities(device)

    def _build(self, graph: Path, card: Card, out: Path, device: str | None) -> tuple[Runtime, list[str]]:
        if faults := quantizer_faults(graph):
            raise BackendError(
                f"TensorRT takes signed, symmetric quantizers only, and {len(faults)} are not: {faults[0]}; "
                "export again with the recipe for TensorRT"
            )
        portable = out / MODEL_FILE
        embed_card(graph, card, portable)
        capability = gpu_capability()
        flavours = [flavour for flavour in installed_flavours() if flavour.ahead_of_time or capability]
        if not flavours:
            _refuse_engine(device)
            return Runtime("tensorrt", "", note="the device builds the engine on first use"), [MODEL_FILE]
        flavour = flavours[0]
        targets = _capabilities(device) if flavour.ahead_of_time else (capability or "",)
        if not flavour.ahead_of_time and device is not None and _capabilities(device) != targets:
            _refuse_engine(device)
        engine = _build_engine(flavour, portable, card, targets)
        path = _engine_path(out, flavour, sha256(portable), targets)
        path.parent.mkdir()
        path.write_bytes(engine)
        note = f"engine built for compute capability {', '.join(targets)}; other GPUs build theirs on first use"
        return Runtime(flavour.module, flavour.version(), ",".join(targets), note), [MODEL_FILE]

    def _open(self, file: Path, card: Card, threads: int | None) -> Session:  # noqa: ARG002
        flavour, capability = installed_flavours()[0], gpu_capability() or ""
        folder, digest = file.parent, sha256(file)
        for path in sorted((folder / ENGINES_FOLDER).glob(f"{_engine_prefix(flavour, digest)}-*.engine")):
            if capability in path.stem.split("-sm")[-1].split("+"):
                return TensorRtSession(flavour, path.read_bytes(), card)
        engine = _build_engine(flavour, file, card, (capability,))
        path = _engine_path(folder, flavour, digest, (capability,))
        try:
            make_folder(path.parent)
            with writing_to(path):
                path.with_suffix(".part").write_bytes(engine)
                path.with_suffix(".part").replace(path)
        except OutputError:
            pass  # a read-only bundle builds its engine on every start; that is slow, not wrong
        return TensorRtSession(flavour, engine, card)


class TensorRtSession(Session):
    """One engine and one execution context with buffers for up to `MAX_BATCH` images."""

    def __init__(self, flavour: Flavour, engine: bytes, card: Card):
        super().__init__(card)
        trt = flavour.load()
        self._logger = _logger(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise BackendError(f"{flavour.title} refused the engine: {self._logger.reason()}; delete it, then retry")
        self._context = self._engine.create_execution_context()
        height, width, channels = card.input_shape
        self._stream = _cuda("cudaStreamCreate")
        self._input = _cuda("cudaMalloc", MAX_BATCH * height * width * channels)
        self._output = _cuda("cudaMalloc", MAX_BATCH * len(card.classes) * 4)
        self._context.set_tensor_address(INPUT_NAME, self._input)
        self._context.set_tensor_address(OUTPUT_NAME, self._output)

    def _infer(self, images: NDArray[uint8]) -> NDArray[float32]:
        import numpy as np

        parts = [images[start : start + MAX_BATCH] for start in range(0, len(images), MAX_BATCH)]
        return np.concatenate([self._infer_part(part) for part in parts])

    def _infer_part(self, images: NDArray[uint8]) -> NDArray[float32]:
        import numpy as np
        from cuda.bindings import runtime as cudart

        scores = np.empty((len(images), len(self.card.classes)), np.float32)
        to_device = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        to_host = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _cuda("cudaMemcpyAsync", self._input, images.ctypes.data, images.nbytes, to_device, self._stream)
        self._context.set_input_shape(INPUT_NAME, images.shape)
        if not self._context.execute_async_v3(int(self._stream)):
            raise BackendError(f"TensorRT could not run the engine: {self._logger.reason()}")
        _cuda("cudaMemcpyAsync", scores.ctypes.data, self._output, scores.nbytes, to_host, self._stream)
        _cuda("cudaStreamSynchronize", self._stream)
        return scores

    def close(self) -> None:
        """Free the device memory and the stream."""
        _cuda("cudaFree", self._input)
        _cuda("cudaFree", self._output)
        _cuda("cudaStreamDestroy", self._stream)
        self._context = self._engine = self._runtime = None


def parse_graph(flavour: Flavour, graph: Path) -> tuple[Any, ...]:
    """Parse an ONNX file with the real parser into a strongly typed network.

    Returns (builder, network, logger, parser), all of which must live as long as the network. Raises `BackendError`
    with the parser's own words.
    """
    trt = flavour.load()
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.read_bytes()):
        reasons = [parser.get_error(index) for index in range(parser.num_errors)]
        told = f"{reasons[0].desc()} (node {reasons[0].node_name()})" if reasons else logger.reason()
        raise BackendError(f"{flavour.title} cannot parse {graph.name}: {' '.join(told.split())[:400]}")
    return builder, network, logger, parser


def _build_engine(flavour: Flavour, graph: Path, card: Card, capabilities: Sequence[str]) -> bytes:
    trt = flavour.load()
    builder, network, logger, _parser = parse_graph(flavour, graph)
    config = builder.create_builder_config()
    if flavour.ahead_of_time:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            name = f"SM{capability.replace('.', '')}"
            if name not in trt.ComputeCapability.__members__:
                known = [f"{n[2:-1]}.{n[-1]}" for n in trt.ComputeCapability.__members__ if n.startswith("SM")]
                raise BackendError(
                    f"{flavour.title} builds nothing for compute capability {capability}; it knows {', '.join(known)}"
                )
            config.set_compute_capability(trt.ComputeCapability.__members__[name], index)
    profile = builder.create_optimization_profile()
    shape = card.input_shape
    profile.set_shape(INPUT_NAME, (1, *shape), (1, *shape), (MAX_BATCH, *shape))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BackendError(
            f"{flavour.title} could not build the engine for compute capability {', '.join(capabilities)}: "
            f"{logger.reason()}; try --fp16, or other compute capabilities"
        )
    return bytes(engine)


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps errors for our own messages instead of printing them."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

        def reason(self) -> str:
            return " ".join(self.errors[0].split())[:400] if self.errors else "no reason given"

    return Logger()


def _cuda(function: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime; return its result. Raises `BackendError` with CUDA's own words."""
    from cuda.bindings import runtime as cudart

    status, *result = getattr(cudart, function)(*arguments)
    if status != cudart.cudaError_t.cudaSuccess:
        _, text = cudart.cudaGetErrorString(status)
        raise BackendError(f"CUDA: {function} failed: {text.decode() if isinstance(text, bytes) else text}")
    return result[0] if result else None


def _capabilities(device: str | None) -> tuple[str, ...]:
    if device is None:
        return DEFAULT_CAPABILITIES
    capabilities = tuple(part.strip() for part in device.split(","))
    for capability in capabilities:
        major, dot, minor = capability.partition(".")
        if not (major.isdigit() and dot and minor.isdigit()):
            raise UsageError(f"{capability!r} is no compute capability; write them as 8.6,8.9")
    return capabilities


def _refuse_engine(device: str | None) -> None:
    if device is not None:
        raise BackendError(
            f"an engine for compute capability {device} can be built ahead of time by TensorRT-RTX only: "
            "pip install 'edgecls[tensorrt-rtx]'; without --device the bundle is portable and the device builds its own"
        )


def _engine_prefix(flavour: Flavour, graph_digest: str) -> str:
    return f"{graph_digest[:16]}-{flavour.module}-{flavour.version()}"


def _engine_path(folder: Path, flavour: Flavour, graph_digest: str, capabilities: Sequence[str]) -> Path:
    return folder / ENGINES_FOLDER / f"{_engine_prefix(flavour, graph_digest)}-sm{'+'.join(capabilities)}.engine"


BACKEND = TensorRtBackend()
