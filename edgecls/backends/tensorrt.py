"""TensorRT 10 and 11, and TensorRT-RTX. The bundle's portable part is the ONNX graph; engines beside it are a cache.

Precision lives in the graph (strongly typed networks), which every flavour takes. What stands behind this backend is in
`edgecls/backends/nvidia/`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.artifact.card import Card, Runtime
from edgecls.backends.base import Backend, BuildOptions, Layer, OnProgress, Parallelism, Session, missing_package
from edgecls.backends.nvidia import cuda
from edgecls.backends.nvidia.engines import DEFAULT_BATCH, EngineCache, Plan, capabilities
from edgecls.backends.nvidia.flavours import INSTALL, Flavour, installed_flavours
from edgecls.backends.onnx_graph import embed_card, graph_layers, quantizer_faults
from edgecls.errors import BackendError, UsageError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

    from edgecls.backends.nvidia.session import Engine

MODEL_FILE = "model.onnx"


class TensorRtBackend(Backend):
    """An ONNX graph for TensorRT, and engines built from it."""

    name = "tensorrt"
    package = "tensorrt"
    extra = "tensorrt-rtx"
    precisions = ("fp32", "fp16", "int8")
    fallback = "onnx"

    def version(self) -> str | None:
        """Title and version of each installed flavour."""
        installed = [f"{flavour.title} {flavour.version()}" for flavour in installed_flavours()]
        return ", ".join(installed) or None

    def available(self) -> str | None:
        """See `Backend.available`."""
        if not installed_flavours():
            return f"TensorRT is not installed: {INSTALL}"
        return cuda.unavailable_reason()

    def buildable(self) -> str | None:
        """The portable bundle needs onnx alone; engines are built where a flavour is installed."""
        return missing_package("onnx", "train", "exporting")

    def _check_options(self, options: BuildOptions) -> None:
        capabilities(options.device)
        batch = options.batch
        if batch is not None and not 1 <= batch[0] <= batch[1] <= batch[2]:
            raise UsageError(f"`batch` is MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX, not {','.join(map(str, batch))}")
        if options.workspace_mib is not None and options.workspace_mib < 1:
            raise UsageError(f"`workspace_mib` is in MiB and at least 1, not {options.workspace_mib}")

    def _build(self, graph: Path, card: Card, out: Path, options: BuildOptions) -> tuple[Runtime, list[str]]:
        if faults := quantizer_faults(graph):
            raise BackendError(
                f"TensorRT takes signed, symmetric quantizers only, and {len(faults)} are not: {faults[0]}; "
                "export again with the recipe for TensorRT"
            )
        portable = out / MODEL_FILE
        embed_card(graph, card, portable)
        runtime = Runtime(self.name, "", batch=options.batch, workspace_mib=options.workspace_mib)
        plan = _plan_for_export(replace(card, runtime=runtime), options.device)
        if plan is None:
            return replace(runtime, note="the device builds the engine on first use"), [MODEL_FILE]
        EngineCache(portable).obtain(plan)
        built_for = f"compute capability {', '.join(plan.capabilities)}" if plan.gpu is None else plan.gpu
        note = f"engine built for {built_for}; other GPUs build theirs on first use"
        flavour, device = plan.flavour, ",".join(plan.capabilities)
        return replace(runtime, name=flavour.module, version=flavour.version(), device=device, note=note), [MODEL_FILE]

    def prepare(
        self, folder: Path, card: Card, device: str | None = None, on_progress: OnProgress = lambda _: None
    ) -> list[Path]:
        """The engine for this machine's GPU, or with `device` for compute capabilities, which TensorRT-RTX can."""
        if not installed_flavours():
            raise BackendError(str(self.available()))
        plan = _plan_here(card) if device is None else _plan_for(card, device)
        cache = EngineCache(folder / card.model_file)
        cache.obtain(plan, on_progress)
        return [path] if (path := cache.find(plan)) else []

    def _open(self, file: Path, card: Card, parallelism: Parallelism, on_progress: OnProgress) -> Session:  # noqa: ARG002
        from edgecls.backends.nvidia.session import TensorRtSession

        return TensorRtSession(_load_engine(file, card, on_progress), card, _batch(card))

    def bundle_of(self, file: Path) -> Path | None:
        """See `Backend.bundle_of`: engines lie in a folder of their bundle."""
        return file.parent.parent if file.suffix == ".engine" else None

    def layers(self, path: Path, card: Card, images: NDArray[uint8]) -> list[Layer]:
        """What the inspector says of the engine; without a GPU, what the graph asks TensorRT to compute in."""
        if self.available() is not None:
            return graph_layers(path / card.model_file)
        return super().layers(path, card, images)

    def _layers(self, file: Path, card: Card, images: NDArray[uint8]) -> list[Layer]:
        from edgecls.backends.nvidia.layers import engine_layers

        return engine_layers(_load_engine(file, card), card, images)


