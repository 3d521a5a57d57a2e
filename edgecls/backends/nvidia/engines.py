"""Engines: built where they run, kept beside the bundle, and never loaded where they do not fit.

An engine fits one graph, flavour, version, kind of GPU and range of batch sizes. Its file name says all of these, and a
note beside it holds its SHA-256; a file that does not match is built anew.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgecls.artifact.card import INPUT_NAME
from edgecls.backends.base import OnProgress
from edgecls.backends.nvidia.flavours import Flavour, monitor_for, parse_graph
from edgecls.errors import BackendError, MissingExtraError, OutputError, UsageError
from edgecls.files import make_folder, sha256, write_bytes, write_text

ENGINES_FOLDER = "engines"
DEFAULT_BATCH = (1, 1, 8)
"""Smallest, most frequent and largest batch that an engine is built for: a camera gives one image at a time."""
DEFAULT_CAPABILITIES = ("8.6", "8.9", "12.0")
"""Ampere, Ada and Blackwell, for which TensorRT-RTX builds unless told otherwise; on Turing (7.5) it lacks float32."""
LOCK_TIMEOUT_S = 3600.0
"""Building on a small Jetson takes minutes; after an hour the other process is taken to be stuck."""


@dataclass(frozen=True)
class Plan:
    """What an engine is built with and for.

    `gpu` is the GPU's name, or None for every GPU of these compute capabilities, which TensorRT-RTX alone can do.
    `input_shape` is that of one raw image (height, width, 3), `batch` the smallest, most frequent and largest number of
    them.
    """

    flavour: Flavour
    capabilities: tuple[str, ...]
    gpu: str | None
    input_shape: tuple[int, int, int]
    batch: tuple[int, int, int] = DEFAULT_BATCH
    workspace_mib: int | None = None

    @property
    def device_key(self) -> str:
        """The part of an engine's name that says where it runs."""
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", self.gpu).strip("-") if self.gpu else "any"
        return f"{self.flavour.module}-{self.flavour.version()}-{gpu}-sm{'+'.join(self.capabilities)}"

    @property
    def shapes(self) -> str:
        """The part of an engine's name that says what it takes."""
        workspace = f"-w{self.workspace_mib}" if self.workspace_mib else ""
        return f"b{'-'.join(map(str, self.batch))}{workspace}"


class EngineCache:
    """The engines of one graph. They lie beside it, or under `~/.cache/edgecls` where nothing can be written there."""

    def __init__(self, graph: Path):
        self._graph = graph

    @cached_property
    def folder(self) -> Path:
        """Where engines are kept."""
        beside = self._graph.parent / ENGINES_FOLDER
        if os.access(beside if beside.exists() else beside.parent, os.W_OK):
            return beside
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return root / "edgecls" / ENGINES_FOLDER

    @cached_property
    def _digest(self) -> str:
        return sha256(self._graph)

    def path(self, plan: Plan) -> Path:
        """Where the engine of this plan lies, or would."""
        return self.folder / f"{self._digest[:16]}-{plan.device_key}-{plan.shapes}.engine"

    def find(self, plan: Plan) -> Path | None:
        """An intact engine that runs where the plan says: its own, or one built ahead of time for more GPUs."""
        own = self.path(plan)
        for path in (own, *self._shared(plan)):
            if _is_intact(path):
                return path
        return None

    def _shared(self, plan: Plan) -> Iterator[Path]:
        """Engines built ahead of time for several kinds of GPUs, all of the plan's among them."""
        flavour = plan.flavour
        prefix = f"{self._digest[:16]}-{flavour.module}-{flavour.version()}-any-sm"
        for folder in dict.fromkeys((self._graph.parent / ENGINES_FOLDER, self.folder)):
            for path in sorted(folder.glob(f"{prefix}*-{plan.shapes}.engine")):
                built_for = path.name.removeprefix(prefix).removesuffix(f"-{plan.shapes}.engine").split("+")
                if set(plan.capabilities) <= set(built_for):
                    yield path

    def obtain(self, plan: Plan, on_progress: OnProgress = lambda _: None) -> bytes:
        """The engine of this plan, from the cache or built now; of processes that start together one builds.

        Where it cannot be kept it is built for this time only. Raises `BackendError` where TensorRT cannot build it.
        """
        if path := self.find(plan):
            return path.read_bytes()
        try:
            make_folder(self.folder)
            with _lock(self.folder, on_progress):
                if path := self.find(plan):
                    return path.read_bytes()
                engine = self._build(plan, on_progress)
                self._keep(plan, engine)
                return engine
        except OutputError as error:
            on_progress(f"the engine cannot be kept ({error})")
            return self._build(plan, on_progress)

    def discard(self, plan: Plan) -> None:
        """Forget the engine of this plan, so that it is built anew."""
        if path := self.find(plan):
            path.unlink(missing_ok=True)
            _note(path).unlink(missing_ok=True)

    def _build(self, plan: Plan, on_progress: OnProgress) -> bytes:
        timing = self.folder / f"{plan.device_key}.timing"
        known = timing.read_bytes() if timing.is_file() else b""
        engine, measured = build_engine(self._graph, plan, known, on_progress)
        if measured and measured != known and timing.parent.is_dir():
            write_bytes(timing, measured)
        return engine

    def _keep(self, plan: Plan, engine: bytes) -> None:
        """Write the engine, then the note without which it does not count; drop engines of graphs that are gone."""
        import hashlib

        path = self.path(plan)
        write_bytes(path, engine)
        write_text(_note(path), json.dumps({"sha256": hashlib.sha256(engine).hexdigest()}) + "\n")
        if self.folder.parent == self._graph.parent:
            for stale in self.folder.glob("*.engine"):
                if not stale.name.startswith(self._digest[:16]):
                    stale.unlink(missing_ok=True)
                    _note(stale).unlink(missing_ok=True)


