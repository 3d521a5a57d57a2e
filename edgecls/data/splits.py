"""Splitting: stratified by class, seeded, and only where the data set brings no split of its own."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgecls.errors import DataError

SPLITS = ("train", "val", "test")
HELD_OUT_FRACTION = {"val": 0.15, "test": 0.15}


@dataclass(frozen=True)
class Sample:
    """One image: the key by which its source reads it, and the index of its class."""

    key: str
    label: int


def complete(found: Mapping[str, Sequence[Sample]], classes: Sequence[str], seed: int) -> dict[str, list[Sample]]:
    """Return all of train, val and test; those that `found` lacks are drawn from its `train`, class by class.

    Each class gives at least one image to each drawn split and keeps at least one. Raises `DataError` that names a
    class with too few images.
    """
    missing = [name for name in ("val", "test") if not found.get(name)]
    splits: dict[str, list[Sample]] = {name: list(found.get(name, ())) for name in SPLITS}
    if not missing:
        return splits
    generator = random.Random(seed)
    splits["train"] = []
    for label, name in enumerate(classes):
        members = [sample for sample in found["train"] if sample.label == label]
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
