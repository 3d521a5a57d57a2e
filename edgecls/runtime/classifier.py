"""A model that is ready to classify: preprocessing, a session and the class names in one object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from edgecls.artifact.reference import FALSE_REFUSALS
from edgecls.backends import Parallelism
from edgecls.errors import UsageError
from edgecls.imaging.decode import ColourOrder, as_bgr
from edgecls.runtime import store
from edgecls.runtime.first_opening import first_verified
from edgecls.runtime.pipeline import each_answered
from edgecls.runtime.scores import as_logits, scaled, softmax
from edgecls.runtime.unknown import UNKNOWN, UnknownDetector, detector_for, tensors_with

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray
    from typing_extensions import Self

    from edgecls.artifact.card import Card
    from edgecls.artifact.terms import InnerTensor
    from edgecls.backends import Session
    from edgecls.imaging.decode import ImageLike

UNSURE = "unsure"


def in_words(label: str, score: float, nearest: str | None, digits: int = 0) -> str:
    """A label with its probability; one that stands for no class with the class whose probability that is."""
    share = f"{score:.{digits}%}"
    return f"{label}  {share}" if nearest is None else f"{label} (nearest {nearest} {share})"


@dataclass(frozen=True)
class Prediction:
    """The answer for one image: `probabilities` (C,) float32 of `classes`.

    `label` is the best class and `score` its probability, unless that lies below the card's threshold for this class:
    then `label` is "unsure" and `unsure` is true. Where the model tells what it was not trained for, the label of that
    is "unknown", and `unknown` is true (a class may have the same name); `novelty` is above 1 then, None where nobody
    looks. `index` is that of the best class in any case.
    """

    label: str
    score: float
    index: int
    classes: tuple[str, ...] = field(repr=False)
    probabilities: NDArray[float32] = field(repr=False, compare=False)
    unsure: bool = False
    unknown: bool = False
    novelty: float | None = None

    @property
    def nearest(self) -> str | None:
        """The best class, whose probability `score` is, where `label` stands for no class; None where it is that."""
        return self.classes[self.index] if self.unsure or self.unknown else None

    @property
    def ranking(self) -> tuple[tuple[str, float], ...]:
        """All classes with their probabilities, best first."""
        return self.top(len(self.classes))

    def to_json(self, top: int) -> dict[str, Any]:
        """Plain values: label, score, and the `top` best classes."""
        ranking = [{"label": label, "score": score} for label, score in self.top(top)]
        return {"label": self.label, "score": self.score, "top": ranking}

    def top(self, count: int) -> tuple[tuple[str, float], ...]:
        """The `count` best classes with their probabilities. Raises `UsageError` for fewer than one."""
        if not isinstance(count, int) or count < 1:
            raise UsageError(f"the number of best classes must be a whole number from 1 on, not {count!r}")
        best = self.probabilities.argsort(kind="stable")[::-1][:count]
        return tuple((self.classes[index], float(self.probabilities[index])) for index in best)


class Classifier:
    """Classify images with an opened model. A context manager, safe to share between threads. With `says_unknown` off,
    what its `detector` finds stands in the `novelty` of predictions only.

    It belongs to the process that loaded it: pickled, it is loaded again from the same path.

    >>> import edgecls
    >>> with edgecls.load("runs/001-digits-mobilenet_v3_small") as model:  # doctest: +SKIP
    ...     print(model.predict("photo.jpg").label)
    """

    def __init__(
        self,
        card: Card,
        session: Session,
        path: Path,
        loaded_with: Mapping[str, Any] | None = None,
        detector: UnknownDetector | None = None,
    ):
        self.card = card
        self.session = session
        self.path = path
        self.detector = detector
        self.says_unknown = detector is not None
        self._loaded_with = dict(loaded_with or {})

    @overload
    def predict(self, image: ImageLike, colour_order: ColourOrder = "bgr") -> Prediction: ...

    @overload
    def predict(self, image: Sequence[ImageLike], colour_order: ColourOrder = "bgr") -> list[Prediction]: ...

    def predict(
        self, image: ImageLike | Sequence[ImageLike], colour_order: ColourOrder = "bgr"
    ) -> Prediction | list[Prediction]:
        """Classify one image, or each of a list or tuple of them.

        An image is a path, the bytes of an image file, a PIL image, or a uint8 array (H, W, 3), whose channels stand in
        `colour_order`: OpenCV's unless told. Raises `ImageError` for what is none.
        """
        if isinstance(image, (list, tuple)):
            return list(self.predict_many(image, colour_order))
        return self._predict_one(image, colour_order)

    @overload
    async def apredict(self, image: ImageLike, colour_order: ColourOrder = "bgr") -> Prediction: ...

    @overload
    async def apredict(self, image: Sequence[ImageLike], colour_order: ColourOrder = "bgr") -> list[Prediction]: ...

    async def apredict(
        self, image: ImageLike | Sequence[ImageLike], colour_order: ColourOrder = "bgr"
    ) -> Prediction | list[Prediction]:
        """`predict` in a thread of the event loop's default executor, so that the loop goes on meanwhile."""
        import asyncio

        return await asyncio.to_thread(self.predict, image, colour_order)

    def predict_many(self, images: Iterable[ImageLike], colour_order: ColourOrder = "bgr") -> Iterator[Prediction]:
        """Classify images in order, decoding ahead in threads; memory does not grow with their number.

        Raises as `predict` does, and `UsageError` for what is no series of images.
        """
        one = isinstance(images, (str, Path, bytes, bytearray, memoryview)) or getattr(images, "ndim", 4) < 4
        if one or not isinstance(images, Iterable):
            raise UsageError(f"give several images, or predict() for one, not {type(images).__name__}")
        return each_answered(self.session, images, lambda image: self._predict_one(image, colour_order))

    def _predict_one(self, image: ImageLike, colour_order: ColourOrder) -> Prediction:
        return self.answer(as_bgr(image, colour_order, self.card.preprocess))

    def answer(self, image: NDArray[uint8]) -> Prediction:
        """Classify a decoded image, BGR uint8 (H, W, 3)."""
        pixels = self.card.preprocess(image)[None]
        if self.detector is None:
            return self.decide(self.session.infer(pixels)[0])
        outputs = self.session.infer_all(pixels)
        return self.decide(outputs[0][0], self.embedding_in(outputs))

    def embedding_in(self, outputs: tuple[NDArray[float32], ...], index: int = 0) -> NDArray[float32] | None:
        """The embedding (D,) of the image at an index in what `Session.infer_all` gave; None where it gives none."""
        tensors = self.session.tensors
        return outputs[1 + tensors.index("embedding")][index] if "embedding" in tensors else None

    def decide(
        self,
        scores: NDArray[float32],
        embedding: NDArray[float32] | None = None,
        min_confidence: float | None = None,
    ) -> Prediction:
        """Turn the scores (C,) of one image into a prediction; with its embedding (D,), where the model tells what it
        was not trained for. Below `min_confidence` it is unsure, or else below the card's threshold for the best class.
        """
        confidence = self.card.confidence
        logits = as_logits(scores, self.card.output)
        probabilities = softmax(scaled(logits, confidence.temperature))
        index = int(probabilities.argmax())
        score = float(probabilities[index])
        best = self.card.classes[index]
        novelty = self.detector.novelty(logits, embedding) if self.detector else None
        unknown = self.says_unknown and novelty is not None and novelty > 1
        threshold = confidence.threshold_of(best) if min_confidence is None else min_confidence
        unsure = not unknown and score < threshold
        label = UNKNOWN if unknown else UNSURE if unsure else best
        return Prediction(label, score, index, self.card.classes, probabilities, unsure, unknown, novelty)

    def embed(self, image: NDArray[uint8]) -> tuple[Prediction, NDArray[float32]]:
        """Classify a decoded image, BGR uint8 (H, W, 3), and give its embedding (D,) float32: what the last layer of
        the network takes in, by which images that look alike lie close together. Of a model that was loaded with
        "embedding" among `tensors`; raises `UsageError` for others.
        """
        outputs = self.session.infer_all(self.card.preprocess(image)[None])
        if (embedding := self.embedding_in(outputs)) is None:
            raise UsageError('the model was loaded without embeddings; load it with `tensors=("embedding",)`')
        return self.decide(outputs[0][0], embedding), embedding

    def close(self) -> None:
        """Free the runtime."""
        self.session.close()

    def __reduce__(self) -> tuple[object, ...]:
        return _load_again, (self.path.resolve(), self._loaded_with)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _load_again(path: Path, loaded_with: Mapping[str, Any]) -> Classifier:
    """What a pickled classifier becomes, in its new process."""
    return load(path, **loaded_with)


