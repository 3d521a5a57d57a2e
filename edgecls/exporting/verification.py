"""Does an artifact do what its parent does? Measured on held-out images, before an export is called done."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.artifact.card import Card, Quality
from edgecls.artifact.golden import Golden
from edgecls.data.dataset import Dataset, balanced, open_recorded
from edgecls.data.splits import Sample
from edgecls.errors import DataError, VerificationError
from edgecls.evaluation.inference import GOLDEN_IMAGES, PreparedImages, labels_of, run_scores
from edgecls.evaluation.metrics import labelled
from edgecls.quantization.calibration import Calibration
from edgecls.runtime.pipeline import scores_of
from edgecls.runtime.store import Artifact
from edgecls.runtime.verification import TOLERANCE, compared, open_as_meant

if TYPE_CHECKING:
    from numpy import float32, int64, uint8
    from numpy.typing import NDArray


NO_LABELS = "unlabelled"
"""The split of images that a calibration set has to spare."""
FIRST_IMAGES = 100
"""On so many a candidate that cannot pass shows itself."""


@dataclass(frozen=True)
class HeldOut:
    """Images that a bundle is compared with its run on: the run's scores (N, C), and labels (N,) where they are known.

    `images` gives the raw network inputs (h, w, 3) from one position to another; any first part of them is balanced
    over the classes.
    """

    split: str
    images: Callable[[int, int], Iterable[NDArray[uint8]]]
    parent_scores: NDArray[float32]
    labels: NDArray[int64] | None = None

    def __len__(self) -> int:
        return len(self.parent_scores)

    def first(self, count: int) -> HeldOut:
        """The first of them only."""
        labels = None if self.labels is None else self.labels[:count]
        return replace(self, parent_scores=self.parent_scores[:count], labels=labels)


class Verifier:
    """Compares bundles with their run on held-out images, which the run is asked about before the first comparison.

    These are up to `limit` images of the test split. Without the data set they are the images that a calibration set
    has to spare, or else the run's golden inputs.
    """

    def __init__(
        self,
        run: Artifact,
        limit: int,
        on_progress: Callable[[str], None] = lambda _: None,
        calibration: Calibration | None = None,
    ):
        self._run, self._limit, self._on_progress, self._calibration = run, limit, on_progress, calibration

    @property
    def count(self) -> int:
        """How many images that is."""
        return len(self._held_out)

    def golden(self) -> Golden:
        """The golden inputs for a bundle: the run's or, where those are patches of colour because it was imported
        without images, the first of the images that it is compared on.
        """
        import numpy as np

        held_out = self._held_out
        if held_out.split != NO_LABELS:
            return Golden.read(self._run.path, self._run.card)
        images = np.stack(list(held_out.images(0, min(GOLDEN_IMAGES, len(held_out)))))
        return Golden(images, held_out.parent_scores[: len(images)])

    def validation(self, limit: int) -> tuple[Iterable[NDArray[uint8]], NDArray[int64]] | None:
        """Raw network inputs of up to `limit` validation images and their labels (N,); None without the data set."""
        try:
            images, labels, test = self._pool
        except DataError:
            return None
        stop = min(len(labels), test + limit)
        return images.part(test, stop), labels[test:stop]

    def prepared(self, samples: Iterable[Sample]) -> Iterable[NDArray[uint8]]:
        """Raw network inputs of samples of the data set."""
        images, _, _ = self._pool
        position_of = {key: position for position, key in enumerate(images.keys)}
        return images.at(position_of[sample.key] for sample in samples)

    @cached_property
    def dataset(self) -> Dataset:
        """The data set that the run was trained on. Raises `DataError` where it is gone."""
        return open_recorded(self._run.path)

    def verify(
        self, bundle: Artifact, graph: Path, cannot_pass: Callable[[Quality], bool] = lambda _: False
    ) -> Artifact:
        """The bundle with its quality measured; `graph` is what it was built from. See `measure_quality`."""
        held_out = self._held_out
        self._on_progress("verifying against the run")
        return _with_quality(bundle, measure_quality(bundle, graph, held_out, cannot_pass))

    def verify_on_all(self, bundle: Artifact, graph: Path) -> Artifact:
        """The same on all images that nothing was learned from, validation images included, where there are more."""
        if (held_out := self._all_held_out) is None:
            return bundle
        self._on_progress(f"verifying against the run on all {len(held_out)} held-out images")
        return _with_quality(bundle, measure_quality(bundle, graph, held_out))

    def verify_float(self, bundle: Artifact, graph: Path) -> Artifact:
        """As `verify`. Raises `VerificationError` where a float bundle's scores differ visibly from the run's."""
        verified = self.verify(bundle, graph)
        require_faithful(verified.card, self._held_out)
        return verified

    @cached_property
    def _held_out(self) -> HeldOut:
        self._on_progress("running the run on held-out images")
        try:
            images, labels, test = self._pool
            return self._asked("test", images, labels[: min(test, self._limit)])
        except DataError:
            return self._without_data()

    @cached_property
    def _all_held_out(self) -> HeldOut | None:
        try:
            images, labels, test = self._pool
            if len(labels) == len(self._held_out):
                return None
            self._on_progress("running the run on all held-out images")
            return self._asked("test" if len(labels) == test else "test and validation", images, labels)
        except DataError:
            return None

    @cached_property
    def _pool(self) -> tuple[PreparedImages, NDArray[int64], int]:
        """All images, those of the test split first, then those of the validation split; the labels of these two, and
        how many the former are.
        """
        dataset = self.dataset
        splits = [balanced(dataset.splits[name], len(dataset.splits[name]), dataset.seed) for name in ("test", "val")]
        samples = [sample for split in splits for sample in split]
        keys = [sample.key for sample in (*samples, *dataset.splits["train"])]
        return PreparedImages(dataset.source, keys, self._run.card.preprocess), labels_of(samples), len(splits[0])

    def _asked(self, split: str, images: PreparedImages, labels: NDArray[int64] | None, count: int = 0) -> HeldOut:
        """The first images with the run's scores: as many as there are labels, or `count` without labels."""
        scores = run_scores(self._run, images, count if labels is None else len(labels))
        return HeldOut(split, images.part, scores, labels)

    def _without_data(self) -> HeldOut:
        if self._calibration and self._calibration.spare:
            source, keys = self._calibration.source, self._calibration.spare[: self._limit]
            images = PreparedImages(source, keys, self._run.card.preprocess)
            return self._asked(NO_LABELS, images, None, len(keys))
        golden = Golden.read(self._run.path, self._run.card).images
        with self._run.open() as session:
            return HeldOut("golden", lambda start, stop: golden[start:stop], scores_of(session, golden))


