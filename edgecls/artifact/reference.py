"""What a bundle's answers to validation images were like, by which others are told to be strange.

A small file beside the golden inputs, recorded by an export with the bundle's own session, or on a device that learned
again. It holds no images: shares of classes, confidences, and, where the runtime gives embeddings, their principal
components.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgecls.artifact.arrays import read_arrays
from edgecls.artifact.card import Card
from edgecls.errors import ArtifactError, UsageError
from edgecls.vectors import directions

if TYPE_CHECKING:
    from numpy import float32, int32
    from numpy.typing import NDArray

    Floats = NDArray[float32]

REFERENCE_FILE = "reference.npz"
COMPONENTS = 64
"""Principal components of embeddings at most."""
MOST_IMAGES = 2000
"""Validation images that a reference is made from at most: with 64 components half a megabyte."""
FEWEST_IMAGES = 20
"""Of fewer validation images no reference is made."""
FALSE_REFUSALS = 0.01
"""Share of validation images that an answer of "unknown" would be wrong for, unless another one is asked for."""
FOLDS = 5
SEED = 0
MOST_DIMENSIONS = 1 << 16
FEWEST_OF_CLASS = 10
"""Of fewer reference images of a class nothing is said about that class alone."""

MEASURES = 4
Measure = Literal["distance", "energy"]
"""What tells the unknown: distances of embeddings among others, or the energy of logits alone."""


@dataclass(frozen=True)
class Reference:
    """Answers to N validation images: true labels (N,) int32, predicted ones (N,) int32, confidences (N,) of the best
    class at temperature 1, energies (N,) of logits. With embeddings (of D numbers) also their center (D,), K principal
    components as the columns of `basis` (D, K), `points` (N, K) in these, and what lies outside of them, `residuals`
    (N,). `distances` (N,), see `distance`, and `measures` (N, M), see `measured`, are of a reference that was not
    fitted on the image in question.
    """

    labels: NDArray[int32]
    predicted: NDArray[int32]
    confidences: Floats
    energies: Floats
    center: Floats
    basis: Floats
    points: Floats
    residuals: Floats
    distances: Floats
    measures: Floats

    @classmethod
    def of(cls, logits: Floats, embeddings: Floats | None, labels: NDArray[Any]) -> Reference:
        """The reference of images with logits (N, C), embeddings (N, D) or None, and labels (N,), but for distances."""
        import numpy as np

        count, wide = len(logits), 0 if embeddings is None else embeddings.shape[1]
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        empty = np.zeros((0,), np.float32)
        energies = energy(logits)
        reference = cls(
            labels.astype(np.int32), logits.argmax(axis=1).astype(np.int32),
            (1 / shifted.sum(axis=1)).astype(np.float32), energies,
            empty, np.zeros((0, 0), np.float32), np.zeros((count, 0), np.float32), empty, empty, energies[:, None],
        )  # fmt: skip
        if embeddings is None or not wide:
            return reference
        center = embeddings.mean(axis=0)
        _, _, axes = np.linalg.svd(embeddings - center, full_matrices=False)
        basis = axes[: max(1, min(COMPONENTS, count // 2))].T.astype(np.float32)
        reference = replace(reference, center=center.astype(np.float32), basis=np.ascontiguousarray(basis))
        points = reference.project(embeddings)
        return replace(reference, points=points, residuals=reference.residual(embeddings))

    @classmethod
    def recorded(cls, logits: Floats, embeddings: Floats | None, labels: NDArray[Any]) -> Reference:
        """As `of`, with cross-fitted distances and measures: what an export writes."""
        import numpy as np

        reference = cls.of(logits, embeddings, labels)
        if embeddings is None:
            return reference

        def seen(fitted: Reference, scores: Floats, inner: Floats) -> Floats:
            return np.concatenate([fitted.distance(inner)[:, None], fitted.measured(scores, inner)], axis=1)

        columns = cross_fitted(logits, embeddings, labels, seen)
        return replace(reference, distances=columns[:, 0], measures=columns[:, 1:])

    @property
    def measure(self) -> Measure:
        """What it tells the unknown by."""
        return "distance" if self.center.size else "energy"

    def threshold(self, false_refusals: float = FALSE_REFUSALS) -> float:
        """What an image's `strangeness` must exceed to be unknown, so that this share of known images is refused."""
        return refusal_threshold(self._strange, false_refusals)

    @cached_property
    def usual_strangeness(self) -> float:
        """The median over the reference's images."""
        import numpy as np

        return float(np.median(self._strange))

    @cached_property
    def _strange(self) -> Floats:
        return self.together(self.measures)

    def measured(self, logits: Floats, embeddings: Floats) -> Floats:
        """What tells images with logits (N, C) and embeddings (N, D) from the reference's, each larger for what is
        stranger (N, 4): the distance between the directions of an embedding and of the nearest reference image (Sun et
        al. 2022), the energy, what lies outside of the principal components (as in ViM, Wang et al. 2022), and the
        relative Mahalanobis distance. Each of them fails for some networks, and together they do not.
        """
        import numpy as np

        projected, outside = self._inside_and_outside(embeddings)
        cosines = directions(projected) @ self._directions.T
        nearest = np.sqrt(np.maximum(0, 2 - 2 * cosines.max(axis=1)))
        return np.stack([nearest, energy(logits), np.sqrt(outside), self._relative(projected)], axis=1)

    def together(self, measures: Floats) -> Floats:
        """The mean (N,) of measures (N, M), each from the median of the reference's images on and in units of what lies
        between that and the ninth decile.
        """
        usual, spread = self._spreads
        result: Floats = ((measures - usual) / spread).mean(axis=1)
        return result

    @cached_property
    def _spreads(self) -> tuple[Floats, Floats]:
        import numpy as np

        usual, far = np.quantile(self.measures, (0.5, 0.9), axis=0).astype(np.float32)
        return usual, np.maximum(far - usual, np.float32(1e-9))

    @cached_property
    def _directions(self) -> Floats:
        return directions(self.points)

    def strangeness(self, logits: Floats, embedding: Floats | None) -> float:
        """How little an image with logits (C,) and an embedding (D,) resembles the reference. Raises `UsageError`
        without an embedding, where the reference is of embeddings, and `ArtifactError` for one of another network.
        """
        if self.measure == "energy":
            return float(self.together(energy(logits[None])[:, None])[0])
        if embedding is None:
            raise UsageError("the reference is of embeddings, too, and scores alone cannot be compared with it")
        if embedding.shape != self.center.shape:
            raise ArtifactError(
                f"the reference is of embeddings of {self.center.size} numbers and the network gives "
                f"{embedding.size}; export again"
            )
        return float(self.together(self.measured(logits[None], embedding[None]))[0])

    def project(self, embeddings: Floats) -> Floats:
        """Embeddings (N, D) in principal components (N, K)."""
        moved: Floats = embeddings - self.center
        return moved @ self.basis

    def _inside_and_outside(self, embeddings: Floats) -> tuple[Floats, Floats]:
        """Embeddings (N, D) in principal components (N, K), and the squared length (N,) of what lies outside."""
        import numpy as np

        moved: Floats = embeddings - self.center
        projected: Floats = moved @ self.basis
        outside: Floats = np.maximum((moved * moved).sum(axis=1) - (projected * projected).sum(axis=1), 0)
        return projected, outside

    def residual(self, embeddings: Floats) -> Floats:
        """The length (N,) of what lies outside of the principal components."""
        import numpy as np

        lengths: Floats = np.sqrt(self._inside_and_outside(embeddings)[1])
        return lengths

    def distance(self, embeddings: Floats) -> Floats:
        """Squared Mahalanobis distance (N,) to the nearest class: within the principal components under a covariance
        that all classes share, shrunk (Ledoit and Wolf 2004); outside of them one variance holds for all directions.
        """
        projected, outside = self._inside_and_outside(embeddings)
        return self.to_classes(projected).min(axis=1) + outside / self._outside_variance

    def relative(self, embeddings: Floats) -> Floats:
        """The squared Mahalanobis distance (N,) to the nearest class within the principal components, less the one to
        all images together (Ren et al. 2021): what of it tells classes apart.
        """
        return self._relative(self.project(embeddings))

    def _relative(self, projected: Floats) -> Floats:
        together = projected @ self._whitening_of_all
        relatives: Floats = self.to_classes(projected).min(axis=1) - (together * together).sum(axis=1)
        return relatives

    @cached_property
    def _whitening_of_all(self) -> Floats:
        import numpy as np

        whitening: Floats = np.linalg.cholesky(np.linalg.inv(shrunk_covariance(self.points))).astype(np.float32)
        return whitening

    def to_classes(self, projected: Floats) -> Floats:
        """Squared Mahalanobis distances (N, classes that are there) of points (N, K) to the classes' means."""
        means, whitening = self._classes
        whitened = projected @ whitening
        distances: Floats = (
            (whitened * whitened).sum(axis=1)[:, None] - 2 * whitened @ means.T + (means * means).sum(axis=1)
        )
        return distances

    @cached_property
    def _outside_variance(self) -> float:
        import numpy as np

        directions = max(1, min(self.basis.shape[0], len(self.residuals)) - self.basis.shape[1])
        return max(float((self.residuals.astype(np.float64) ** 2).mean()) / directions, 1e-12)

    @cached_property
    def _classes(self) -> tuple[Floats, Floats]:
        """Whitened means (classes, K) and the whitening (K, K) of what lies around them."""
        import numpy as np

        known, place = np.unique(self.labels, return_inverse=True)
        means = np.stack([self.points[place == each].mean(axis=0) for each in range(len(known))])
        covariance = shrunk_covariance(self.points - means[place], freed=len(known))
        whitening = np.linalg.cholesky(np.linalg.inv(covariance)).astype(np.float32)
        return (means @ whitening).astype(np.float32), whitening

    def ranks(self, logits: Floats, embedding: Floats | None) -> tuple[float, float]:
        """Where an image with logits (C,) and an embedding (D,) stands among reference images of the same answer, from
        0 to 1: by distance, or energy, and by lack of confidence. Uniform where nothing has changed, however often
        which class occurs.
        """
        import numpy as np

        answer = int(logits.argmax())
        far, unconfident = self._of_class(answer)
        if embedding is not None and self.measure == "distance":
            distance = float(self.distance(embedding[None])[0])
        else:
            distance = float(energy(logits[None])[0])
        return _rank(far, distance), _rank(unconfident, float(-1 / np.exp(logits - logits[answer]).sum()))

    def _of_class(self, predicted: int) -> tuple[Floats, Floats]:
        return self._sorted.get(predicted) or self._sorted[-1]

    @cached_property
    def _sorted(self) -> dict[int, tuple[Floats, Floats]]:
        """Distances and lack of confidence by the class that was answered, sorted; -1 is all classes."""
        import numpy as np

        far = self.distances if self.measure == "distance" else self.energies
        parts = {-1: np.ones(len(far), bool)}
        parts |= {int(each): self.predicted == each for each in np.unique(self.predicted)}
        return {
            each: (np.sort(far[chosen]), np.sort(-self.confidences[chosen]))
            for each, chosen in parts.items()
            if each == -1 or chosen.sum() >= FEWEST_OF_CLASS
        }

    def shares(self, classes: int) -> Floats:
        """Shares (C,) of the answers to the reference images."""
        import numpy as np

        return (np.bincount(self.predicted, minlength=classes) / len(self.predicted)).astype(np.float32)

    @cached_property
    def usual_gap(self) -> float:
        """The median distance of a reference image's point to the nearest other one: nearer ones look alike."""
        import numpy as np

        points = self.points[:500]
        if len(points) < 2 or not points.size:
            return 0.0
        squares = (points * points).sum(axis=1)
        gaps = squares[:, None] + squares - 2 * points @ points.T
        np.fill_diagonal(gaps, np.inf)
        return float(np.sqrt(max(0.0, float(np.median(gaps.min(axis=1))))))

    def write(self, folder: Path) -> None:
        """Write `folder/reference.npz`."""
        import numpy as np

        np.savez_compressed(folder / REFERENCE_FILE, **{name: getattr(self, name) for name in _FIELDS})

    @classmethod
    def read(cls, folder: Path, card: Card) -> Reference | None:
        """Read `folder/reference.npz`; None where there is none, as in bundles of older versions. Nothing in it is ever
        unpickled. Raises `ArtifactError` for one that is damaged or of another network.
        """
        path = folder / REFERENCE_FILE
        if not path.exists():
            return None
        try:
            reference = cls(*read_arrays(path, *_FIELDS))
        except (OSError, ValueError) as error:
            if _is_older(path):
                return None
            reason = getattr(error, "strerror", None) or error
            raise ArtifactError(f"{path} cannot be used ({reason}); export again") from error
        if wrong := reference._unusable(len(card.classes)):
            raise ArtifactError(f"{path} cannot be used ({wrong}); export again")
        return reference

    def _unusable(self, classes: int) -> str | None:
        """What is wrong with arrays that came from a file, if anything."""
        import numpy as np

        count = len(self.labels) if self.labels.ndim == 1 else 0
        wide, kept = self.basis.shape if self.basis.ndim == 2 else (-1, -1)
        inner = count if wide else 0
        shapes = {
            "labels": (count,), "predicted": (count,), "confidences": (count,), "energies": (count,),
            "center": (wide,), "basis": (wide, kept), "points": (count, kept), "residuals": (inner,),
            "distances": (inner,), "measures": (count, MEASURES if wide else 1),
        }  # fmt: skip
        if not 0 < count <= MOST_IMAGES or not 0 <= wide <= MOST_DIMENSIONS or not 0 <= kept <= COMPONENTS:
            return "it is of no images or of too many, or its components are"
        if bool(wide) != bool(kept):
            return "it has components without directions"
        for name, shape in shapes.items():
            array = getattr(self, name)
            dtype = np.int32 if name in ("labels", "predicted") else np.float32
            if array.dtype != dtype or array.shape != shape:
                return f"{name} are {array.dtype} {array.shape} and must be {np.dtype(dtype)} {shape}"
            if not np.isfinite(array).all():
                return f"{name} are not all finite"
        for name in ("labels", "predicted"):
            answers = getattr(self, name)
            if answers.min() < 0 or answers.max() >= classes:
                return f"{name} are not of the card's {classes} classes"
        return None


