"""One job: list, leave out what is done, answer the rest, and prove that every image has its row."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from edgecls.artifact.reference import REFERENCE_FILE
from edgecls.bulk.config import Answering, BulkConfig
from edgecls.bulk.engine import Engine, LocalEngine, open_model
from edgecls.bulk.listing import Entry, Inputs, entries
from edgecls.bulk.parts import Count, Parts
from edgecls.bulk.plan import Plan
from edgecls.bulk.shards import read_images, shards
from edgecls.bulk.stores import Stores, is_uri, shown
from edgecls.bulk.worker import Work
from edgecls.concurrency import usable_cpus
from edgecls.errors import UsageError
from edgecls.files import sha256
from edgecls.runtime.batch import EncodedImage, ImageResult, classify, import_arrow
from edgecls.runtime.store import Artifact


@dataclass(frozen=True)
class Progress:
    """How far a job is: parts that are there of those to make, and images that this process has answered so far."""

    parts: int
    of_parts: int
    images: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Summary:
    """What a job did: the rows of all its parts, and how many parts it found and images it answered in which time.

    `left_out` counts files that are no images, by suffix.
    """

    total: Count
    parts: int
    found_parts: int
    answered: int
    seconds: float
    left_out: Counter[str] = field(default_factory=Counter)


def predict_parts(
    inputs: Inputs,
    out: str,
    answering: Answering,
    config: BulkConfig | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Summary:
    """Classify all images that the inputs mean into parts of a table in the folder `out`, which ends in a slash.

    Parts that are there are not made again, so that a job that was ended in any way goes on where it was. What cannot
    be read has its row with the error. Raises `UsageError` for a folder with answers to something else, or inside of
    the inputs; `DataError` for inputs that are not there; `SourceError` and `OutputError` for a store that fails longer
    than it is waited for.
    """
    config = BulkConfig.checked(config)
    suffix = f".{config.format}"
    if config.format == "parquet":
        import_arrow("writing Parquet")
    stores, left_out = Stores(config.patience_s), Counter[str]()
    named = inputs.canonical(stores)
    _require_outside(out, inputs, stores)
    with closing(_engine(config, answering)) as engine:
        parts = Parts(out, suffix, stores)
        deciding = {"model": model_digest(engine.artifact), "settings": _settings(inputs, answering, config)}
        digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
        parts.require_free(job := {**deciding, "inputs": named})
        found = shards(entries(inputs, stores, left_out), stores, inputs.column, config.shard_images)
        with Plan(found, digest) as plan:
            there = parts.require_known(plan.planned)
            begun_s, count, made = time.perf_counter(), Count(), 0
            on_progress(Progress(len(there), len(plan.planned)))
            if len(there) < len(plan.planned):
                work = Work(answering, out if is_uri(out) else stores.canonical(out), suffix, config.patience_s)
                with closing(engine.make_parts(work, plan.shards(there))) as counts:
                    parts.begin(job)
                    for made, each in enumerate(counts, start=1):
                        count += each
                        spent_s = time.perf_counter() - begun_s
                        on_progress(Progress(len(there) + made, len(plan.planned), count.images, spent_s))
            spent_s = time.perf_counter() - begun_s
            total = parts.verified(digest, plan.planned)
    parts.succeeded(total)
    return Summary(total, len(plan.planned), len(there), count.images, spent_s, left_out)


@dataclass(frozen=True)
class Rows:
    """Answers in order, as they come, by the model at a path; `total` is None where only reading tells."""

    model: Path
    rows: Iterator[ImageResult]
    total: int | None


@contextmanager
def predict_rows(
    inputs: Inputs,
    answering: Answering,
    config: BulkConfig,
    left_out: Counter[str],
    on_progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Rows]:
    """Classify all images that the inputs mean, in order. Folders are listed before; a list is read as it comes.

    `left_out` counts files that are no images, `on_progress` hears what the runtime builds first. Raises as
    `predict_parts` does.
    """
    stores = Stores(config.patience_s)
    found: Iterable[Entry] = entries(inputs, stores, left_out)
    if inputs.list_file is None:
        found = list(found)
    known = isinstance(found, list) and all(entry.kind == "image" for entry in found)
    with (
        open_model(answering, on_progress) as classifier,
        closing(_images(found, stores, inputs.column)) as images,
        closing(classify(classifier, images, answering.background)) as answers,
    ):
        yield Rows(classifier.path, answers, len(found) if known and isinstance(found, list) else None)


def _images(found: Iterable[Entry], stores: Stores, column: str | None) -> Generator[Path | EncodedImage, None, None]:
    """The images of entries, each as soon as it is named."""
    cpus = usable_cpus()
    for kind, together in groupby(found, lambda entry: entry.kind):
        if kind == "image":
            yield from read_images((entry.location for entry in together), stores, cpus)
        else:
            for shard in shards(together, stores, column):
                yield from shard.images(stores, cpus)


def model_digest(artifact: Artifact) -> str:
    """A digest of all of an artifact that decides about its answers: its files, classes, preprocessing, thresholds."""
    card = artifact.card.to_json()
    files = dict(artifact.card.lineage.files) if artifact.path.is_dir() else {"": sha256(artifact.path)}
    if (reference := artifact.path / REFERENCE_FILE).is_file():  # by which it says "unknown"
        files[REFERENCE_FILE] = sha256(reference)
    deciding = {name: card.get(name) for name in ("classes", "preprocess", "io", "output", "confidence")}
    return hashlib.sha256(json.dumps([files, deciding], sort_keys=True).encode()).hexdigest()


def _engine(config: BulkConfig, answering: Answering) -> Engine:
    if config.engine == "local":
        return LocalEngine(answering)
    from edgecls.bulk.cluster import RayEngine

    return RayEngine(config, answering)


def _settings(inputs: Inputs, answering: Answering, config: BulkConfig) -> dict[str, Any]:
    """What decides about the rows, and into which parts they go, besides images and model."""
    return {
        "top": answering.top,
        "background": list(answering.background) if answering.background else None,
        "unknown": answering.unknown,
        "false_refusals": answering.false_refusals if answering.unknown else None,
        "format": config.format,
        "column": inputs.column,
        "shard_images": config.shard_images,
    }


def _require_outside(out: str, inputs: Inputs, stores: Stores) -> None:
    """Raise `UsageError` for a folder of answers that the next listing of the inputs would find."""
    place = stores.canonical(out)
    for folder in inputs.folders(stores):
        if f"{place}/".startswith(f"{folder}/"):
            raise UsageError(
                f"`out` {shown(out)} lies inside of the input {shown(folder)}; give a folder outside of it"
            )
