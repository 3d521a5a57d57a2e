"""TensorRT 10 and 11, and TensorRT-RTX. The bundle's portable part is the ONNX graph; engines beside it are a cache.

Precision lives in the graph (strongly typed networks), which every flavour takes. What stands behind this backend is in
`edgecls/backends/nvidia/`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.backends.base import Backend, BuildOptions, Layer, Session, missing_package
from edgecls.backends.nvidia import cuda
from edgecls.backends.nvidia.engines import DEFAULT_BATCH, EngineCache, Plan, capabilities, plan_here
from edgecls.backends.nvidia.flavours import INSTALL, Flavour, installed_flavours
from edgecls.backends.onnx_graph import embed_card, graph_layers, quantizer_faults
from edgecls.card import Card, Runtime
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
    stand_in = "onnx"

    def version(self) -> str | None:
        """Title and version of each installed flavour."""
        found = [f"{flavour.title} {flavour.version()}" for flavour in installed_flavours()]
        return ", ".join(found) or None

    def available(self) -> str | None:
        """See `Backend.available`."""
        if not installed_flavours():
            return f"TensorRT is not installed: {INSTALL}"
        return cuda.obstacle()

    def buildable(self) -> str | None:
        """The portable bundle needs onnx alone; engines are built where a flavour is installed."""
        return missing_package("onnx", "train", "exporting")

    def _check_options(self, options: BuildOptions) -> None:
        capabilities(options.device)
        batch = options.batch
        if batch is not None and not 1 <= batch[0] <= batch[1] <= batch[2]:
            raise UsageError(f"--batch is MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX, not {','.join(map(str, batch))}")
        if options.workspace_mib is not None and options.workspace_mib < 1:
            raise UsageError(f"--workspace is in MiB and at least 1, not {options.workspace_mib}")

    def _build(self, graph: Path, card: Card, out: Path, options: BuildOptions) -> tuple[Runtime, list[str]]:
        if faults := quantizer_faults(graph):
            raise BackendError(
                f"TensorRT takes signed, symmetric quantizers only, and {len(faults)} are not: {faults[0]}; "
                "export again with the recipe for TensorRT"
            )
        portable = out / MODEL_FILE
        embed_card(graph, card, portable)
        runtime = Runtime(self.name, "", batch=options.batch, workspace_mib=options.workspace_mib)
        plan = _plan_ahead(card, runtime, options.device)
        if plan is None:
            note = "the device builds the engine on first use"
            return Runtime(**{**vars(runtime), "note": note}), [MODEL_FILE]
        EngineCache(portable).obtain(plan)
        built_for = f"compute capability {', '.join(plan.capabilities)}" if plan.gpu is None else plan.gpu
        note = f"engine built for {built_for}; other GPUs build theirs on first use"
        built = {"version": plan.flavour.version(), "device": ",".join(plan.capabilities), "note": note}
        return Runtime(**{**vars(runtime), "name": plan.flavour.module, **built}), [MODEL_FILE]

    def needs_preparing(self, place: Path, card: Card) -> bool:
        """Whether no engine for this machine's GPU is there."""
        if self.available() is not None:
            return False
        return EngineCache(place / card.model_file).find(_plan_here(card)) is None

    def prepare(
        self, place: Path, card: Card, device: str | None = None, tell: Callable[[str], None] = lambda _: None
    ) -> list[Path]:
        """The engine for this machine's GPU, or with `device` for compute capabilities, which TensorRT-RTX can."""
        if not installed_flavours():
            raise BackendError(str(self.available()))
        plan = _plan_ahead(card, card.runtime, device) if device else _plan_here(card)
        cache = EngineCache(place / card.model_file)
        if plan is None:  # cannot be: `_plan_ahead` with a device plans or raises
            return []
        cache.obtain(plan, tell)
        return [path] if (path := cache.find(plan)) else []

    def _open(self, file: Path, card: Card, threads: int | None) -> Session:  # noqa: ARG002
        from edgecls.backends.nvidia.session import TensorRtSession

        return TensorRtSession(self._engine(file, card), card, _batch(card.runtime))

    def _engine(self, file: Path, card: Card) -> Engine:
        """The engine for this machine, loaded; one that TensorRT refuses all the same is built anew, once."""
        from edgecls.backends.nvidia.session import Engine

        plan, cache = _plan_here(card), EngineCache(file)
        runtime_cache = cache.path(plan).with_suffix(".jit")
        try:
            return Engine(plan.flavour, cache.obtain(plan), runtime_cache)
        except BackendError:
            if cache.find(plan) is None:
                raise
            cache.discard(plan)
            return Engine(plan.flavour, cache.obtain(plan), runtime_cache)

    def bundle_of(self, file: Path) -> Path | None:
        """See `Backend.bundle_of`: engines lie in a folder of their bundle."""
        return file.parent.parent if file.suffix == ".engine" else None

    def layers(self, place: Path, card: Card, images: NDArray[uint8]) -> list[Layer]:
        """What the inspector says of the engine; without a GPU, what the graph asks TensorRT to compute in."""
        file = place / card.model_file if place.is_dir() else place
        if self.available() is not None:
            return graph_layers(file)
        from edgecls.backends.nvidia.layers import engine_layers

        return engine_layers(self._engine(file, card), card, images)


def _batch(runtime: Runtime | None) -> tuple[int, int, int]:
    """The card's range of batch sizes. JSON knows no tuples."""
    if runtime is None or runtime.batch is None:
        return DEFAULT_BATCH
    smallest, usual, largest = runtime.batch
    return smallest, usual, largest


def _plan_here(card: Card) -> Plan:
    workspace = card.runtime.workspace_mib if card.runtime else None
    [flavour, *_] = installed_flavours()
    return plan_here(flavour, input_shape=card.input_shape, batch=_batch(card.runtime), workspace_mib=workspace)


def _plan_ahead(card: Card, runtime: Runtime | None, device: str | None) -> Plan | None:
    """What an export builds: for this machine's GPU with TensorRT, else for compute capabilities with TensorRT-RTX.

    None where neither can be. Raises `BackendError` where `device` asks for what cannot be.
    """
    workspace = runtime.workspace_mib if runtime else None
    options = {"input_shape": card.input_shape, "batch": _batch(runtime), "workspace_mib": workspace}
    wanted, gpu = capabilities(device), cuda.gpu()
    here: list[Flavour] = [] if gpu is None or device not in (None, gpu.capability) else installed_flavours()[:1]
    if here and not here[0].ahead_of_time:
        return plan_here(here[0], **options)
    if ahead := [flavour for flavour in installed_flavours() if flavour.ahead_of_time]:
        return Plan(ahead[0], wanted, None, **options)  # type: ignore[arg-type]
    if device is not None:
        raise BackendError(
            f"an engine for compute capability {device} can be built ahead of time by TensorRT-RTX only: "
            "pip install 'edgecls[tensorrt-rtx]'; without --device the bundle is portable and the device builds its own"
        )
    return None


BACKEND = TensorRtBackend()
