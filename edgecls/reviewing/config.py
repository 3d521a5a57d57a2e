"""What a review is asked for: a pool or doubtful labels, the folder of labelled images, and a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecls.labels import clean_label
from edgecls.settings import setting
from edgecls.web.config import TokenConfig

LARGEST_GROUP = 24
"""Pictures of a group at most: one letter of the keyboard for each, and they fit on one screen."""


@dataclass(frozen=True, kw_only=True)
class ReviewConfig(TokenConfig):
    """What is looked at, where labelled images go, and how the page is served. None leaves a choice to the program."""

    pool: Path | None = setting(None, "A pool that a stream keeps, or any folder of images.")
    data: Path = setting(Path("photos"), "The folder of labelled images, with data.csv.")
    model: Path | None = setting(
        None, "A run or bundle: groups pictures by what its network sees in them, and suggests classes."
    )
    classes: tuple[str, ...] = setting((), "Classes, besides those of the labelled images; more can be added.")
    group: int = setting(LARGEST_GROUP, "Pictures that are shown together, at most.", low=1, high=LARGEST_GROUP)
    move: bool = setting(False, "Take pictures out of the pool at the end that were labelled and copied.")
    web: str = setting("8080", "Where the page is: a port of this machine alone, or host:port.")

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        super().check()
        for label in self.classes:
            clean_label(label)
