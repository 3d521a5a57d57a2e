"""Images of a labelled data set that somebody should look at: likely wrong labels, pictures that stand in two classes,
and those that a classifier finds hardest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgecls.data.layout import GROUP_COLUMN, index_dataset
from edgecls.data.pictures import Members, look
from edgecls.data.record import open_record
from edgecls.data.sources import Source
from edgecls.data.splits import Sample, grouped_by
from edgecls.disjoint_sets import DisjointSets
from edgecls.errors import DataError
from edgecls.evaluation.confident_learning import likely_wrong, out_of_fold, self_confidence
from edgecls.evaluation.config import SuspectsConfig
from edgecls.evaluation.embeddings import embeddings_on
from edgecls.evaluation.inference import labels_of
from edgecls.files import write_text
from edgecls.rows import csv_text

if TYPE_CHECKING:
    from numpy import float64, int64
    from numpy.typing import NDArray

Reason = Literal["duplicate", "label", "loss"]
"""The same picture in another class; a class that fits better; merely hard."""


@dataclass(frozen=True)
class Suspect:
    """An image to look at: its key and split, the label that it has, and the one that fits better.

    `score` is from 0 to 1, the higher the more suspicious: the probability that the label is not the given one, as a
    classifier says that has not seen the image; 1 for a duplicate, of which `other` is the key of the same picture with
    the suggested label.
    """

    key: str
    split: str
    label: str
    suggested: str
    reason: Reason
    score: float
    other: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Suspects:
    """The images to look at, ranked, among so many. `skipped` maps the keys of unreadable ones to the reason."""

    source: Source
    images: int
    ranked: Sequence[Suspect]
    skipped: dict[str, str]

    def count(self, reason: Reason) -> int:
        """How many there are for a reason."""
        return sum(suspect.reason == reason for suspect in self.ranked)

    def write(self, file: Path) -> None:
        """Write the list as CSV. Raises `OutputError`."""
        lines = [[str(value) for value in suspect.to_json().values()] for suspect in self.ranked]
        write_text(file, csv_text([list(Suspect.__dataclass_fields__), *lines]), errors="surrogateescape")


def find_suspects(config: SuspectsConfig, on_progress: Callable[[str], None] = lambda _: None) -> Suspects:
    """Look at all images of a data set, whatever their split; those in quarantine are left out.

    Images of one group, or that look nearly the same, never judge each other. Raises `DataError`, and `UsageError` for
    a model that gives no embeddings.
    """
    config.check()
    layout = index_dataset(config.data)
    members = Members(
        {split: [s for s in samples if s.key not in layout.quarantine] for split, samples in layout.splits.items()}
    )
    with open_record(None, layout.source.location) as record:
        pictures = look(layout.source, members, record, on_progress)
        readable = pictures.readable()
        if not len(readable):
            raise DataError(f"{layout.source.location} holds no image that can be read")
        on_progress("comparing images")
        exact = pictures.duplicates()
        alike = [readable.searchsorted(group).tolist() for group in (*exact, *pictures.near_duplicates(exact))]
    usable = [members[position][1] for position in readable.tolist()]
    group_of = grouped_by(config.group_by) if config.group_by else _groups_named(layout.columns)
    groups = merged([group_of(sample) for sample in usable], alike)
    count = len(usable)
    features = embeddings_on(
        config.model, layout.source, usable, lambda done: on_progress(f"embedding image {done} of {count}")
    )
    on_progress("judging labels")
    labels = labels_of(usable)
    probabilities = out_of_fold(features, labels, groups, config.folds, config.seed)

    def named(found: Ranked) -> Suspect:
        position, suggested, reason, score, other = found
        split, sample = members[int(readable[position])]
        return Suspect(
            sample.key, split, layout.classes[sample.label], layout.classes[suggested], reason,
            round(score, 6), "" if other is None else usable[other].key,
        )  # fmt: skip

    ranked = [named(found) for found in rank(probabilities, labels, alike, config.hardest)]
    broken = {members[position][1].key: why for position, why in pictures.broken.items()}
    return Suspects(layout.source, count, ranked, broken)


def _groups_named(columns: Mapping[str, Mapping[str, str]]) -> Callable[[Sample], str]:
    """The group that a manifest names for each image; those without one are alone."""
    named = {key: f"group {values[GROUP_COLUMN]}" for key, values in columns.items() if values.get(GROUP_COLUMN)}
    return lambda sample: named.get(sample.key, sample.key)


def merged(groups: Sequence[str], alike: Sequence[Sequence[int]]) -> list[str]:
    """Groups by position, of which those become one that share images which are alike."""
    linked = DisjointSets(groups)
    for positions in alike:
        for position in positions[1:]:
            linked.join(groups[position], groups[positions[0]])
    return [linked.find(group) for group in groups]


Ranked = tuple[int, int, Reason, float, int | None]
"""Position, suggested label, reason, score, and the position of the same picture."""


def rank(
    probabilities: NDArray[float64], labels: NDArray[int64], alike: Sequence[Sequence[int]] = (), hardest: int = 20
) -> list[Ranked]:
    """The images to look at, each once, by probabilities (N, C) of models that have not seen them and labels (N,).

    `alike` are groups of positions that show one picture. Those in two classes come first, then labels that are likely
    wrong, then so many of the `hardest` others, those whose loss is largest; of these the given label may be the most
    probable one, and then it is what is suggested.
    """
    import numpy as np

    confidence, best = self_confidence(probabilities, labels), probabilities.argmax(axis=1)
    found: dict[int, Ranked] = {}
    for each in (each for group in alike for each in _contradicted(group, probabilities, labels)):
        found.setdefault(each[0], each)
    others = [position for position in np.argsort(confidence, kind="stable").tolist() if position not in found]
    wrong = [position for position in likely_wrong(probabilities, labels) if position not in found]
    taken = set(wrong)
    hard = [position for position in others if position not in taken][:hardest]
    reasons: tuple[tuple[Reason, list[int]], ...] = (("label", wrong), ("loss", hard))
    for reason, positions in reasons:
        for position in positions:
            found[position] = position, int(best[position]), reason, float(1 - confidence[position]), None
    return list(found.values())


def _contradicted(group: Sequence[int], probabilities: NDArray[float64], labels: NDArray[int64]) -> Iterator[Ranked]:
    """Those of pictures that are alike whose label is not what most of them have, or of equals the most probable."""
    votes = Counter(int(labels[position]) for position in group)
    if len(votes) > 1:
        mean = probabilities[list(group)].mean(axis=0)
        chosen = max(votes, key=lambda label: (votes[label], mean[label]))
        other = next(position for position in group if labels[position] == chosen)
        yield from ((position, chosen, "duplicate", 1.0, other) for position in group if labels[position] != chosen)