_FIELDS = tuple(Reference.__dataclass_fields__)


def _is_older(path: Path) -> bool:
    """Whether a file holds what version 0.1 recorded first, from which nothing can be told as it is now."""
    try:
        return bool(read_arrays(path, "relatives"))
    except (OSError, ValueError):
        return False


Score = Callable[[Reference, "Floats", "Floats"], "Floats"]
"""How strange images with logits (N, C) and embeddings (N, D) are to a reference, (N, ...)."""


def cross_fitted(logits: Floats, embeddings: Floats, labels: NDArray[Any], score: Score) -> Floats:
    """The score (N, ...) of each image by a reference of the others: of the four fifths that it is not in."""
    import numpy as np

    fold = np.random.default_rng(SEED).permutation(len(logits)) % min(FOLDS, len(logits))
    parts = []
    for each in range(fold.max() + 1):
        held, kept = fold == each, fold != each
        if not kept.any():  # one image alone
            kept = held
        fitted = Reference.of(logits[kept], embeddings[kept], labels[kept])
        parts.append(score(fitted, logits[held], embeddings[held]))
    scores: Floats = np.concatenate(parts).astype(np.float32)
    return scores[np.argsort(np.argsort(fold, kind="stable"))]


def refusal_threshold(scores: Floats, false_refusals: float = FALSE_REFUSALS) -> float:
    """What a score must exceed so that this share of images like these is refused (split conformal prediction); of too
    few images for that share the largest of theirs.
    """
    import numpy as np

    place = int(np.ceil((len(scores) + 1) * (1 - false_refusals)))
    return float(np.sort(scores)[min(place, len(scores)) - 1])