def load(
    path: str | Path | None = None,
    threads: int | None = None,
    on_progress: Callable[[str], None] = lambda _: None,
    streams: int | None = 1,
    spinning: bool = True,
    check: bool = True,
    tensors: tuple[InnerTensor, ...] = (),
    unknown: bool = False,
    false_refusals: float = FALSE_REFUSALS,
) -> Classifier:
    """Open a bundle, a bare model file, or the best bundle of a run on this machine; None means the latest run.

    `threads`, `streams` and `spinning` are those of `backends.Parallelism`: one stream for the shortest latency, None
    for throughput. `on_progress` hears what the runtime builds first, where that takes long (TensorRT's engines). The
    first time on a machine the bundle's golden inputs are replayed, unless `check` is false. `tensors` are those inside
    of the network ("embedding", "feature_map") that the session gives too; see `Session.infer_all`. With `unknown`
    images of what the model was not trained for are answered "unknown", by what the bundle recorded of validation
    images, of which that would have been wrong for the share `false_refusals`. Raises `ArtifactError` for files that
    cannot be trusted, `UsageError` for tensors or a record that cannot be had, `BackendError` where the runtime is
    missing, and `VerificationError` for a bundle that gives other answers here than its parent.
    """
    parallelism = Parallelism(threads, streams, spinning)
    parallelism.check()
    artifacts = store.giving(tensors, store.candidates(path))
    artifact = first_verified(artifacts, parallelism, on_progress) if check else artifacts[0]
    detector = detector_for(artifact.path, artifact.card, false_refusals) if unknown else None
    session = artifact.open(parallelism, on_progress, cached=True, tensors=tensors_with(detector, tensors))
    again: dict[str, Any] = {
        "threads": threads, "streams": streams, "spinning": spinning, "check": check, "tensors": tensors,
        "unknown": unknown, "false_refusals": false_refusals,
    }  # fmt: skip
    return Classifier(artifact.card, session, artifact.path, again, detector)