def _load_engine(file: Path, card: Card, on_progress: OnProgress = lambda _: None) -> Engine:
    """The engine for this machine's GPU; one that TensorRT refuses all the same is built anew, once."""
    from edgecls.backends.nvidia.session import Engine

    plan, cache = _plan_here(card), EngineCache(file)
    runtime_cache = cache.path(plan).with_suffix(".jit")
    try:
        return Engine(plan.flavour, cache.obtain(plan, on_progress), runtime_cache)
    except BackendError:
        if cache.find(plan) is None:
            raise
        cache.discard(plan)
        return Engine(plan.flavour, cache.obtain(plan, on_progress), runtime_cache)


def _batch(card: Card) -> tuple[int, int, int]:
    """The card's range of batch sizes. JSON knows no tuples."""
    if card.runtime is None or card.runtime.batch is None:
        return DEFAULT_BATCH
    smallest, usual, largest = card.runtime.batch
    return smallest, usual, largest


def _plan(card: Card, flavour: Flavour, built_for: tuple[str, ...], gpu: str | None) -> Plan:
    workspace = card.runtime.workspace_mib if card.runtime else None
    return Plan(flavour, built_for, gpu, card.input_shape, _batch(card), workspace)


def _plan_here(card: Card) -> Plan:
    """The plan for this machine's GPU. Raises `BackendError` where there is none."""
    [flavour, *_] = installed_flavours()
    gpu = cuda.gpu()
    if gpu is None:
        ahead = "; without one, name the GPUs to build for: `compute_capability` 8.9" if flavour.ahead_of_time else ""
        raise BackendError(f"there is no GPU to build an engine for: {cuda.unavailable_reason()}{ahead}")
    return _plan(card, flavour, (gpu.capability,), gpu.name)


def _plan_for(card: Card, device: str | None) -> Plan:
    """The plan for compute capabilities, whatever GPU is here. Raises `BackendError` where TensorRT-RTX is missing."""
    for flavour in installed_flavours():
        if flavour.ahead_of_time:
            return _plan(card, flavour, capabilities(device), None)
    raise BackendError(
        f"an engine for compute capability {device} can be built ahead of time by TensorRT-RTX only: "
        "pip install 'edgecls[tensorrt-rtx]'; without `device` the bundle is portable and the device builds its own"
    )


def _plan_for_export(card: Card, device: str | None) -> Plan | None:
    """What an export builds: for this machine's GPU with TensorRT, else for compute capabilities with TensorRT-RTX.

    None where neither can be. Raises `BackendError` where `device` asks for what cannot be.
    """
    gpu, flavours = cuda.gpu(), installed_flavours()
    if gpu and flavours and not flavours[0].ahead_of_time and device in (None, gpu.capability):
        return _plan_here(card)
    if device is None and not any(flavour.ahead_of_time for flavour in flavours):
        return None
    return _plan_for(card, device)


BACKEND = TensorRtBackend()
