"""Old and new images as one data set: what was held out stays held out, and of the new ones some are held out too."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.adapting.classes import ClassChange
from edgecls.cache import Entry
from edgecls.concurrency import ordered_map
from edgecls.data.dataset import Dataset, is_run_record, open_recorded, usable_samples
from edgecls.data.layout import GROUP_COLUMN, index_dataset
from edgecls.data.similar import HASH_BITS, near_pairs, packed, perceptual_hash, unpacked
from edgecls.data.sources import FolderSource, JoinedSource, Source
from edgecls.data.splits import SPLITS, Sample, divide
from edgecls.disjoint_sets import DisjointSets
from edgecls.errors import DataError, UsageError
from edgecls.evaluation.kept_rows import kept_rows
from edgecls.imaging.preprocess import Preprocess
from edgecls.imaging.small import SMALL_PX
from edgecls.retraining.config import RetrainConfig

if TYPE_CHECKING:
    from numpy import float32, uint8, uint64
    from numpy.typing import NDArray

    from edgecls.runtime.store import Artifact

NEW_HELD_OUT = {"val": 0.1, "test": 0.25}
"""Shares of the new images; without enough of them nothing could be said of the new."""
LEAST_NEW = 4
_ROUGH = Preprocess(2 * SMALL_PX, 2 * SMALL_PX)
"""For what an image looks like from afar."""
RENAMED_SHARE = 0.5
"""Of a class's images that are another class's: it is that class under another name."""
SHOWN = 3


@dataclass(frozen=True)
class Mixture:
    """All images: `new_keys` are the new ones', `digests` their SHA-256 by key, `remarks` what a person should know."""

    dataset: Dataset
    changed: ClassChange
    new_keys: frozenset[str]
    digests: Mapping[str, str]
    remarks: tuple[str, ...]

    def digest_of_new(self) -> str:
        """A digest of all new images."""
        return hashlib.sha256("".join(sorted(self.digests[key] for key in self.new_keys)).encode()).hexdigest()

    def count(self, new: bool) -> int:
        """How many images are new, or are not."""
        samples = (sample for split in self.dataset.splits.values() for sample in split)
        return sum((sample.key in self.new_keys) is new for sample in samples)


@dataclass(frozen=True)
class _Image:
    """An image with the name of its class, None where that is no more."""

    key: str
    name: str | None
    split: str


def mix(run: Artifact, config: RetrainConfig) -> Mixture:
    """The images of a run, in their splits, with new ones.

    A new image that is an old one, or nearly shows what an old held-out one shows, is not learned from; one that is an
    old image under another class says what that is now. Raises `DataError` where images are gone or too few, and
    `UsageError` for classes that do not fit together.
    """
    mixing = _Mixing(run, config)
    mixing.take_old()
    mixing.take_new()
    return mixing.mixed()


