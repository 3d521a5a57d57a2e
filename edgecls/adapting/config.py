"""What adapting is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecls.adapting.verdict import MAX_DROP_POINTS
from edgecls.errors import OutputError
from edgecls.settings import Config, setting


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(Config):
    """Which bundle learns again from which images."""

    bundle: Path = setting(help="The folder of an ONNX bundle.")
    data: Path = setting(help="The new images: a folder of class folders, or one with a data.csv, or that file.")
    rename: tuple[str, ...] = setting((), "OLD=NEW: a class that is called otherwise now; merged where NEW is there.")
    remove: tuple[str, ...] = setting((), "A class that is no more.")
    max_drop_points: float = setting(
        MAX_DROP_POINTS, "Points of top-1 that may be lost on old or on new images.", low=0.0, high=100.0
    )
    accept_worse: bool = setting(False, "Write the bundle though it is worse; its card says so.")
    seed: int = setting(0, "Seed of which new images are held out.", low=0)
    out: Path | None = setting(None, "Folder of the new bundle; beside the old one unless given.")

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense."""
        super().check()
        if self.out is not None and self.out.exists():
            raise OutputError(f"{self.out} exists already; choose another `out` or remove it")
