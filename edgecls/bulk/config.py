"""What a job of many images is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgecls.artifact.reference import FALSE_REFUSALS
from edgecls.bulk.shards import SHARD_IMAGES
from edgecls.bulk.stores import PATIENCE_S
from edgecls.errors import UsageError
from edgecls.imaging.decode import Colour
from edgecls.settings import LONGEST_S, MOST, Config, setting


@dataclass(frozen=True, kw_only=True)
class BulkConfig(Config):
    """How many images are classified into parts of a table."""

    format: Literal["parquet", "csv", "jsonl"] = setting("parquet", "Of the parts in a folder.")
    column: str | None = setting(None, "The column of a manifest or Parquet file that holds the images.")
    shard_images: int = setting(
        SHARD_IMAGES, "Image files a part; a tar file makes one part, row groups of a Parquet file are not split.",
        low=1, high=1_000_000,
    )  # fmt: skip
    patience_s: float = setting(
        PATIENCE_S, "Seconds for which a store that fails is asked again.", low=0.0, high=LONGEST_S
    )
    engine: Literal["local", "ray"] = setting("local", "Where the work is done: in this process, or by a Ray cluster.")
    address: str | None = setting(None, "The Ray cluster, such as auto; one is started on this machine unless given.")
    workers: int | None = setting(
        None, "Sessions in the cluster; as many as its CPUs allow unless given.", low=1, high=MOST
    )
    worker_cpus: int | None = setting(
        None,
        "CPUs a session; one unless given, as so many processes are faster than threads; more for a GPU.",
        low=1,
        high=4096,
    )
    worker_gpus: float = setting(
        0.0, "GPUs a session, for models that need one; a fraction shares it.", low=0.0, high=64.0
    )

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        super().check()
        for name in ("address", "workers", "worker_cpus"):
            if self.engine == "local" and getattr(self, name) is not None:
                raise UsageError(f"`{name}` belongs to `engine` ray")


@dataclass(frozen=True, kw_only=True)
class Answering:
    """What is answered, by which model: the arguments of `runtime.load`, and how many classes a row tells."""

    model: Path | None = None
    top: int = 1
    background: Colour | None = None
    unknown: bool = False
    false_refusals: float = FALSE_REFUSALS
    check: bool = True
    threads: int | None = None
