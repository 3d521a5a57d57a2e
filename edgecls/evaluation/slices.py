"""Parts of a set of images by what its manifest says of them: which camera, which shift, how much light."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.data.layout import index_dataset
from edgecls.data.splits import Sample
from edgecls.errors import DataError, UsageError
from edgecls.evaluation.detail import bootstrap, macro_averages
from edgecls.evaluation.metrics import Drop, drop, measure, wilson

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray

MAX_VALUES = 20
"""Of a column; the images of rarer ones are one slice."""
RANGES = 4
"""Of a column of numbers that has more different values than `MAX_NUMBERS`: its quartiles."""
MAX_NUMBERS = 8
OTHERS, NOWHERE = "others", "(none)"


@dataclass(frozen=True)
class Cut:
    """The images at `positions` (N,) that have one value in a column."""

    column: str
    value: str
    positions: NDArray[int64]


@dataclass(frozen=True)
class Slice:
    """A model on one slice: fractions with their 95 % intervals; macro F1 is of the classes that it holds."""

    column: str
    value: str
    images: int
    top1: float
    top1_interval: tuple[float, float]
    macro_f1: float
    macro_f1_interval: tuple[float, float]

    @property
    def name(self) -> str:
        """Such as camera=2."""
        return f"{self.column}={self.value}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class SliceChange:
    """Two models on one slice: top-1 of both, fractions, and what the second loses, in points; see `metrics.Drop`."""

    column: str
    value: str
    images: int
    first: float
    second: float
    drop: Drop

    @property
    def name(self) -> str:
        """Such as camera=2."""
        return f"{self.column}={self.value}"

    @property
    def verdict(self) -> str:
        """What the interval says: "worse", "better", or "not decided"."""
        return "worse" if self.drop.low_points > 0 else "better" if self.drop.high_points < 0 else "not decided"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "verdict": self.verdict}


def cuts_of(data: Path | None, samples: Sequence[Sample], by: Sequence[str]) -> tuple[list[Cut], list[str]]:
    """The slices of samples by columns of the manifest `data`, and remarks on what was put together or is missing.

    Numbers with many values are cut into quartiles; of other columns the `MAX_VALUES` most frequent values are kept.
    Raises `UsageError` for a column that there is not, and `DataError` where no sample has a value in it.
    """
    if data is None:
        raise UsageError("`by` needs `data`, a manifest that has these columns")
    columns = index_dataset(str(data)).columns
    known = sorted({name for row in columns.values() for name in row})
    cuts, remarks = [], []
    for column in dict.fromkeys(name.strip().lower() for name in by):  # as the manifest's are read
        if column not in known:
            there = f"it has {', '.join(known)}" if known else "it has none besides path, label and split"
            raise UsageError(f"`by`: {data} has no column {column!r}; {there}")
        values = [columns.get(sample.key, {}).get(column, NOWHERE) for sample in samples]
        if set(values) <= {NOWHERE}:
            raise DataError(f"{data}: none of the {len(samples)} images that are looked at has a value of {column!r}")
        absent = {row[column] for row in columns.values() if column in row} - set(values)
        grouped, remark = _grouped(column, values)
        remarks += remark
        if absent and not remark:
            named = ", ".join(sorted(absent)[:5]) + (", ..." if len(absent) > 5 else "")
            remarks.append(f"{column}: none of the images that are looked at is of {named}")
        cuts += _cuts(column, grouped)
    return cuts, remarks


def _cuts(column: str, values: Sequence[str]) -> list[Cut]:
    import numpy as np

    each = np.array(values, object)
    return [Cut(column, value, np.flatnonzero(each == value)) for value in dict.fromkeys(values)]


def _grouped(column: str, values: Sequence[str]) -> tuple[list[str], list[str]]:
    """Each value by the name of its slice, and a remark where several became one."""
    import numpy as np

    counts = Counter(value for value in values if value != NOWHERE)
    numbers = _numbers(counts)
    if numbers is not None and len(numbers) > MAX_NUMBERS:
        known = [numbers[value] for value in values if value != NOWHERE]
        edges = sorted(set(np.quantile(known, np.linspace(0, 1, RANGES + 1), method="inverted_cdf").tolist()))
        ranges = list(pairwise(edges))

        def range_of(value: str) -> str:
            if value == NOWHERE:
                return value
            low, high = next(pair for pair in ranges if numbers[value] <= pair[1])
            return f"{low:g} to {high:g}" if low == edges[0] else f"over {low:g} to {high:g}"

        text = f"{column}: its {len(counts)} numbers are put together in {len(ranges)} ranges"
        return [range_of(value) for value in values], [text]
    if len(counts) <= MAX_VALUES:
        return list(values), []
    kept = {value for value, _ in counts.most_common(MAX_VALUES)} | {NOWHERE}
    text = f"{column}: {len(counts)} values, of which the {MAX_VALUES} most frequent are shown and the rest as {OTHERS}"
    return [value if value in kept else OTHERS for value in values], [text]


def _numbers(values: Mapping[str, int]) -> dict[str, float] | None:
    """Each of the values as a number; None where one is none."""
    try:
        numbers = {value: float(value) for value in values}
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers.values())) else None


def evaluate_slices(
    cuts: Sequence[Cut], scores: NDArray[float32], labels: NDArray[int64], seed: int = 0
) -> tuple[Slice, ...]:
    """Figures of scores (N, C) against labels (N,) for each slice, the lowest top-1 first."""
    slices = []
    for cut in cuts:
        mine, truth = scores[cut.positions], labels[cut.positions]
        metrics = measure(mine, truth)
        top1_interval, (_, macro_f1_interval) = wilson(metrics.top1, metrics.images), bootstrap(mine, truth, seed)
        macro_f1 = macro_averages(metrics).f1
        slices.append(
            Slice(cut.column, cut.value, metrics.images, metrics.top1, top1_interval, macro_f1, macro_f1_interval)
        )
    return tuple(sorted(slices, key=lambda each: (each.top1, -each.images)))


def compare_slices(
    cuts: Sequence[Cut], first: NDArray[float32], second: NDArray[float32], labels: NDArray[int64]
) -> tuple[SliceChange, ...]:
    """What the second's scores (N, C) lose against the first's for each slice, the largest loss first."""
    changes = []
    for cut in cuts:
        a, b, truth = first[cut.positions], second[cut.positions], labels[cut.positions]
        tops = measure(a, truth).top1, measure(b, truth).top1
        changes.append(SliceChange(cut.column, cut.value, len(truth), *tops, drop(b, a, truth)))
    return tuple(sorted(changes, key=lambda each: -each.drop.points))
