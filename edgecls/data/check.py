"""What is wrong with a data set before anything is trained on it. Nothing is changed and nothing deleted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from difflib import SequenceMatcher
from typing import Any

from edgecls.concurrency import ordered_map
from edgecls.data.layout import DatasetIndex
from edgecls.data.similar import PerceptualHash, near_pairs, perceptual_hash
from edgecls.data.sources import FolderSource, Source
from edgecls.data.splits import Sample
from edgecls.disjoint_sets import DisjointSets
from edgecls.errors import DataError, ImageError, MissingExtraError
from edgecls.imaging.decode import counted

MIN_SIDE_PX = 32
MAX_ASPECT = 3.0
MAX_IMBALANCE = 10.0
ALIKE = 0.85
"""From this likeness on two class names are taken for one, misspelt (difflib's ratio)."""
MAX_GROUPS = 200
"""More pictures than this help nobody in a report; all of them are counted."""


@dataclass(frozen=True)
class Picture:
    """One image as it was found: its sample and split, size in pixels, and what is unusual in how it is stored."""

    sample: Sample
    split: str
    height_px: int
    width_px: int
    fingerprint: str
    modes: tuple[str, ...]
    look: PerceptualHash


@dataclass(frozen=True)
class Finding:
    """One kind of trouble: what it is called, what it means, and the images concerned, in groups that belong together.

    `count` is the number of groups that were found, of which `groups` shows the first ones, as (key, class, split).
    `severe` findings spoil a training or its figures.
    """

    kind: str
    text: str
    count: int
    severe: bool
    groups: tuple[tuple[tuple[str, str, str], ...], ...] = ()


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


def check(layout: DatasetIndex, on_progress: Callable[[str], None] = lambda _: None) -> Report:
    """Look at every image of a layout, those in quarantine included. Raises `DataError` where there is none."""
    samples = [(split, sample) for split, members in layout.splits.items() for sample in members]
    if not samples:
        other = f"; its files are {counted(layout.left_out)}" if layout.left_out else ""
        raise DataError(f"{layout.source.location} holds no images in class folders{other}")
    pictures, broken = look(layout.source, samples, on_progress)
    on_progress("comparing images")
    groups = duplicates(pictures)
    near = near_duplicates(pictures, groups)
    quarantine = {**broken, **_to_leave_out(groups, "the same file"), **_to_leave_out(near, "nearly the same picture")}
    name_of = _names(layout)
    findings = [
        _left_out(layout),
        _unlisted(layout),
        _unreadable(broken, samples, layout),
        _leaks([*groups, *near], name_of),
        _contradictions([*groups, *near], name_of),
        _copies(groups, name_of, "duplicates", "the same file more than once in one class"),
        _copies(near, name_of, "near-duplicates", "nearly the same picture in one class; keep them in one split"),
        *_typos(layout.classes),
        _imbalance(layout),
        _odd_sizes(pictures, name_of),
        *_modes(pictures, name_of),
    ]
    return Report(
        layout.source.name,
        layout.classes,
        len(samples),
        {
            name: {split: sum(s.label == label for s in members) for split, members in layout.splits.items()}
            for label, name in enumerate(layout.classes)
        },
        tuple(finding for finding in findings if finding is not None),
        quarantine,
    )


def look(
    source: Source, samples: Sequence[tuple[str, Sample]], on_progress: Callable[[str], None] = lambda _: None
) -> tuple[list[Picture], dict[str, str]]:
    """The images of (split, sample), and the keys of those that cannot be read with the reason."""
    pictures: list[Picture] = []
    broken: dict[str, str] = {}
    looked = ordered_map(lambda item: _look(source, *item), samples)
    for number, ((_, sample), seen) in enumerate(zip(samples, looked, strict=True), start=1):
        on_progress(f"looking at image {number} of {len(samples)}")
        if isinstance(seen, Picture):
            pictures.append(seen)
        else:
            broken[sample.key] = seen
    return pictures, broken


def _look(source: Source, split: str, sample: Sample) -> Picture | str:
    try:
        image = source.read(sample.key)
    except ImageError as error:
        return str(error)
    height, width = image.shape[:2]
    return Picture(
        sample, split, height, width, source.fingerprint(sample.key), _unusual(source, sample), perceptual_hash(image)
    )


def _unusual(source: Source, sample: Sample) -> tuple[str, ...]:
    """What is unusual in how a file is stored, from its header."""
    if not isinstance(source, FolderSource):
        return ()
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtraError("pillow", "train", "looking at how images are stored") from error
    try:
        with Image.open(source.root / sample.key) as picture:
            names = {
                "L": "grey",
                "1": "grey",
                "P": "palette",
                "RGBA": "transparent",
                "LA": "transparent",
                "CMYK": "CMYK",
            }
            oddities = [names.get(picture.mode, "16-bit" if picture.mode.startswith("I") else "")]
            oddities.append("animated" if getattr(picture, "n_frames", 1) > 1 else "")
            oddities.append("turned by EXIF" if picture.getexif().get(0x0112, 1) != 1 else "")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError):
        return ("stored in a way that only OpenCV reads",)
    return tuple(filter(None, oddities))


Group = tuple[Picture, ...]
Names = Callable[[Iterable[Picture]], tuple[tuple[str, str, str], ...]]


def _names(layout: DatasetIndex) -> Names:
    return lambda group: tuple((p.sample.key, layout.classes[p.sample.label], p.split) for p in group)


def duplicates(pictures: Sequence[Picture]) -> list[Group]:
    """Groups of images that are the same file."""
    same: dict[str, list[Picture]] = {}
    for picture in pictures:
        same.setdefault(picture.fingerprint, []).append(picture)
    return [tuple(group) for group in same.values() if len(group) > 1]


