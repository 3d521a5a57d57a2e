"""What learning again is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgecls.adapting.verdict import MAX_DROP_POINTS
from edgecls.errors import OutputError
from edgecls.settings import Config, setting


@dataclass(frozen=True, kw_only=True)
class RetrainConfig(Config):
    """Which run learns again from which images, and how."""

    run: Path | None = setting(None, "A run's folder; the latest run unless given.")
    data: str = setting(help="The new images: a folder of class folders, or a CSV or JSONL manifest.")
    freeze: Literal["backbone", "none"] = setting(
        "backbone",
        "backbone, only the last layer learns, in seconds; none, after that all layers do, with the run's settings.",
    )
    epochs: int = setting(3, "Epochs in which all layers learn, with `freeze` none.", low=1)
    rename: tuple[str, ...] = setting((), "OLD=NEW: a class that is called otherwise now; merged where NEW is there.")
    remove: tuple[str, ...] = setting((), "A class that is no more.")
    old_data: Path | None = setting(None, "Where the run's own images are now, if their folder was moved.")
    without_old: bool = setting(False, "Go on where the run's own images are gone: nothing tells then what is lost.")
    max_drop_points: float = setting(
        MAX_DROP_POINTS, "Points of top-1 that may be lost on old or on new images.", low=0.0, high=100.0
    )
    accept_worse: bool = setting(False, "Write the run though it is worse; its card says so.")
    seed: int = setting(0, "Seed of the new images' splits and of the training.", low=0)
    out: Path | None = setting(None, "Folder of the new run; a new one under runs/ unless given.")

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        super().check()
        if self.out is not None and self.out.exists():
            raise OutputError(f"{self.out} exists already; choose another `out` or remove it")