def _with_quality(bundle: Artifact, quality: Quality) -> Artifact:
    """The bundle with what was measured; its timing stays."""
    old = bundle.card.quality
    quality = replace(
        quality,
        latency_ms=old.latency_ms,
        latency_machine=old.latency_machine,
        gain=old.gain,
        recommended=old.recommended,
    )
    return Artifact(bundle.path, replace(bundle.card, quality=quality))


def measure_quality(
    bundle: Artifact, graph: Path, held_out: HeldOut, cannot_pass: Callable[[Quality], bool] = lambda _: False
) -> Quality:
    """Compare a bundle with its parent, through its own runtime or, where that or its device is not here, another one
    on the graph that the bundle was built from.

    What `cannot_pass` after the first images is not asked about the others. Raises `VerificationError` for scores that
    are no numbers.
    """
    import numpy as np

    count = len(held_out)
    session, runtime = open_as_meant(bundle, graph)
    with session:
        begun = FIRST_IMAGES if count >= 2 * FIRST_IMAGES else count
        scores = scores_of(session, held_out.images(0, begun))
        quality = _quality(bundle.card, scores, held_out.first(begun), runtime)
        if begun == count or cannot_pass(quality):
            return quality
        scores = np.concatenate([scores, scores_of(session, held_out.images(begun, count))])
    return _quality(bundle.card, scores, held_out, runtime)


def _quality(card: Card, scores: NDArray[float32], held_out: HeldOut, runtime: str) -> Quality:
    import numpy as np

    if not np.isfinite(scores).all():
        raise VerificationError(f"{card.name} gives scores that are not finite numbers")
    quality = compared(scores, held_out.parent_scores, held_out.split, runtime)
    if held_out.labels is None:
        return quality
    return labelled(quality, scores, held_out.parent_scores, held_out.labels)


def require_faithful(card: Card, held_out: HeldOut) -> None:
    """Raise `VerificationError` where a float bundle's scores differ visibly from its parent's."""
    import numpy as np

    quality, scale = card.quality, float(np.abs(held_out.parent_scores).max())
    agreed, difference = quality.agreement or 0.0, quality.max_score_difference or 0.0
    if not difference <= TOLERANCE[card.precision] * scale or agreed < 0.99:
        raise VerificationError(
            f"{card.name} does not do what its parent does: {agreed:.2%} agreement over {quality.images} images, "
            f"scores differ by up to {difference:.3g}; nothing was written"
        )