class _Mixing:
    def __init__(self, run: Artifact, config: RetrainConfig):
        self._config, self._run = config, run
        self._changed = ClassChange.of(run.card.classes, config.rename, config.remove)
        self._remarks: list[str] = []
        self._skipped: dict[str, str] = {}
        self._old: list[_Image] = []
        self._new: list[_Image] = []
        self._digests: dict[str, str] = {}
        self._columns: dict[str, Mapping[str, str]] = {}

    def take_old(self) -> None:
        """The recorded images that are still there, under the names that their classes have now."""
        recorded = self._recorded()
        self._source, self._seed = recorded.source, recorded.seed
        if self._config.without_old:
            self._remarks.append(
                "the run's own images are left out: what is lost on them is not known, nor whether some are among the "
                "new ones"
            )
            return
        images = [
            _Image(sample.key, self._changed.name_now(recorded.classes[sample.label]), split)
            for split in SPLITS
            for sample in recorded.splits.get(split, ())
        ]
        self._columns = dict(recorded.columns)
        self._old = self._readable(images)
        lost = Counter(image.split for image in images) - Counter(image.split for image in self._old)
        if lost:
            counts = ", ".join(f"{lost[split]} of {split}" for split in SPLITS if lost[split])
            self._remarks.append(f"{sum(lost.values())} of the run's own images are gone ({counts})")
        if gone := [split for split in SPLITS if split not in {image.split for image in self._old}]:
            raise DataError(
                f"the {gone[0]} images that {self._run.path} was made with are no longer at {self._source.location}; "
                "bring them back, say with `old_data` where they are, or go on with `without_old`"
            )

    def _recorded(self) -> Dataset:
        config = self._config
        try:
            recorded = open_recorded(self._run.path, config.old_data)
        except DataError as error:
            if not config.without_old:
                raise DataError(f"{error}, say with `old_data` where they are, or go on with `without_old`") from error
            recorded = Dataset(FolderSource(Path(config.data)), self._run.card.classes, {}, config.seed)
        return recorded

    def _readable(self, images: Sequence[_Image]) -> list[_Image]:
        def digest(image: _Image) -> str | None:
            try:
                return self._source.fingerprint(image.key)
            except OSError:
                return None

        found = list(zip(images, ordered_map(digest, images), strict=True))
        self._digests.update({image.key: known for image, known in found if known})
        return [image for image, known in found if known]

    def take_new(self) -> None:
        """The new images, by the splits that they bring or in splits of their own."""
        if is_run_record(Path(self._config.data)):
            raise UsageError(f"`data`: {self._config.data} is a run; give a folder of images")
        layout = index_dataset(self._config.data)
        usable, self._skipped = usable_samples(layout)
        prefix = self._join(layout.source)
        images = [
            _Image(prefix + sample.key, name, split)
            for split, samples in usable.items()
            for sample in samples
            if (name := self._changed.name_now(layout.classes[sample.label])) is not None
        ]
        self._columns |= {prefix + key: columns for key, columns in layout.columns.items()}
        images, relabelled = self._without_known(self._readable(images))
        enough = len(images) >= LEAST_NEW
        if not (enough or relabelled or self._changed.renamed or self._changed.removed):
            raise DataError(
                f"{self._config.data} holds {len(images)} images that the run does not know yet; {LEAST_NEW} are the "
                "least to learn from and to judge by"
            )
        self._old = [image for image in self._old if image.name is not None]
        self._changed = self._changed.with_new(sorted({i.name for i in (*self._old, *images) if i.name is not None}))
        brought = bool(usable.get("test"))
        self._new = self._split(images, drawn=enough and not brought)
        if enough and brought and not any(image.split == "test" for image in self._new):
            self._remarks.append(
                f"none of the {len(self._new)} new images is held out: all of their series stand in other splits, so "
                "that nothing tells how well the new is learned; collect more series"
            )

    def _join(self, source: Source) -> str:
        """Put the new images' source beside the old ones'; returns what their keys begin with."""
        if not self._old or source.location == self._source.location:
            self._source = source if not self._old else self._source
            return ""
        parts = self._source.parts if isinstance(self._source, JoinedSource) else ()
        locations = [part.location for part in parts]
        if source.location in locations:
            return f"{locations.index(source.location)}/"
        if not parts:
            parts = (self._source,)
            self._old = [_Image(f"0/{image.key}", image.name, image.split) for image in self._old]
            self._digests = {f"0/{key}": digest for key, digest in self._digests.items()}
            self._columns = {f"0/{key}": columns for key, columns in self._columns.items()}
        self._source = JoinedSource([*parts, source])
        return f"{len(parts)}/"

    def _without_known(self, images: Sequence[_Image]) -> tuple[list[_Image], int]:
        """The images that are not old ones, and how many of these have another class among the new, which they take."""
        by_digest = {self._digests[image.key]: image for image in self._old}
        named: dict[str, set[str | None]] = defaultdict(set)
        fresh: dict[str, _Image] = {}
        for image in images:
            digest = self._digests[image.key]
            if digest in by_digest:
                named[digest].add(image.name)
            elif digest in fresh and fresh[digest].name != image.name:
                raise DataError(f"{image.key} is the same image as {fresh[digest].key}, in another class; remove one")
            else:
                fresh.setdefault(digest, image)
        one_name = {digest: names.pop() for digest, names in named.items() if len(names) == 1}
        self._require_no_renaming(one_name, by_digest, Counter(image.name for image in images))
        relabelled = 0
        for position, old in enumerate(self._old):
            now = one_name.get(self._digests[old.key], old.name)
            if now != old.name:
                relabelled += 1
                self._old[position] = _Image(old.key, now, old.split)
        if named:
            changed = f"; {relabelled} of them have another class now, which is taken" if relabelled else ""
            self._remarks.append(f"{len(named)} images are known to the run already{changed}")
        return list(fresh.values()), relabelled

    def _require_no_renaming(
        self, named: Mapping[str, str | None], by_digest: Mapping[str, _Image], counts: Mapping[str | None, int]
    ) -> None:
        """Raise `UsageError` where a class that seems new is an old one under another name."""
        moved = Counter((name, by_digest[digest].name) for digest, name in named.items())
        for (name, old), count in moved.items():
            if old is not None and name not in self._changed.names and count > RENAMED_SHARE * counts[name]:
                raise UsageError(
                    f"class {name!r} holds images that were {old!r}; if that is what it is called now, give `rename` "
                    f"{old}={name}, if it was split, `remove` {old}"
                )

    def _split(self, images: Sequence[_Image], drawn: bool) -> list[_Image]:
        """New images in their splits; near duplicates of held-out old ones, and what continues their series, are left
        out, those of others trained on.
        """
        groups, held_out_copies = self._groups(images)
        for image in images:
            if image.key in held_out_copies:
                self._skipped[image.key] = f"{image.key} shows nearly what {held_out_copies[image.key]} shows"
        images = [image for image in images if image.key not in held_out_copies]
        if held_out_copies:
            self._remarks.append(
                f"{len(held_out_copies)} new images show nearly what held-out images of the run show; they are left out"
            )
        images = self._without_held_out_series(images, groups)
        if not drawn:
            return list(images)
        trained = {groups[image.key] for image in self._old if image.key in groups}
        names = sorted({image.name for image in images if image.name is not None})
        free = [
            Sample(image.key, names.index(image.name))
            for image in images
            if image.name is not None and image.split == "train" and groups[image.key] not in trained
        ]
        try:
            splits = divide(free, lambda sample: groups[sample.key], NEW_HELD_OUT, self._config.seed)
        except DataError as error:
            raise DataError(
                f"the new images cannot be split ({error}); photograph more series, or give each image its `split` in "
                "a manifest"
            ) from error
        chosen = {sample.key: split for split, members in splits.items() for sample in members}
        return [_Image(image.key, image.name, chosen.get(image.key, image.split)) for image in images]

    def _without_held_out_series(self, images: Sequence[_Image], groups: Mapping[str, str]) -> list[_Image]:
        """The images but those to learn from whose group the run holds out whole."""
        trained = {groups[image.key] for image in self._old if image.split == "train"}
        held_out = {groups[image.key]: image.key for image in self._old if image.split != "train"}
        members = {
            image.key: held_out[group]
            for image in images
            if (group := groups[image.key]) in held_out and group not in trained and image.split == "train"
        }
        if members:
            self._skipped |= {
                key: f"{key} is of the series of {old}, which is held out" for key, old in members.items()
            }
            self._remarks.append(f"{len(members)} new images are of series that the run holds out; they are left out")
        return [image for image in images if image.key not in members]

    def _groups(self, images: Sequence[_Image]) -> tuple[dict[str, str], dict[str, str]]:
        """What belongs into one split: series of a manifest and near duplicates, by key; and near duplicates of
        held-out old images, with these.
        """
        old = [image.key for image in self._old]
        keys = [*(image.key for image in images), *old]
        linked = DisjointSets(keys)
        series = defaultdict(list)
        for key in keys:
            if group := self._columns.get(key, {}).get(GROUP_COLUMN):
                series[group].append(key)
        for members in series.values():
            for key in members[1:]:
                linked.join(key, members[0])
        held_out = {image.key for image in self._old if image.split != "train"}
        copies: dict[str, str] = {}
        hashes, small = self._hashes(keys)
        for one, other in near_pairs(hashes, lambda positions: small[positions]):
            if one >= len(images):
                continue  # both are old
            if keys[other] in held_out:
                copies[keys[one]] = keys[other]
            else:
                linked.join(keys[one], keys[other])
        return {key: linked.find(key) for key in keys}, copies

    def _hashes(self, keys: Sequence[str]) -> tuple[NDArray[uint64], NDArray[uint8]]:
        """The hashes (N,) and small copies (N, 1024)."""
        import numpy as np

        def row(key: str) -> NDArray[float32]:
            value, small = perceptual_hash(self._source.read_for(key, _ROUGH))
            return np.concatenate([unpacked(np.array([value], np.uint64))[0], small]).astype(np.float32)

        def compute(positions: Sequence[int]) -> NDArray[float32]:
            return np.stack(list(ordered_map(row, (keys[position] for position in positions))))

        rows = kept_rows(Entry.of("perceptual-hashes", 2), [self._digests[key] for key in keys], compute)
        return packed(rows[:, :HASH_BITS] > 0), rows[:, HASH_BITS:].astype(np.uint8)

    def mixed(self) -> Mixture:
        """All of them as one data set."""
        names = self._changed.names
        everything = [*self._old, *self._new]
        splits = {
            split: [Sample(i.key, names.index(i.name)) for i in everything if i.split == split and i.name is not None]
            for split in SPLITS
        }
        self._require_all(names, splits)
        dataset = Dataset(self._source, names, splits, self._seed, self._skipped, self._columns)
        new_keys = frozenset(image.key for image in self._new)
        return Mixture(dataset, self._changed, new_keys, self._digests, tuple(self._remarks))

    def _require_all(self, names: Sequence[str], splits: Mapping[str, Iterable[Sample]]) -> None:
        """Raise `DataError` for classes without images, unless only the last layer learns, where they keep theirs."""
        there = {sample.label for sample in splits["train"]}
        if missing := [name for label, name in enumerate(names) if label not in there]:
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            shown = f"{', '.join(missing[:SHOWN])}{more}"
            if not self._config.without_old:
                raise DataError(
                    f"there are no images left to learn {shown} from; add some, or give `remove` for what is no more"
                )
            if self._config.freeze != "backbone":
                raise DataError(
                    f"there are no images of {shown}: where all layers learn, these would be forgotten; add some of "
                    "each, give `freeze` backbone, with which they keep their weights, or `remove` for what is no more"
                )
            self._remarks.append(
                f"there are no images of {shown}: they keep their weights, and nothing tells how well they are still "
                "recognized"
            )
        if not list(splits["val"]):
            raise DataError("no image is left for validation; add images")