def _note(engine: Path) -> Path:
    return engine.with_name(f"{engine.name}.json")


def _is_intact(engine: Path) -> bool:
    try:
        return bool(json.loads(_note(engine).read_text())["sha256"] == sha256(engine))
    except (OSError, ValueError, KeyError, TypeError):
        return False


@contextmanager
def _lock(folder: Path, on_progress: OnProgress) -> Iterator[None]:
    try:
        from filelock import FileLock, Timeout
    except ImportError as error:
        raise MissingExtraError("filelock", "tensorrt-rtx", "building engines") from error
    lock = FileLock(folder / ".lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_progress("another process is building; waiting for it")
            lock.acquire(timeout=LOCK_TIMEOUT_S)
    except Timeout as error:
        raise BackendError(
            f"another process has held {lock.lock_file} for an hour; end it, or delete the file"
        ) from error
    except OSError as error:
        raise OutputError(f"cannot write {lock.lock_file}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def build_engine(
    graph: Path, plan: Plan, timing: bytes = b"", on_progress: OnProgress = lambda _: None
) -> tuple[bytes, bytes]:
    """Build a graph's engine; returns it and what was measured of kernels, to be given as `timing` the next time.

    Raises `BackendError` with TensorRT's own words.
    """
    flavour = plan.flavour
    trt = flavour.load()
    builder, network, logger, _parser = parse_graph(flavour, graph)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, it rounds float32 to 10 bits of mantissa
    monitor = monitor_for(trt, on_progress)
    config.progress_monitor = monitor
    if plan.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace_mib << 20)
    if flavour.ahead_of_time:
        config.num_compute_capabilities = len(plan.capabilities)
        for index, capability in enumerate(plan.capabilities):
            config.set_compute_capability(_capability(trt, flavour, capability), index)
    if flavour.timing_cache:
        config.set_timing_cache(config.create_timing_cache(timing), ignore_mismatch=False)
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT_NAME, *((count, *plan.input_shape) for count in plan.batch))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        remedy = "try fp16, or other compute capabilities"
        if "memory" in logger.reason().lower():
            remedy = "free some of its memory, or export with a smaller `batch` or `workspace_mib`"
        raise BackendError(
            f"{flavour.title} could not build the engine for compute capability {', '.join(plan.capabilities)}: "
            f"{logger.reason()}; {remedy}"
        )
    # A timing cache from elsewhere is not taken, and then there is none to give out.
    cache = config.get_timing_cache() if flavour.timing_cache else None
    return bytes(engine), bytes(cache.serialize()) if cache else b""


def _capability(trt: Any, flavour: Flavour, capability: str) -> Any:
    known = trt.ComputeCapability.__members__
    name = f"SM{capability.replace('.', '')}"
    if name not in known:
        listed = ", ".join(f"{each[2:-1]}.{each[-1]}" for each in known if each.startswith("SM"))
        raise BackendError(f"{flavour.title} builds nothing for compute capability {capability}; it knows {listed}")
    return known[name]


def capabilities(given: str | None) -> tuple[str, ...]:
    """Compute capabilities as people write them, "8.6,8.9". Raises `UsageError`."""
    if given is None:
        return DEFAULT_CAPABILITIES
    parts = tuple(part.strip() for part in given.split(","))
    for part in parts:
        major, dot, minor = part.partition(".")
        if not (major.isdigit() and dot and minor.isdigit()):
            raise UsageError(f"`device`: {part!r} is no compute capability; write them as 8.6,8.9")
    return parts
