"""What changed between two models: answers, accuracy, confidence, noise in the layers, and speed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecls.benchmarking.config import TimingConfig
from edgecls.benchmarking.run import gain_over, time_artifacts
from edgecls.data.sources import Source
from edgecls.data.splits import Sample
from edgecls.errors import BackendError, DataError, UsageError, VerificationError
from edgecls.evaluation.config import CompareConfig
from edgecls.evaluation.images import UNLABELLED, images_for, run_of
from edgecls.evaluation.inference import scores_on
from edgecls.evaluation.metrics import calibration_error, drop, measure, wilson
from edgecls.evaluation.slices import SliceChange, compare_slices, cuts_of
from edgecls.exporting.graph import float_graph
from edgecls.quantization.qdq import QuantizedGraph, layer_noise_db
from edgecls.quantization.quantize import prepare
from edgecls.runtime.scores import agreement, softmax
from edgecls.runtime.store import Artifact, find

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

TIMING = TimingConfig(rounds=8, seconds=0.2)
NOISE_IMAGES = 16


@dataclass(frozen=True)
class Side:
    """One of the two models. `top1` and `calibration_error` are fractions, None without labels."""

    name: str
    path: str
    size_bytes: int
    latency_ms: float | None
    top1: float | None
    calibration_error: float | None
    recall: tuple[float, ...] | None


@dataclass(frozen=True)
class Flip:
    """An image for which the two give different classes; `truth` is None where it is not known."""

    path: str
    truth: str | None
    first: str
    first_score: float
    second: str
    second_score: float


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images; see `Side` and `Flip`.

    `drop_points` is what the second loses of the first's top-1, with 95 % confidence from `drop_low_points` to
    `drop_high_points`, which are twice `drop_interval_points` apart. `speedup` is how many times as fast the second is,
    timed in turn. `layers` are (name, signal-to-noise in dB) of the second's graph against its run's in float, empty
    for `layers_reason`. `source` holds the images. `slices` are those that were asked for, the largest loss first, and
    `remarks` what to know of them.
    """

    first: Side
    second: Side
    classes: tuple[str, ...]
    images: int
    agreement: float
    agreement_interval: tuple[float, float]
    drop_points: float | None
    drop_interval_points: float | None
    drop_low_points: float | None
    drop_high_points: float | None
    speedup: float | None
    flips: tuple[Flip, ...]
    layers: tuple[tuple[str, float], ...]
    layers_reason: str | None
    source: Source
    slices: tuple[SliceChange, ...] = ()
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the source of the images."""
        values = asdict(replace(self, source=None))  # type: ignore[arg-type]
        del values["source"]
        return {**values, "slices": [each.to_json() for each in self.slices]}

    def require(self, min_agreement: float | None = None, max_drop_points: float | None = None) -> None:
        """Raise `VerificationError` where the second model changed too much."""
        if min_agreement is not None and self.agreement < min_agreement:
            raise VerificationError(f"agreement is {self.agreement:.2%}, at least {min_agreement:.2%} was asked for")
        if max_drop_points is not None:
            if self.drop_points is None:
                raise UsageError("`max_drop_points` needs labels: give `data` with one folder of images per class")
            if self.drop_points > max_drop_points:
                raise VerificationError(
                    f"top-1 drops by {self.drop_points:.2f} points, {max_drop_points:g} are allowed"
                )


def compare(config: CompareConfig, on_progress: Callable[[str], None] = lambda _: None) -> Comparison:
    """See `compare_artifacts`."""
    config = CompareConfig.checked(config)
    return compare_artifacts(find(config.first), find(config.second), config.data, on_progress, config.by)


def compare_artifacts(
    first: Artifact,
    second: Artifact,
    data: Path | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
    by: Sequence[str] = (),
) -> Comparison:
    """Compare two models on a folder of images, or on the first one's held-out split.

    Each model sees the images through its own preprocessing; classes are matched by name. With `by` the slices by these
    columns of a manifest are compared too. Raises `UsageError` for models of different classes and `DataError` where
    there are no images.
    """
    import numpy as np

    if set(first.card.classes) != set(second.card.classes):
        odd = set(first.card.classes) ^ set(second.card.classes)
        raise UsageError(f"the models know different classes ({min(odd)!r}, for one); they cannot be compared")
    source, samples = images_for(first, data)
    labels = np.array([sample.label for sample in samples])
    labelled = bool(len(labels)) and bool((labels != UNLABELLED).all())
    if by and not labelled:
        raise DataError(f"`by` compares accuracies, and {data} holds images without classes")
    cuts, remarks = cuts_of(data, samples, by) if by else ([], [])
    scores = []
    for artifact in (first, second):
        on_progress(f"asking {artifact.card.name}")
        order = [artifact.card.classes.index(name) for name in first.card.classes]
        scores.append(scores_on(artifact, source, samples)[:, order])
    on_progress("timing")
    rows = time_artifacts([first, second], TIMING)
    on_progress("comparing layers")
    layers, reason = _layers(second, source, samples)
    sides = [
        _side(artifact, row.latency.p50_ms if row.latency else None, each, labels if labelled else None)
        for artifact, row, each in zip((first, second), rows, scores, strict=True)
    ]
    lost = drop(scores[1], scores[0], labels) if labelled else None
    agreed = agreement(scores[1], scores[0])
    return Comparison(
        first=sides[0],
        second=sides[1],
        classes=first.card.classes,
        images=len(samples),
        agreement=agreed,
        agreement_interval=wilson(agreed, len(samples)),
        drop_points=lost.points if lost else None,
        drop_interval_points=lost.half_width_points if lost else None,
        drop_low_points=lost.low_points if lost else None,
        drop_high_points=lost.high_points if lost else None,
        speedup=gain_over(rows[1], rows[0]),
        flips=_flips(samples, first.card.classes, scores[0], scores[1]),
        layers=layers,
        layers_reason=reason,
        source=source,
        slices=compare_slices(cuts, scores[0], scores[1], labels),
        remarks=tuple(remarks),
    )


def _side(artifact: Artifact, latency_ms: float | None, scores: NDArray[float32], labels: Any) -> Side:
    metrics = None if labels is None else measure(scores, labels)
    return Side(
        name=artifact.card.name,
        path=str(artifact.path),
        size_bytes=artifact.size_bytes(),
        latency_ms=latency_ms,
        top1=metrics.top1 if metrics else None,
        calibration_error=None if labels is None else calibration_error(scores, labels),
        recall=metrics.recall if metrics else None,
    )


def _flips(
    samples: Sequence[Sample], classes: Sequence[str], first: NDArray[float32], second: NDArray[float32]
) -> tuple[Flip, ...]:
    """The images whose answer changed, those first that changed most in confidence."""
    ours, theirs = softmax(first), softmax(second)
    changed = (ours.argmax(axis=1) != theirs.argmax(axis=1)).nonzero()[0]
    flips = []
    for index in changed:
        a, b, sample = int(ours[index].argmax()), int(theirs[index].argmax()), samples[index]
        truth = None if sample.label == UNLABELLED else classes[sample.label]
        flips.append(Flip(sample.key, truth, classes[a], float(ours[index, a]), classes[b], float(theirs[index, b])))
    return tuple(sorted(flips, key=lambda flip: flip.first_score + flip.second_score, reverse=True))


def _layers(
    second: Artifact, source: Source, samples: Sequence[Sample]
) -> tuple[tuple[tuple[str, float], ...], str | None]:
    """Noise in the layers of the second's graph, or the reason why it cannot be told."""
    file = second.path / second.card.model_file if second.path.is_dir() else second.path
    if file.suffix != ".onnx" or second.card.precision != "int8":
        return (), "only int8 models that are ONNX files can be looked into"
    preprocess = second.card.preprocess
    picked: list[NDArray[uint8]] = [
        preprocess(source.read_for(sample.key, preprocess)) for sample in samples[:NOISE_IMAGES]
    ]
    with tempfile.TemporaryDirectory(prefix="edgecls-") as scratch:
        traced, prepared = Path(scratch) / "float.onnx", Path(scratch) / "prepared.onnx"
        try:
            parent = run_of(second)
            float_graph(parent.path / parent.card.model_file, parent.card, traced)
            prepare(traced, prepared)
        except (DataError, BackendError) as error:
            return (), f"its run's float graph is not at hand ({error})"
        int8 = QuantizedGraph(file, prepared).layers
        noise = [(name, db) for name, db in layer_noise_db(file, prepared, picked) if name in int8]
    return tuple(noise), None if noise else "its layers have other names than its run's"
