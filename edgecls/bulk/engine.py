"""Who makes the parts: `LocalEngine` in this process; `cluster.py` has the one of many machines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from edgecls.bulk.config import Answering
from edgecls.bulk.parts import Count
from edgecls.bulk.shards import Shard
from edgecls.bulk.worker import SHARDS_AT_ONCE, Work, Worker
from edgecls.runtime import store
from edgecls.runtime.classifier import Classifier, load
from edgecls.runtime.store import Artifact


def open_model(answering: Answering, on_progress: Callable[[str], None] = lambda _: None) -> Classifier:
    """The model, opened for throughput; raises as `runtime.load` does."""
    return load(
        answering.model, answering.threads, on_progress, streams=None, check=answering.check, unknown=answering.unknown,
        false_refusals=answering.false_refusals,
    )  # fmt: skip


class Engine(ABC):
    """Makes parts of shards with `artifact`."""

    artifact: Artifact

    @abstractmethod
    def make_parts(self, work: Work, shards: Iterable[tuple[str, Shard]]) -> Generator[Count, None, None]:
        """Make the part of each shard, by its name; yield what each holds as they are done, in any order.

        What can be refused is refused at once, before the first is asked for. Shards are taken as they are needed. When
        the generator is closed, nothing is under way.
        """

    @abstractmethod
    def close(self) -> None:
        """Free what it holds."""


class LocalEngine(Engine):
    """Threads of this process share one session."""

    def __init__(self, answering: Answering):
        self._classifier = open_model(answering)
        self.artifact = store.find(self._classifier.path)

    def make_parts(self, work: Work, shards: Iterable[tuple[str, Shard]]) -> Generator[Count, None, None]:
        """See `Engine.make_parts`."""
        worker = Worker(work, self._classifier)
        pending: set[Future[Count]] = set()
        with ThreadPoolExecutor(SHARDS_AT_ONCE, "edgecls-shard") as pool:
            try:
                for name, shard in shards:
                    pending.add(pool.submit(worker.make, name, shard))
                    if len(pending) > SHARDS_AT_ONCE:
                        done, pending = wait(pending, return_when=FIRST_COMPLETED)
                        yield from (future.result() for future in done)
                while pending:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            finally:
                worker.stop()
                for future in pending:
                    future.cancel()

    def close(self) -> None:
        """See `Engine.close`."""
        self._classifier.close()