def near_duplicates(pictures: Sequence[Picture], exact: Sequence[Group]) -> list[Group]:
    """Groups of pictures that are linked by nearness; of files that are the same only the first one takes part."""
    later = {picture.sample.key for group in exact for picture in group[1:]}
    distinct = [picture for picture in pictures if picture.sample.key not in later]
    linked = DisjointSets(range(len(distinct)))
    for first, second in near_pairs([picture.look for picture in distinct]):
        linked.join(first, second)
    groups: dict[int, list[Picture]] = {}
    for index, picture in enumerate(distinct):
        groups.setdefault(linked.find(index), []).append(picture)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _to_leave_out(groups: Sequence[Group], what: str) -> dict[str, str]:
    """Of copies in several splits those that are trained on, of copies in several classes all, else all but one.

    Pictures that are nearly the same and lie in one class and split do no harm.
    """
    left_out: dict[str, str] = {}
    for group in groups:
        first, splits = group[0], {picture.split for picture in group}
        if len({picture.sample.label for picture in group}) > 1:
            left_out |= {p.sample.key: f"{what} as {_another(p, group)}, in another class" for p in group}
        elif len(splits) > 1:
            kept = "test" if "test" in splits else "val"
            left_out |= {
                p.sample.key: f"{what} as {next(q.sample.key for q in group if q.split == kept)}, in {kept}"
                for p in group
                if p.split != kept
            }
        elif what == "the same file":
            left_out |= {p.sample.key: f"{what} as {first.sample.key}" for p in group[1:]}
    return left_out


def _another(picture: Picture, group: Group) -> str:
    return next(p.sample.key for p in group if p.sample.label != picture.sample.label)


def _unreadable(broken: dict[str, str], samples: Sequence[tuple[str, Sample]], layout: DatasetIndex) -> Finding | None:
    if not broken:
        return None
    named = tuple(((s.key, layout.classes[s.label], split),) for split, s in samples if s.key in broken)
    return Finding(
        "unreadable", "cannot be decoded, or end before the image does", len(broken), True, named[:MAX_GROUPS]
    )


def _left_out(layout: DatasetIndex) -> Finding | None:
    if not layout.left_out:
        return None
    text = f"no images that can be read: {counted(layout.left_out)}"
    return Finding("files left out", text, sum(layout.left_out.values()), False)


def _unlisted(layout: DatasetIndex) -> Finding | None:
    if not layout.unlisted:
        return None
    named = tuple(((key, "", ""),) for key in layout.unlisted[:MAX_GROUPS])
    return Finding("unlisted", "images that data.csv does not list", len(layout.unlisted), False, named)


def _leaks(groups: Sequence[Group], name_of: Names) -> Finding | None:
    matches = [group for group in groups if len({picture.split for picture in group}) > 1]
    text = "the same picture in more than one split: it is trained on and then asked about"
    return _finding("leaks between splits", text, matches, name_of, severe=True)


def _contradictions(groups: Sequence[Group], name_of: Names) -> Finding | None:
    matches = [group for group in groups if len({picture.sample.label for picture in group}) > 1]
    return _finding("contradictions", "the same picture in more than one class", matches, name_of, severe=True)


def _copies(groups: Sequence[Group], name_of: Names, kind: str, text: str) -> Finding | None:
    matches = [g for g in groups if len({p.sample.label for p in g}) == 1 and len({p.split for p in g}) == 1]
    return _finding(kind, text, matches, name_of, severe=False)


def _finding(kind: str, text: str, groups: Sequence[Group], name_of: Names, severe: bool) -> Finding | None:
    if not groups:
        return None
    return Finding(kind, text, len(groups), severe, tuple(map(name_of, groups[:MAX_GROUPS])))


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
    different = [
        c for tag, i, j, k, m in SequenceMatcher(None, a, b).get_opcodes() if tag != "equal" for c in a[i:j] + b[k:m]
    ]
    return SequenceMatcher(None, a, b).ratio() >= ALIKE and not all(letter.isdigit() for letter in different)


def _imbalance(layout: DatasetIndex) -> Finding | None:
    counts = Counter(sample.label for sample in layout.splits["train"])
    if not counts:
        return None
    (most, many), (least, few) = counts.most_common(1)[0], counts.most_common()[-1]
    if many <= MAX_IMBALANCE * few:
        return None
    text = f"{layout.classes[most]} has {many} training images, {layout.classes[least]} {few}; training balances them"
    return Finding("imbalance", text, 1, False)


def _odd_sizes(pictures: Sequence[Picture], name_of: Names) -> Finding | None:
    def odd(picture: Picture) -> bool:
        short, long = sorted((picture.height_px, picture.width_px))
        return short < MIN_SIDE_PX or long > MAX_ASPECT * short

    matches = [(picture,) for picture in pictures if odd(picture)]
    text = f"less than {MIN_SIDE_PX} pixels on a side, or more than {MAX_ASPECT:g} times as long as wide"
    return _finding("odd sizes", text, matches, name_of, severe=False)


def _modes(pictures: Sequence[Picture], name_of: Names) -> list[Finding]:
    kinds = sorted({mode for picture in pictures for mode in picture.modes})
    findings = [
        _finding(kind, "read as 8-bit colour, upright, and of an animation the first frame",
                 [(p,) for p in pictures if kind in p.modes], name_of, severe=False)
        for kind in kinds
    ]  # fmt: skip
    return [finding for finding in findings if finding is not None]
