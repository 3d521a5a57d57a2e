"""From a shard to its part: the one function that every engine runs."""

from __future__ import annotations

import io
import threading
from contextlib import closing
from dataclasses import dataclass

from edgecls.bulk.config import Answering
from edgecls.bulk.parts import Count, Parts
from edgecls.bulk.shards import Shard
from edgecls.bulk.stores import Stores
from edgecls.concurrency import usable_cpus
from edgecls.errors import EdgeclsError
from edgecls.runtime.batch import classify, rows
from edgecls.runtime.classifier import Classifier

SHARDS_AT_ONCE = 2
"""While one is listed, waits for its last images or is written, the other keeps the processor busy."""


class StoppedError(EdgeclsError):
    """Somebody stopped the worker."""


@dataclass(frozen=True)
class Work:
    """What a worker is to do with a shard. `cpus` are those that it may use, all of the machine unless given."""

    answering: Answering
    out: str
    suffix: str
    patience_s: float
    cpus: int | None = None


class Worker:
    """Makes parts with one session, which threads share."""

    def __init__(self, work: Work, classifier: Classifier):
        self._work, self._classifier = work, classifier
        self._stores = Stores(work.patience_s)
        self._parts = Parts(work.out, work.suffix, self._stores)
        self._stopping = threading.Event()

    def make(self, name: str, shard: Shard) -> Count:
        """Answer all images of a shard and write its part. Raises what `Store` raises, and `StoppedError`."""
        total, top = Count(), self._work.answering.top
        images = shard.images(self._stores, self._work.cpus or usable_cpus())
        content = io.BytesIO()
        with (
            rows(content, self._work.suffix, top) as add,
            closing(images),
            closing(classify(self._classifier, images, self._work.answering.background, self._work.cpus)) as answers,
        ):
            for answer in answers:
                if self._stopping.is_set():
                    raise StoppedError("the worker was stopped")
                add(answer)
                total += Count(1, int(answer.error is not None), answer.error)
        location = self._parts.location(name)
        self._stores.of(location).write(location, content.getvalue())
        return total

    def stop(self) -> None:
        """Let what is under way end soon, without its part."""
        self._stopping.set()
