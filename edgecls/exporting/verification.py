"""Does an artifact do what its parent does? Measured on held-out images, before an export is called done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgecls.artifact.card import Card, Quality
from edgecls.artifact.golden import Golden
from edgecls.data.dataset import open_recorded, subset
from edgecls.errors import DataError, VerificationError
from edgecls.evaluation.inference import labels_of, prepared, run_scores
from edgecls.evaluation.metrics import drop, measure
from edgecls.quantization.calibration import Calibration
from edgecls.runtime.pipeline import scores_of
from edgecls.runtime.scores import agreement
from edgecls.runtime.store import Artifact
from edgecls.runtime.verification import FLOAT_TOLERANCE, open_as_meant

if TYPE_CHECKING:
    from numpy import float32, int64, uint8
    from numpy.typing import NDArray


class HeldOut:
    """Held-out images of a run with the parent's scores.

    Without the data set these are the images that a calibration set has to spare, or else the run's golden inputs.
    """

    def __init__(self, run: Artifact, limit: int, calibration: Calibration | None = None):
        import numpy as np

        self.labels: NDArray[int64] | None = None
        self.images: NDArray[uint8]
        self.parent_scores: NDArray[float32]
        try:
            dataset = open_recorded(run.path)
            samples = subset(dataset, "test", limit)
            self.images = np.stack(list(prepared(dataset.source, samples, run.card.preprocess)))
            self.parent_scores = run_scores(run, dataset.source, [sample.key for sample in samples])
            self.labels, self.split = labels_of(samples), "test"
        except DataError:
            if calibration and calibration.spare:
                spare = calibration.spare_images(run.card.preprocess, limit)
                self.images, self.split = np.stack(list(spare)), "unlabelled"
                self.parent_scores = run_scores(run, calibration.source, calibration.spare[:limit])
            else:
                self.images, self.split = Golden.read(run.path, run.card).images, "golden"
                with run.open() as session:
                    self.parent_scores = scores_of(session, self.images)


class Verifier:
    """Compares bundles with their run on held-out images, which the run is asked about before the first comparison."""

    def __init__(
        self,
        run: Artifact,
        limit: int,
        on_progress: Callable[[str], None] = lambda _: None,
        calibration: Calibration | None = None,
    ):
        self._run, self._limit, self._on_progress, self._calibration = run, limit, on_progress, calibration

    @cached_property
    def _held_out(self) -> HeldOut:
        self._on_progress("running the run on held-out images")
        return HeldOut(self._run, self._limit, self._calibration)

    def verify(self, bundle: Artifact, graph: Path) -> Artifact:
        """The bundle with its quality measured; `graph` is what it was built from. See `measure_quality`."""
        self._on_progress("verifying against the run")
        return Artifact(bundle.path, replace(bundle.card, quality=measure_quality(bundle, graph, self._held_out)))

    def verify_float(self, bundle: Artifact, graph: Path) -> Artifact:
        """The same for a float bundle. Raises `VerificationError` where its scores differ visibly from the run's."""
        verified = self.verify(bundle, graph)
        require_faithful(verified.card, self._held_out)
        return verified


def measure_quality(bundle: Artifact, graph: Path, held_out: HeldOut) -> Quality:
    """Compare a bundle with its parent, through its own runtime or, where that or its device is not here, another one
    on the graph that the bundle was built from.

    Raises `VerificationError` for scores that are no numbers.
    """
    import numpy as np

    session, runtime = open_as_meant(bundle, graph)
    with session:
        scores = scores_of(session, held_out.images)
    if not np.isfinite(scores).all():
        raise VerificationError(f"{bundle.card.name} gives scores that are not finite numbers")
    quality = Quality(
        split=held_out.split,
        images=len(scores),
        agreement=agreement(scores, held_out.parent_scores),
        max_score_difference=float(np.abs(scores - held_out.parent_scores).max()),
        verified_with=runtime,
    )
    if held_out.labels is None:
        return quality
    metrics = measure(scores, held_out.labels)
    lost, interval = drop(scores, held_out.parent_scores, held_out.labels)
    return replace(
        quality, top1=metrics.top1, macro_f1=metrics.macro_f1, drop_points=lost, drop_interval_points=interval
    )


def require_faithful(card: Card, held_out: HeldOut) -> None:
    """Raise `VerificationError` where a float bundle's scores differ visibly from its parent's."""
    import numpy as np

    quality, scale = card.quality, float(np.abs(held_out.parent_scores).max())
    agreed, difference = quality.agreement or 0.0, quality.max_score_difference or 0.0
    if not difference <= FLOAT_TOLERANCE[card.precision] * scale or agreed < 0.99:
        raise VerificationError(
            f"{card.name} does not do what its parent does: {agreed:.2%} agreement over {quality.images} images, "
            f"scores differ by up to {difference:.3g}; nothing was written"
        )
