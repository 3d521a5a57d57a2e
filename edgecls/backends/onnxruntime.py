"""ONNX Runtime on the processor: the backend that every install has."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.artifact.card import EMBEDDED_KEY, INPUT_NAME, OUTPUT_NAME, Card, Runtime
from edgecls.artifact.terms import InnerTensor
from edgecls.backends.base import (
    LOW_LATENCY,
    PROCESSORS,
    PROFILED_RUNS,
    Backend,
    BuildOptions,
    EntryFor,
    Layer,
    OnProgress,
    Parallelism,
    Session,
    missing_package,
)
from edgecls.backends.inner_tensors import with_outputs
from edgecls.backends.onnx_graph import embed_card
from edgecls.cache import Entry
from edgecls.concurrency import usable_cpus
from edgecls.errors import ArtifactError, UsageError, first_line

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

MODEL_FILE = "model.onnx"
TYPES = {"uint8": "int8", "int8": "int8", "float": "fp32", "float16": "fp16"}
WEIGHTED = (
    "Conv",
    "FusedConv",
    "QLinearConv",
    "NhwcFusedConv",
    "Gemm",
    "FusedGemm",
    "QGemm",
    "MatMul",
    "QLinearMatMul",
)


class OnnxRuntimeSession(Session):
    """One `InferenceSession`, which several threads may run at once: each of them is a stream."""

    def __init__(
        self,
        file: Path,
        card: Card,
        parallelism: Parallelism,
        optimized: Entry | None = None,
        exact: bool = False,
        tensors: tuple[InnerTensor, ...] = (),
    ):
        super().__init__(card)
        self.tensors = tensors
        self._outputs = [OUTPUT_NAME, *(card.inner_tensors[kind] for kind in tensors)]
        threads = parallelism.threads or usable_cpus()
        streams = parallelism.streams or threads
        share = parallelism.threads if streams == 1 else max(1, threads // streams)
        create = partial(_create, threads=share, spinning=parallelism.spinning, as_it_is=exact)
        model = with_outputs(file.read_bytes(), self._outputs[1:]) if tensors else file
        self._session = _created_once(model, create, optimized) if optimized else create(model)
        self._pool = ThreadPoolExecutor(streams, "edgecls-stream") if streams > 1 else None
        if streams > 1:
            self.depth = streams + 1  # what waits hides pre- and postprocessing

    def _infer(self, images: NDArray[uint8]) -> NDArray[float32]:
        return self._infer_all(images)[0]

    def _infer_all(self, images: NDArray[uint8]) -> tuple[NDArray[Any], ...]:
        return tuple(self._session.run(self._outputs, {INPUT_NAME: images}))

    def _start_all(self, images: NDArray[uint8]) -> Callable[[], tuple[NDArray[Any], ...]]:
        if self._pool is not None:
            return self._pool.submit(self._infer_all, images).result
        outputs = self._infer_all(images)
        return lambda: outputs

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._session = None


class OnnxRuntimeBackend(Backend):
    """ONNX files, run by ONNX Runtime's CPU provider."""

    name = "onnx"
    package = "onnxruntime"
    precisions = ("fp32", "fp16", "int8")
    bare_suffix = ".onnx"
    in_every_install = True
    in_triton = "onnxruntime"
    in_triton_on_gpu = True
    in_model_server = True
    gives_inner_tensors = True

    def buildable(self) -> str | None:
        """See `Backend.buildable`."""
        return missing_package("onnx", "train", "exporting") or super().buildable()

    def read_embedded(self, file: Path) -> Card:
        """See `Backend.read_embedded`."""
        metadata = _create(file, threads=1).get_modelmeta().custom_metadata_map
        return Card.from_embedded(metadata.get(EMBEDDED_KEY), str(file))

    def open_exact(self, graph: Path, card: Card) -> Session:
        """See `Backend.open_exact`. Left as it is, a graph computes each layer in float between its quantizers."""
        return OnnxRuntimeSession(graph, card, LOW_LATENCY, exact=True)

    def _check_device(self, device: str | None) -> None:
        if device is not None and device not in PROCESSORS:
            raise UsageError(f"`device`: target onnx has no device {device!r}; choose {', '.join(PROCESSORS)}")

    def _layers(self, file: Path, card: Card, images: NDArray[uint8]) -> list[Layer]:  # noqa: ARG002
        """The precision is that of what a node takes in."""
        import tempfile

        with tempfile.TemporaryDirectory(prefix="edgecls-") as scratch:
            session = _create(file, threads=None, profile=str(Path(scratch) / "profile"))
            for _ in range(1 + PROFILED_RUNS):
                session.run([OUTPUT_NAME], {INPUT_NAME: images})
            steps = node_events(session)
        first_run, timed = steps[: len(steps) // (1 + PROFILED_RUNS)], steps[len(steps) // (1 + PROFILED_RUNS) :]
        total_us: dict[str, float] = {}
        for event in timed:
            total_us[event["name"]] = total_us.get(event["name"], 0.0) + event["dur"]
        return [_layer(event, total_us[event["name"]] / 1000 / PROFILED_RUNS) for event in first_run]

    def _open(self, file: Path, card: Card, parallelism: Parallelism, on_progress: OnProgress) -> Session:  # noqa: ARG002
        return OnnxRuntimeSession(file, card, parallelism)

    def _open_with(self, tensors: tuple[InnerTensor, ...], file: Path, card: Card, parallelism: Parallelism) -> Session:
        return OnnxRuntimeSession(file, card, parallelism, tensors=tensors)

    def _open_cached(
        self, file: Path, card: Card, parallelism: Parallelism, entry: EntryFor, tensors: tuple[InnerTensor, ...]
    ) -> Session:
        return OnnxRuntimeSession(file, card, parallelism, entry(), tensors=tensors)

    def _build(self, graph: Path, card: Card, out: Path, options: BuildOptions) -> tuple[Runtime, list[str]]:
        embed_card(graph, card, out / MODEL_FILE)
        return Runtime(self.package, self.version() or "", options.device or ""), [MODEL_FILE]


def node_events(session: Any) -> list[dict[str, Any]]:
    """End a session's profiling; the events of its nodes, in the order in which they ran, by the node's name."""
    import json

    events = json.loads(Path(session.end_profiling()).read_text())
    timed = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    return [{**event, "name": event["name"].removesuffix("_kernel_time")} for event in timed]


def _layer(event: dict[str, Any], time_ms: float) -> Layer:
    kind = event["args"]["op_name"]
    types = [kind_of for tensor in event["args"].get("input_type_shape", ()) for kind_of in tensor]
    return Layer(event["name"], kind, TYPES.get(types[0] if types else "", "other"), time_ms, kind in WEIGHTED)


def _created_once(model: Path | bytes, create: Callable[..., Any], optimized: Entry) -> Any:
    """A session on the graph as ONNX Runtime rewrote it for this processor, which is kept: that takes half of the time
    of opening. The same code computes the same scores.
    """
    import tempfile

    if content := optimized.read():
        try:
            return create(content, as_it_is=True)
        except ArtifactError:
            optimized.discard()
    try:
        with tempfile.TemporaryDirectory(prefix="edgecls-") as scratch:
            rewritten = Path(scratch) / MODEL_FILE
            session = create(model, write_to=rewritten)
            optimized.write(rewritten.read_bytes())
            return session
    except (ArtifactError, OSError):  # no room for the rewritten graph
        return create(model)


def _create(
    model: Path | bytes,
    threads: int | None,
    profile: str | None = None,
    spinning: bool = True,
    as_it_is: bool = False,
    write_to: Path | None = None,
) -> Any:
    """A session on a file or its content: `as_it_is` without rewriting the graph, which else can be written to a file.

    Raises `ArtifactError`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what matters is told as an exception
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    if as_it_is:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if write_to:
        options.optimized_model_filepath = str(write_to)
    try:
        source = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # ONNX Runtime's exceptions share no base class of their own.
        shown = "a cached graph" if isinstance(model, bytes) else model
        raise ArtifactError(f"ONNX Runtime cannot open {shown} ({first_line(error)}); export again") from error


BACKEND = OnnxRuntimeBackend()
