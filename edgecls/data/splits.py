"""Splitting: stratified by class, seeded, and only where the data set brings no split of its own."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgecls.errors import DataError, UsageError

SPLITS = ("train", "val", "test")
HELD_OUT_FRACTION = {"val": 0.15, "test": 0.15}


@dataclass(frozen=True, slots=True)
class Sample:
    """One image: the key by which its source reads it, and the index of its class."""

    key: str
    label: int


def complete(
    given: Mapping[str, Sequence[Sample]],
    classes: Sequence[str],
    seed: int,
    group_of: Callable[[Sample], str] = lambda sample: sample.key,
) -> dict[str, list[Sample]]:
    """Return all of train, val and test; those that `given` lacks are drawn from its `train`, class by class.

    Each class gives at least one image to each drawn split and keeps at least one. Where images share groups, whole
    groups are drawn, see `divide`. Raises `DataError` that names a class with too few images or groups.
    """
    missing = [name for name in ("val", "test") if not given.get(name)]
    splits: dict[str, list[Sample]] = {name: list(given.get(name, ())) for name in SPLITS}
    if not missing:
        return splits
    if len({group_of(sample) for sample in given["train"]}) < len(given["train"]):
        splits |= divide(given["train"], group_of, {name: HELD_OUT_FRACTION[name] for name in missing}, seed)
        left = {sample.label for sample in splits["train"]}
        if gone := [name for label, name in enumerate(classes) if label not in left]:
            raise DataError(
                f"class {gone[0]} has no group of images left to learn from when some are held out for "
                f"{' and '.join(missing)}: add groups, or make these splits yourself"
            )
        return splits
    generator = random.Random(seed)
    splits["train"] = []
    for label, name in enumerate(classes):
        members = [sample for sample in given["train"] if sample.label == label]
        generator.shuffle(members)
        if len(members) <= len(missing):
            raise DataError(
                f"class {name} has {len(members)} usable images; {len(missing) + 1} are needed to hold some out for "
                f"{' and '.join(missing)}: add images, or make these splits yourself"
            )
        wanted = {split: max(1, round(HELD_OUT_FRACTION[split] * len(members))) for split in missing}
        for position, split in enumerate(missing):
            count = min(wanted[split], len(members) - len(missing) + position)
            splits[split] += members[:count]
            members = members[count:]
        splits["train"] += members
    return {name: sorted(samples, key=lambda sample: sample.key) for name, samples in splits.items()}


def divide(
    samples: Sequence[Sample], group_of: Callable[[Sample], str], fractions: Mapping[str, float], seed: int
) -> dict[str, list[Sample]]:
    """Divide samples among train and the splits in `fractions`, each class in its proportion and no group torn apart.

    Groups are dealt out largest first, in seeded order, each to the split that then lacks the most of what the group
    brings. Raises `DataError` where a split stays empty.
    """
    shares = {"train": 1 - sum(fractions.values()), **fractions}
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(group_of(sample), []).append(sample)
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    totals = Counter(sample.label for sample in samples)
    splits: dict[str, list[Sample]] = {split: [] for split in shares}
    counts: dict[str, Counter[int]] = {split: Counter() for split in shares}
    for name in sorted(order, key=lambda name: -len(groups[name])):
        brought = Counter(sample.label for sample in groups[name])

        def lack(split: str, brought: Counter[int] = brought) -> float:
            return sum(
                count * (shares[split] * totals[label] - counts[split][label]) / (shares[split] * totals[label])
                for label, count in brought.items()
            )

        chosen = max(shares, key=lack)
        splits[chosen] += groups[name]
        counts[chosen] += brought
    if empty := [split for split, members in splits.items() if not members]:
        raise DataError(f"{len(groups)} groups are too few for {len(shares)} splits: {empty[0]} would be empty")
    return {split: sorted(members, key=lambda sample: sample.key) for split, members in splits.items()}


def grouped_by(pattern: str | None) -> Callable[[Sample], str]:
    """What a pattern finds in a sample's key: its first group, or all of it. Raises `UsageError` for a bad pattern."""
    if pattern is None:
        return lambda sample: sample.key
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"`group_by` {pattern!r} is no regular expression: {error}") from error

    def group_of(sample: Sample) -> str:
        match = expression.search(sample.key)
        if match is None:
            raise DataError(f"`group_by` {pattern!r} finds nothing in {sample.key}; each image needs a group")
        return str(match[1] if expression.groups else match[0])

    return group_of
