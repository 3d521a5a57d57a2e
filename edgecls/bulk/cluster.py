"""The engine of many machines: actors of a Ray cluster, each with a session, make parts.

A plain loop over Ray's actors, and not Ray Data: a shard is read, answered and written by one call, so that there is
nothing to exchange between machines, and Ray Data would wait for the machines of lost actors. An actor that dies gives
its shards back and another one takes its place as soon as there is room; nobody waits for it.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import socket
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import edgecls
from edgecls.artifact.card import CARD_FILE
from edgecls.bulk.config import Answering, BulkConfig
from edgecls.bulk.engine import Engine, open_model
from edgecls.bulk.parts import Count
from edgecls.bulk.shards import Shard, from_json
from edgecls.bulk.stores import is_uri
from edgecls.bulk.worker import SHARDS_AT_ONCE, Work, Worker
from edgecls.errors import BackendError, DataError, EdgeclsError, MissingExtraError, UsageError, first_line
from edgecls.files import write_bytes
from edgecls.runtime.store import Artifact, candidates

WORKER_CPUS = 1
"""Of one session: threads of one process share Python's lock, which a part of each image needs."""
TRIES = 4
"""Of a shard whose actors die."""
CONNECT_S = 5.0
NO_WORKER_S = 300.0
"""How long the cluster may be without any actor."""
_OPENING = "opening the model"
logger = logging.getLogger(__name__)


