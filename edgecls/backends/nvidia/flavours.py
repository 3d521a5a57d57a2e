"""TensorRT 10 and 11 (`tensorrt`) and TensorRT-RTX (`tensorrt_rtx`): the table of their differences, and what is alike.

Networks are strongly typed: precision stands in the graph. That is the one form that all of them take; TensorRT 11 has
removed the builder flags and calibrators that older programs use.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from edgecls.backends.base import OnProgress
from edgecls.errors import BackendError


@dataclass(frozen=True)
class Flavour:
    """One of NVIDIA's packages.

    `ahead_of_time`: builds on a machine without a GPU, for compute capabilities that are named. `timing_cache`: it
    measures kernels while it builds and can keep what it measured. `compiles_on_device`: it finishes the engine on the
    device, where a runtime cache keeps the result, and captures CUDA graphs itself.
    """

    module: str
    title: str
    ahead_of_time: bool
    timing_cache: bool
    compiles_on_device: bool

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


FLAVOURS = (
    Flavour("tensorrt", "TensorRT", ahead_of_time=False, timing_cache=True, compiles_on_device=False),
    Flavour("tensorrt_rtx", "TensorRT-RTX", ahead_of_time=True, timing_cache=False, compiles_on_device=True),
)
INSTALL = (
    "pip install 'edgecls[tensorrt-rtx]', or NVIDIA's TensorRT (on a Jetson it comes with JetPack: "
    "pip install 'edgecls[jetpack]', else pip install 'edgecls[tensorrt]')"
)


def installed_flavours() -> list[Flavour]:
    """The flavours that are installed, full TensorRT first."""
    return [flavour for flavour in FLAVOURS if importlib.util.find_spec(flavour.module)]


def logger_for(trt: Any) -> Any:
    """A logger that keeps errors for our own messages instead of printing them; `reason()` is the first."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        """See `logger_for`."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

        def reason(self) -> str:
            return " ".join(self.errors[0].split())[:400] if self.errors else "no reason given"

    return Logger()


def monitor_for(trt: Any, on_progress: OnProgress) -> Any:
    """A progress monitor that tells each phase of a build and its share, such as "Building Engine 40 %"."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """See `monitor_for`. TensorRT calls it from several threads."""

        def __init__(self) -> None:
            super().__init__()
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            self._steps[phase_name] = num_steps
            on_progress(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            steps = self._steps.get(phase_name, 0)
            if steps > 1:
                on_progress(f"{phase_name} {100 * (step + 1) // steps} %")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def _strongly_typed(trt: Any) -> int:
    """The flag for strongly typed networks; without such a flag there are no others."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def parse_graph(flavour: Flavour, graph: Path) -> tuple[Any, ...]:
    """Parse an ONNX file with the real parser into a strongly typed network.

    Returns (builder, network, logger, parser), all of which must live as long as the network. Raises `BackendError`
    with the parser's own words, the node's name and what to do.
    """
    trt = flavour.load()
    logger = logger_for(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.read_bytes()):
        reasons = [parser.get_error(index) for index in range(parser.num_errors)]
        message = f"{reasons[0].desc()} (node {reasons[0].node_name()})" if reasons else logger.reason()
        raise BackendError(
            f"{flavour.title} cannot parse {graph.name}: {' '.join(message.split())[:400]}; "
            "replace that operator in the network, or deploy with `target` onnx"
        )
    return builder, network, logger, parser