def energy(logits: Floats) -> Floats:
    """The energy (N,) of logits (N, C): the negative logarithm of the sum of their exponentials (Liu et al. 2020)."""
    import numpy as np

    highest = logits.max(axis=1)
    energies: Floats = -(highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1)))
    return energies.astype(np.float32)


def shrunk_covariance(moved: Floats, freed: int = 1) -> NDArray[Any]:
    """The covariance (K, K) of centered points (N, K), drawn to one variance in all directions as far as pays (Ledoit
    and Wolf 2004). `freed` means were estimated from the points.
    """
    import numpy as np

    points = moved.astype(np.float64)
    count, wide = points.shape
    plain = points.T @ points / count
    round_one = np.eye(wide) * max(np.trace(plain) / wide, 1e-12)
    apart = float(((plain - round_one) ** 2).sum())
    noise = (float(((points * points).sum(axis=1) ** 2).sum()) / count - float((plain * plain).sum())) / count
    weight = min(1.0, max(noise, 0.0) / apart) if apart > 0 else 1.0
    shrunk: NDArray[Any] = (1 - weight) * plain + max(weight, 1e-3) * round_one
    return shrunk * (count / max(1, count - freed))


def _rank(ordered: Floats, value: float) -> float:
    """The middle rank of a value among sorted ones, between 0 and 1."""
    below, upto = ordered.searchsorted(value, "left"), ordered.searchsorted(value, "right")
    return float((below + upto + 1) / (2 * (len(ordered) + 1)))