class Actor:
    """A worker in a process of its own, on any machine. It opens its model from the files that it is sent."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._files = tempfile.TemporaryDirectory(prefix="edgecls-")

    def open(self, work: Work, files: Mapping[str, bytes], folder: str) -> str:
        """Open the session; return the version of edgecls. `folder` is what local paths are relative to."""
        for needed in (folder, *([] if is_uri(work.out) else [work.out])):
            if not Path(needed).is_dir():
                raise DataError(
                    f"{needed} is not on the machine {platform.node()}; give URIs, or a folder that all share"
                )
        os.chdir(folder)
        path = Path(self._files.name)
        for name, content in files.items():
            write_bytes(path / name, content)
        model = path if CARD_FILE in files else path / next(iter(files))
        threads = work.answering.threads or work.cpus
        self._worker = Worker(work, open_model(replace(work.answering, model=model, threads=threads)))
        return edgecls.__version__

    def make(self, name: str, shard: str) -> Count:
        """See `Worker.make`."""
        assert self._worker is not None
        return self._worker.make(name, from_json(shard))


class RayEngine(Engine):
    """A pool of actors. Ray is imported, and a cluster asked for, when there is something to do."""

    def __init__(self, config: BulkConfig, answering: Answering):
        self._ray = _import_ray()
        self._config = config
        self._started = False
        self.artifact = candidates(answering.model)[0]

    def make_parts(self, work: Work, shards: Iterable[tuple[str, Shard]]) -> Generator[Count, None, None]:
        """See `Engine.make_parts`. Raises `BackendError` for a cluster without room, and for a shard that kills its
        actors.
        """
        self._connect()
        cpus, workers = self._sized()
        return self._run(replace(work, cpus=cpus), workers, shards)

    def _run(self, work: Work, workers: int, shards: Iterable[tuple[str, Shard]]) -> Generator[Count, None, None]:
        pool = _Pool(self._ray, self._config, work, self._ray.put(_files(self.artifact)), workers)
        try:
            yield from pool.run(shards)
        finally:
            pool.close()

    def close(self) -> None:
        """Leave the cluster."""
        if self._started:
            self._ray.shutdown()

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        _require_reachable(self._config.address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        shared = {"log_to_driver": False, "logging_level": logging.ERROR}
        on_terminate = signal.getsignal(signal.SIGTERM)
        try:
            if self._config.address is None:
                self._ray.init("local", include_dashboard=False, **shared)
            else:
                self._ray.init(self._config.address, **shared)
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            raise BackendError(f"there is no Ray cluster at {self._config.address}: {first_line(error)}") from error
        self._started = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)  # which Ray has replaced

    def _sized(self) -> tuple[int, int]:
        """CPUs a worker, and the number of workers. Raises `UsageError` where not one finds room."""
        nodes = [each["Resources"] for each in self._ray.nodes() if each["Alive"]]
        counts = [int(each.get("CPU", 0)) for each in nodes if each.get("CPU", 0) >= 1]
        cpus = self._config.worker_cpus or WORKER_CPUS
        gpus = self._config.worker_gpus
        room = sum(
            int(min(each.get("CPU", 0) // cpus, each.get("GPU", 0) / gpus if gpus else each.get("CPU", 0)))
            for each in nodes
        )
        if not room:
            raise UsageError(
                f"no node of the cluster has room for a worker of {cpus} CPUs and {gpus:g} GPUs (`worker_cpus`, "
                f"`worker_gpus`): its nodes have {', '.join(map(str, counts)) or 'no'} CPUs"
            )
        return cpus, self._config.workers or room


@dataclass(eq=False)
class _Member:
    """An actor and how many shards it has."""

    actor: Any
    shards: int = 0


class _Pool:
    """Actors, the shards that each has, and those that came back from actors that died."""

    def __init__(self, ray: Any, config: BulkConfig, work: Work, files: Any, workers: int):
        self._ray, self._work, self._files = ray, work, files
        self._actor = ray.remote(Actor).options(
            num_cpus=work.cpus, num_gpus=config.worker_gpus, max_concurrency=SHARDS_AT_ONCE
        )
        self._opening: dict[Any, _Member] = {}
        self._ready: list[_Member] = []
        self._under_way: dict[Any, tuple[_Member, str, str]] = {}
        self._returned: deque[tuple[str, str]] = deque()
        self._deaths: Counter[str] = Counter()
        for _ in range(workers):
            self._open()

    def run(self, shards: Iterable[tuple[str, Shard]]) -> Generator[Count, None, None]:
        """See `Engine.make_parts`."""
        waiting = ((name, shard.to_json()) for name, shard in shards)
        alive_s = time.monotonic()
        while not self._hand_out(waiting) or self._under_way:
            done, _ = self._ray.wait([*self._opening, *self._under_way], timeout=1.0)
            for ref in done:
                if ref in self._opening:
                    self._opened(ref)
                elif (count := self._made(ref)) is not None:
                    yield count
            if self._ready:
                alive_s = time.monotonic()
            elif time.monotonic() - alive_s > NO_WORKER_S:
                raise BackendError(f"the cluster has had no room for a worker for {NO_WORKER_S:.0f} s; see ray status")

    def close(self) -> None:
        """End all actors."""
        for member in [*self._opening.values(), *self._ready]:
            self._ray.kill(member.actor)

    def _hand_out(self, waiting: Iterator[tuple[str, str]]) -> bool:
        """Give each actor as many shards as it works on, and one more; whether none waits any longer."""
        for member in self._ready:
            while member.shards <= SHARDS_AT_ONCE:
                shard = self._returned.popleft() if self._returned else next(waiting, None)
                if shard is None:
                    return True
                self._under_way[member.actor.make.remote(*shard)] = (member, *shard)
                member.shards += 1
        return False

    def _open(self) -> None:
        member = _Member(self._actor.remote())
        self._opening[member.actor.open.remote(self._work, self._files, str(Path.cwd()))] = member

    def _opened(self, ref: Any) -> None:
        member = self._opening.pop(ref)
        try:
            version = self._answer(ref)
        except _DiedError as error:
            self._died(_OPENING, error)
            self._open()
            return
        if version != edgecls.__version__:
            raise BackendError(f"a node of the cluster has edgecls {version}, here it is {edgecls.__version__}")
        del self._deaths[_OPENING]
        self._ready.append(member)

    def _made(self, ref: Any) -> Count | None:
        """What a part holds; None where its actor died."""
        member, name, line = self._under_way.pop(ref)
        member.shards -= 1
        try:
            return self._answer(ref)
        except _DiedError as error:
            self._died(f"part-{name} ({line[:200]})", error)
            self._returned.append((name, line))
            if member in self._ready:
                self._ready.remove(member)
                self._ray.kill(member.actor)  # it may only be out of reach
                self._open()
            return None

    def _died(self, doing: str, error: Exception) -> None:
        self._deaths[doing] += 1
        logger.warning("a worker died: %s; another one takes its place", first_line(error))
        if self._deaths[doing] >= TRIES:
            raise BackendError(f"workers died {TRIES} times over {doing}: {first_line(error)}") from error

    def _answer(self, ref: Any) -> Any:
        """What a call gave. Raises the error of the call itself, and `_DiedError`."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(ref)
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, EdgeclsError) else BackendError(first_line(error.cause))
            raise cause from None
        except errors.RayError as error:
            raise _DiedError(str(error)) from error


class _DiedError(Exception):
    """An actor, or its machine, is no more."""


def _files(artifact: Artifact) -> dict[str, bytes]:
    """What an artifact is opened from, by name."""
    if not artifact.path.is_dir():
        return {artifact.path.name: artifact.path.read_bytes()}
    records = (path.name for path in artifact.path.iterdir() if path.suffix in (".json", ".npz"))
    names = {*artifact.card.lineage.files, *records}
    return {name: (artifact.path / name).read_bytes() for name in sorted(names)}


def _require_reachable(address: str | None) -> None:
    """Raise `BackendError` where nobody listens; Ray would ask for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), CONNECT_S).close()
        except (OSError, OverflowError) as error:
            raise BackendError(f"there is no Ray cluster at {address}: {first_line(error)}") from error


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "scale", "`engine` ray") from error
    return ray
