"""What an evaluation and a comparison are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecls.errors import UsageError
from edgecls.settings import Config, setting


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Which model is measured on which images; fractions are from 0 to 1."""

    model: Path | None = setting(
        None, "A run, a bundle or a model file, in its own runtime; the latest run unless given."
    )
    data: Path | None = setting(
        None, "A folder of class folders, or a CSV or JSONL manifest; the run's test split unless given."
    )
    min_top1: float | None = setting(None, "Fail where top-1 is below this fraction, such as 0.95.", low=0.0, high=1.0)
    precision: float | None = setting(
        None,
        'Fit a threshold below which the answer is "unsure", so that of the others this fraction is right on the '
        "run's validation images; kept beside the card, in measurements.json.",
        low=1e-6, high=1.0,
    )  # fmt: skip
    by: tuple[str, ...] = setting(
        (), "Columns of the manifest, such as camera,light: figures for each slice of the images, by value."
    )
    class_thresholds: bool = setting(
        False, "With `precision`: fit a threshold for each class that the validation images show often enough."
    )
    seed: int = setting(0, "Seed of the bootstrap intervals.", low=0)

    def check(self) -> None:
        """Raise `UsageError` for values that make no sense, alone or together."""
        super().check()
        if self.class_thresholds and self.precision is None:
            raise UsageError("`class_thresholds` needs `precision`, how often the answers of each class shall be right")


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Config):
    """Which models are compared on which images, and how far they may be apart."""

    first: Path = setting(help="The baseline: a run, bundle or model file.")
    second: Path = setting(help="The candidate, of the same classes.")
    data: Path | None = setting(None, "Folder of images to compare on; the run's test split unless given.")
    by: tuple[str, ...] = setting(
        (),
        "Columns of the manifest, such as camera,light: the candidate's loss for each slice of the images, by value.",
    )
    min_agreement: float | None = setting(
        None, "Fail where fewer answers agree: a fraction such as 0.98.", low=0.0, high=1.0
    )
    max_drop_points: float | None = setting(
        None, "Fail where top-1 drops by more points than this.", low=-100.0, high=100.0
    )


@dataclass(frozen=True, kw_only=True)
class SuspectsConfig(Config):
    """Which labels are looked at, and whose features tell what an image shows."""

    data: str = setting(help="A folder of class folders, a manifest, or the name of a torchvision data set.")
    model: Path | None = setting(
        None, "A run, a bundle or a model file that sees the images, of any classes; the latest run unless given."
    )
    hardest: int = setting(20, "So many of the other images too, those whose loss is largest.", low=0)
    group_by: str | None = setting(
        None,
        "A regular expression on the path; images for which it finds the same never judge each other, such as the "
        "frames of one video. The manifest's column group unless given.",
    )
    folds: int = setting(5, "In how many parts the images are judged.", low=2, high=50)
    seed: int = setting(0, "Seed of the folds.", low=0)
