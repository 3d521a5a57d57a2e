"""What collecting is asked for: a camera, classes, a folder, and how pictures are taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecls.errors import UsageError
from edgecls.labels import clean_label
from edgecls.settings import LONGEST_S, MOST, setting
from edgecls.streaming.config import SHORTEST_S, CameraOptions
from edgecls.web.config import TokenConfig

RECOMMENDED = 50
"""Images of a class: 15 % of them, 7 or 8, are held out for the test. With fewer, one wrong answer moves the class's
figure by more than 13 points, and nobody knows whether a model got better."""
RECOMMENDED_SERIES = 5
"""Series of a class, as a series stays in one split: 3 give each split one, and a test of one series says little."""


@dataclass(frozen=True, kw_only=True)
class CollectConfig(TokenConfig):
    """Which camera is looked at, what its pictures may show, and where they go.

    With `label` pictures are taken without a page. None leaves a choice to the program.
    """

    camera: str = setting(
        "0",
        "A camera's number or name, a URL, a video file, a GStreamer pipeline, csi:0, screen:, or demo; with a label a "
        "folder too. NAME=... names it.",
        secret=True,
    )
    classes: tuple[str, ...] = setting((), "What there is to tell apart; more can be added in the page.")
    out: Path = setting(Path("photos"), "The folder that grows, with one folder per class and data.csv.")
    model: Path | None = setting(None, "Show what this run, bundle or model file makes of the picture.")
    per_second: float = setting(
        4.0, "Pictures a second while a button is held.", low=0.1, high=30.0, unit="pictures a second"
    )
    minimum: int = setting(RECOMMENDED, "Images to have of each class.", low=1, high=MOST)
    keep_still: bool = setting(False, "Keep pictures of a series in which nothing has changed, too.")
    label: str | None = setting(None, "Take pictures of this class by themselves, without a page.")
    every_s: float | None = setting(
        None,
        "With `label`: one every so many seconds; unless given one a second of a camera, and each picture of a file.",
        low=SHORTEST_S, high=LONGEST_S, unit="seconds",
    )  # fmt: skip
    series_s: float = setting(
        60.0,
        "With `label`: a new series begins after so many seconds; a series stays in one split.",
        low=SHORTEST_S, high=LONGEST_S, unit="seconds",
    )  # fmt: skip
    frames: int | None = setting(None, "End after so many pictures were kept.", low=1, high=MOST)
    duration_s: float | None = setting(
        None, "End after so many seconds.", low=SHORTEST_S, high=LONGEST_S, unit="seconds"
    )
    camera_options: CameraOptions = CameraOptions()
    web: str = setting("8080", "Where the page is: a port of this machine alone, or host:port.")

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        super().check()
        for label in (*self.classes, *((self.label,) if self.label is not None else ())):
            clean_label(label)
        if self.label is None and self.every_s is not None:
            raise UsageError("`every_s` takes pictures by itself and wants to know their class: give `label` too")
