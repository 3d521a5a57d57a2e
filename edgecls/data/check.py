"""What is wrong with a data set before anything is trained on it. Nothing is changed and nothing deleted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from difflib import SequenceMatcher
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.data.layout import DatasetIndex
from edgecls.data.pictures import Groups, Members, Pictures, look
from edgecls.data.record import open_record
from edgecls.errors import DataError
from edgecls.imaging.decode import counted

if TYPE_CHECKING:
    from numpy import bool_
    from numpy.typing import NDArray

MIN_SIDE_PX = 32
MAX_ASPECT = 3.0
MAX_IMBALANCE = 10.0
ALIKE = 0.85
"""From this likeness on two class names are taken for one, misspelt (difflib's ratio)."""
MAX_GROUPS = 200
"""More pictures than this help nobody in a report; all of them are counted."""
MAX_MEMBERS = 1000
"""Of one group in a report."""


@dataclass(frozen=True)
class Finding:
    """One kind of trouble: what it is called, what it means, and the images concerned, in groups that belong together.

    `count` is the number of groups that were found, of which `groups` shows the first ones, as (key, class, split), the
    first ones of each; `sizes` says how many images each of these groups has. `severe` findings spoil a training or its
    figures.
    """

    kind: str
    text: str
    count: int
    severe: bool
    groups: tuple[tuple[tuple[str, str, str], ...], ...] = ()
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Report:
    """All that was found. `quarantine` maps keys to the reason why training should leave them out."""

    name: str
    classes: tuple[str, ...]
    images: int
    per_class: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]
    quarantine: dict[str, str] = field(default_factory=dict)

    @property
    def severe(self) -> bool:
        """Whether something was found that spoils a training or its figures."""
        return any(finding.severe for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "severe": self.severe}


def check(
    layout: DatasetIndex, on_progress: Callable[[str], None] = lambda _: None, record: Path | None = None
) -> Report:
    """Look at every image of a layout, those in quarantine included.

    What was seen is kept in the file `record`, from which an interrupted check goes on and a later one decodes what
    changed; without it in a temporary file, where it is much. Raises `DataError` where there is no image, and for a
    record that cannot be used.
    """
    members = Members(layout.splits)
    if not len(members):
        other = f"; its files are {counted(layout.left_out)}" if layout.left_out else ""
        raise DataError(f"{layout.source.location} holds no images in class folders{other}")
    with open_record(record, layout.source.location) as kept:
        pictures = look(layout.source, members, kept, on_progress)
        on_progress("comparing images")
        exact = pictures.duplicates()
        near = pictures.near_duplicates(exact)
    return _Judge(layout, pictures, exact, near).report()


@dataclass(frozen=True)
class _Copies:
    """Groups of one picture: what its images are of each other, and which (G,) lie in several classes, and splits."""

    what: str
    groups: Groups
    across_classes: NDArray[bool_]
    across_splits: NDArray[bool_]


class _Judge:
    """What was seen of the images of a layout, and what is to be said about it."""

    def __init__(self, layout: DatasetIndex, pictures: Pictures, exact: Groups, near: Groups):
        self._layout, self._pictures, self._members = layout, pictures, pictures.members
        labels, parts = self._members.labels(), self._members.parts()
        self._exact, self._near = (
            _Copies(what, groups, groups.differ(labels), groups.differ(parts))
            for what, groups in (("the same file", exact), ("nearly the same picture", near))
        )

    def report(self) -> Report:
        """All that was found."""
        layout, both = self._layout, (self._exact, self._near)
        broken = {self._members[position][1].key: why for position, why in self._pictures.broken.items()}
        found = [
            _left_out(layout),
            _unlisted(layout),
            self._unreadable(),
            self._copies(
                "leaks between splits",
                "the same picture in more than one split: it is trained on and then asked about",
                [(each, each.across_splits) for each in both], severe=True,
            ),
            self._copies(
                "contradictions", "the same picture in more than one class",
                [(each, each.across_classes) for each in both], severe=True,
            ),
            self._copies(
                "duplicates", "the same file more than once in one class", [(self._exact, _together(self._exact))]
            ),
            self._copies(
                "near-duplicates", "nearly the same picture in one class; keep them in one split",
                [(self._near, _together(self._near))],
            ),
            *_typos(layout.classes),
            _imbalance(layout),
            self._odd_sizes(),
            *self._modes(),
        ]  # fmt: skip
        return Report(
            layout.source.name,
            layout.classes,
            len(self._members),
            _per_class(layout),
            tuple(finding for finding in found if finding is not None),
            {**broken, **self._to_leave_out(self._exact), **self._to_leave_out(self._near)},
        )

    def _finding(
        self, kind: str, text: str, count: int, groups: Iterable[Sequence[int]], severe: bool = False
    ) -> Finding | None:
        if not count:
            return None
        shown = list(islice(groups, MAX_GROUPS))
        named = tuple(tuple(map(self._named, group[:MAX_MEMBERS])) for group in shown)
        return Finding(kind, text, count, severe, named, tuple(map(len, shown)))

    def _named(self, position: int) -> tuple[str, str, str]:
        split, sample = self._members[position]
        return sample.key, self._layout.classes[sample.label], split

    def _copies(
        self, kind: str, text: str, chosen: Sequence[tuple[_Copies, NDArray[bool_]]], severe: bool = False
    ) -> Finding | None:
        count = sum(int(which.sum()) for _, which in chosen)
        groups = chain.from_iterable(_chosen(copies.groups, which) for copies, which in chosen)
        return self._finding(kind, text, count, groups, severe)

    def _unreadable(self) -> Finding | None:
        broken = self._pictures.broken
        text = "cannot be decoded, or end before the image does"
        return self._finding("unreadable", text, len(broken), ([position] for position in broken), severe=True)

    def _odd_sizes(self) -> Finding | None:
        sizes = self._pictures.sizes
        short, long = sizes.min(axis=1), sizes.max(axis=1)
        odd = ((short < MIN_SIDE_PX) | (long > MAX_ASPECT * short)) & self._pictures.is_readable()
        text = f"less than {MIN_SIDE_PX} pixels on a side, or more than {MAX_ASPECT:g} times as long as wide"
        return self._finding("odd sizes", text, int(odd.sum()), ([each] for each in odd.nonzero()[0].tolist()))

    def _modes(self) -> list[Finding | None]:
        text = "read as 8-bit colour, upright, and of an animation the first frame"
        return [
            self._finding(mode, text, len(positions), ([position] for position in positions))
            for mode, positions in sorted(self._pictures.modes.items())
        ]

    def _to_leave_out(self, copies: _Copies) -> dict[str, str]:
        """Of copies in several splits those that are trained on, of copies in several classes all, else all but one.

        Pictures that are nearly the same and lie in one class and split do no harm.
        """
        left_out: dict[str, str] = {}
        harmful = copies.across_classes | copies.across_splits | (copies is self._exact)
        for index in harmful.nonzero()[0].tolist():
            group = [self._members[position] for position in copies.groups[index]]
            first = group[0][1]
            if copies.across_classes[index]:
                other = next(sample for _, sample in group if sample.label != first.label)
                for _, sample in group:
                    another = other if sample.label == first.label else first
                    left_out[sample.key] = f"{copies.what} as {another.key}, in another class"
            elif copies.across_splits[index]:
                kept = "test" if any(split == "test" for split, _ in group) else "val"
                there = next(sample.key for split, sample in group if split == kept)
                left_out |= {
                    sample.key: f"{copies.what} as {there}, in {kept}" for split, sample in group if split != kept
                }
            else:
                left_out |= {sample.key: f"{copies.what} as {first.key}" for _, sample in group[1:]}
        return left_out


def _together(copies: _Copies) -> NDArray[bool_]:
    """The groups that are in one class and one split."""
    return ~(copies.across_classes | copies.across_splits)


def _chosen(groups: Groups, which: NDArray[bool_]) -> Iterator[list[int]]:
    return (groups[index] for index in which.nonzero()[0].tolist())


def _per_class(layout: DatasetIndex) -> dict[str, dict[str, int]]:
    """How many images each class has in each split."""
    counts = {split: Counter(sample.label for sample in members) for split, members in layout.splits.items()}
    return {name: {split: counts[split][label] for split in layout.splits} for label, name in enumerate(layout.classes)}


def _left_out(layout: DatasetIndex) -> Finding | None:
    if not layout.left_out:
        return None
    text = f"no images that can be read: {counted(layout.left_out)}"
    return Finding("files left out", text, sum(layout.left_out.values()), False)


def _unlisted(layout: DatasetIndex) -> Finding | None:
    if not layout.unlisted:
        return None
    named = tuple(((key, "", ""),) for key in layout.unlisted[:MAX_GROUPS])
    return Finding(
        "unlisted", "images that data.csv does not list", len(layout.unlisted), False, named, (1,) * len(named)
    )


def _typos(classes: Sequence[str]) -> list[Finding]:
    def plain(name: str) -> str:
        return "".join(letter for letter in name.casefold() if letter.isalnum())

    pairs = [
        (a, b)
        for index, a in enumerate(classes)
        for b in classes[index + 1 :]
        if plain(a) == plain(b) or (not (plain(a) + plain(b)).isdigit() and _differ_little(plain(a), plain(b)))
    ]
    return [
        Finding("class names", f"{a!r} and {b!r} may be one class, spelt in two ways", 1, plain(a) == plain(b))
        for a, b in pairs
    ]


def _differ_little(a: str, b: str) -> bool:
    """Alike but for a letter or two; numbered names (class1, class2) are meant to be."""
    matcher = SequenceMatcher(None, a, b)
    if min(matcher.real_quick_ratio(), matcher.quick_ratio(), matcher.ratio()) < ALIKE:
        return False
    different = [c for tag, i, j, k, m in matcher.get_opcodes() if tag != "equal" for c in a[i:j] + b[k:m]]
    return not all(letter.isdigit() for letter in different)


def _imbalance(layout: DatasetIndex) -> Finding | None:
    counts = Counter(sample.label for sample in layout.splits["train"])
    if not counts:
        return None
    (most, many), (least, few) = counts.most_common(1)[0], counts.most_common()[-1]
    if many <= MAX_IMBALANCE * few:
        return None
    text = f"{layout.classes[most]} has {many} training images, {layout.classes[least]} {few}; training balances them"
    return Finding("imbalance", text, 1, False)
