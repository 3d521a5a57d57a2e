"""One opened model: what it takes and gives in the protocol's terms, and its answers, which are those of `predict`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from edgecls.artifact.card import INPUT_NAME, OUTPUT_NAME
from edgecls.clock import now_ns
from edgecls.errors import EdgeclsError, ImageError, first_line
from edgecls.imaging.decode import decode_image
from edgecls.serving.batching import Batcher, ImageLimit, Threads
from edgecls.serving.errors import RequestError, invalid
from edgecls.serving.metrics import Statistics, Times
from edgecls.serving.protocol import InferRequest, InferResponse, InputTensor, OutputTensor, RequestedOutput, shown

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

    from edgecls.runtime.classifier import Classifier, Prediction
    from edgecls.serving.config import ServeConfig

logger = logging.getLogger(__name__)
T = TypeVar("T")

PIXELS, ENCODED = "UINT8", "BYTES"
"""What an input can be: ready-made pixels, or the bytes of image files."""
PROBABILITIES, LABEL = "probabilities", "label"
OUTPUTS = (OUTPUT_NAME, PROBABILITIES, LABEL)
CLASSIFICATION = "classification"
"""The parameter of an output that asks for its best classes as text, as in Triton."""
PARAMETERS = {
    "min_confidence", "timeout", "binary_data_output",
    "priority", "sequence_id", "sequence_start", "sequence_end", "content_type",
}  # fmt: skip
"""Of a request. The last ones say what clients say to every server, and nothing to this one."""


@dataclass(frozen=True)
class Answer:
    """What is known of one image: its scores (C,), and what `Classifier.decide` makes of them where it is asked for."""

    scores: NDArray[float32]
    prediction: Prediction | None


@dataclass(frozen=True)
class Asked:
    """What a request wants besides its images: from which probability on an answer is sure, and until when."""

    min_confidence: float | None = None
    deadline_ns: int | None = None


class Model:
    """A model by its name and version, within the limits of a configuration; lives in one event loop."""

    def __init__(
        self,
        name: str,
        version: str,
        classifier: Classifier,
        threads: Threads,
        batcher: Batcher,
        statistics: Statistics,
        config: ServeConfig,
    ):
        self.name, self.version = name, version
        self.classifier, self.statistics = classifier, statistics
        self.pending = 0
        self._threads, self._batcher, self._config = threads, batcher, config
        # As many as fill every batch: what waits undecoded takes less memory.
        self._decoded_images = ImageLimit((threads.count + 2) * batcher.max_batch)
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def max_batch(self) -> int:
        """Images that are inferred together, at most."""
        return self._batcher.max_batch

    def metadata(self) -> dict[str, Any]:
        """Names, datatypes and shapes of inputs and outputs, without the versions."""
        card = self.classifier.card
        count = len(card.classes)
        return {
            "name": self.name,
            "platform": f"edgecls_{card.target}",
            "inputs": [{"name": INPUT_NAME, "datatype": PIXELS, "shape": [-1, *card.input_shape]}],
            "outputs": [
                {"name": OUTPUT_NAME, "datatype": "FP32", "shape": [-1, count]},
                {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, count]},
                {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
            ],
        }

    async def infer(self, request: InferRequest, deadline_ns: int | None = None) -> tuple[InferResponse, Times]:
        """Answer a request. Raises `RequestError`; cancelled, it frees its place.

        Everything about the request is checked before it meets others.
        """
        with self._failures_counted():
            asked = _asked(request, deadline_ns)
            outputs = request.outputs or tuple(RequestedOutput(name) for name in OUTPUTS)
            self._check_outputs(outputs)
            decide = any(output.name != OUTPUT_NAME for output in outputs)
            answers, times = await self._answered(self._parts(request), asked, decide)
            tensors = tuple(self._output(each, answers) for each in outputs)
            return InferResponse(self.name, self.version, tensors, request.id), times

    async def classify(self, content: bytes, top: int, asked: Asked) -> tuple[dict[str, Any], Times]:
        """Answer for the bytes of one image file in plain words. Raises as `infer` does."""
        with self._failures_counted():
            answers, times = await self._answered([self._decoder([content])], asked, True)
        prediction = answers[0].prediction
        assert prediction is not None
        return {
            "model": self.name,
            "version": self.version,
            **prediction.to_json(top),
            "unsure": prediction.unsure,
            "unknown": prediction.unknown,
        }, times

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place among those that wait. Raises `RequestError` where there is none."""
        if not self.has_place:
            raise self._no_place()
        self.pending += 1
        try:
            yield
        finally:
            self.pending -= 1

    @contextmanager
    def in_use(self) -> Iterator[Model]:
        """Itself, not closed before the block ends. It is to be entered at once, before anything is awaited."""
        self._users += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    def require_place(self) -> None:
        """Raise `RequestError` where so many wait that another has no place, before anything of it is read."""
        if not self.has_place:
            self.statistics.failed("busy", 0)
            raise self._no_place()

    @property
    def has_place(self) -> bool:
        """Whether one more request may wait."""
        return self.pending < self._config.queue

    def _no_place(self) -> RequestError:
        return RequestError("busy", f"model {shown(self.name)} has {self.pending} requests waiting; come back later")

    @contextmanager
    def _failures_counted(self) -> Iterator[None]:
        """Turns any error into a `RequestError`, and has the statistics know it."""
        begun_ns = now_ns()
        try:
            yield
        except asyncio.CancelledError:
            self.statistics.failed(None, now_ns() - begun_ns)
            raise
        except Exception as error:
            refusal = _as_request_error(error)
            self.statistics.failed(refusal.reason, now_ns() - begun_ns)
            raise refusal from error

    async def close(self) -> None:
        """Free the runtime once nobody uses it."""
        await self._unused.wait()
        await asyncio.get_running_loop().run_in_executor(self._threads.background, self.classifier.close)

    async def _answered(self, parts: Sequence[_Images], asked: Asked, decide: bool) -> tuple[list[Answer], Times]:
        """Answers for all images, in order, within the time that the request has; the statistics know it then."""
        begun_ns = now_ns()
        limit_s = self._config.timeout_s
        if asked.deadline_ns is not None:
            limit_s = min(limit_s, (asked.deadline_ns - begun_ns) / 1e9)
        with self._place():
            if limit_s <= 0:
                raise asyncio.TimeoutError
            work = self._all_parts(parts, lambda outputs: self._answers(outputs, asked, decide))
            answers, times = await asyncio.wait_for(work, limit_s)
        self.statistics.succeeded(len(answers), now_ns() - begun_ns, times, time.time_ns() // 1_000_000)
        return answers, times

    async def _all_parts(
        self, parts: Sequence[_Images], finish: Callable[[tuple[NDArray[float32], ...]], list[Answer]]
    ) -> tuple[list[Answer], Times]:
        if len(parts) == 1:
            return await self._one_part(parts[0], finish)
        results = await _all_or_none([self._one_part(part, finish) for part in parts])
        times = Times()
        for _, own in results:
            times.add(own)
        return [answer for answers, _ in results for answer in answers], times

    async def _one_part(
        self, part: _Images, finish: Callable[[tuple[NDArray[float32], ...]], list[Answer]]
    ) -> tuple[list[Answer], Times]:
        if not part.encoded or self.max_batch == 1:
            return await self._batcher.add(part.count, part.pixels, finish)
        # Decoded before it meets others, which then neither wait for a large image nor for one that is none.
        async with self._decoded_images.room(part.count):
            begun_ns = now_ns()
            pixels = await asyncio.get_running_loop().run_in_executor(self._threads.work, part.pixels)
            input_ns = now_ns() - begun_ns
            answers, times = await self._batcher.add(part.count, lambda: pixels, finish)
        times.input_ns += input_ns
        return answers, times

    def _parts(self, request: InferRequest) -> list[_Images]:
        """The images of a request in parts of up to `max_batch`. Raises `RequestError` for other inputs."""
        tensor = self._checked_input(request)
        count, size = tensor.shape[0], self.max_batch
        begins = range(0, count, size)
        if tensor.datatype == ENCODED:
            contents = tensor.to_bytes()
            return [self._decoder(contents[begin : begin + size]) for begin in begins]
        pixels = tensor.to_uint8()
        return [self._ready(pixels[begin : begin + size]) for begin in begins]

    def _checked_input(self, request: InferRequest) -> InputTensor:
        if len(request.inputs) != 1 or request.inputs[0].name != INPUT_NAME:
            given = ", ".join(shown(each.name) for each in request.inputs[:3])
            raise invalid(f'model {shown(self.name)} has one input, "{INPUT_NAME}"; the request brings {given}')
        tensor = request.inputs[0]
        shape = self.classifier.card.input_shape
        if tensor.datatype == PIXELS:
            wanted, fits = f"[N, {', '.join(map(str, shape))}]", tensor.shape[1:] == shape
        elif tensor.datatype == ENCODED:
            wanted, fits = "[N]", tensor.shape[1:] in ((), (1,))
        else:
            raise invalid(
                f'input "{INPUT_NAME}" takes {PIXELS} (RGB) or {ENCODED} (image files), not {shown(tensor.datatype)}',
            )
        if not fits:
            raise invalid(f'input "{INPUT_NAME}" of {tensor.datatype} takes the shape {wanted}, not {[*tensor.shape]}')
        if not 1 <= tensor.shape[0] <= self._config.max_images:
            raise invalid(f"a request takes 1 to {self._config.max_images} images, not {tensor.shape[0]}")
        return tensor

    def _ready(self, pixels: NDArray[uint8]) -> _Images:
        return _Images(len(pixels), False, lambda: pixels)

    def _decoder(self, contents: list[bytes]) -> _Images:
        return _Images(len(contents), True, lambda: self._decoded(contents))

    def _decoded(self, contents: list[bytes]) -> NDArray[uint8]:
        """Image files as the network's input (N, h, w, 3), as `predict` makes it."""
        import numpy as np

        preprocess = self.classifier.card.preprocess
        images = [preprocess(decode_image(content, "the image", geometry=preprocess)) for content in contents]
        return images[0][None] if len(images) == 1 else np.stack(images)

    def _answers(self, outputs: tuple[NDArray[float32], ...], asked: Asked, decide: bool) -> list[Answer]:
        """In a thread: what the outputs of a session say about each image."""
        classifier = self.classifier
        return [
            Answer(
                scores,
                classifier.decide(scores, classifier.embedding_in(outputs, place), asked.min_confidence)
                if decide
                else None,
            )
            for place, scores in enumerate(outputs[0])
        ]

    def _check_outputs(self, outputs: Sequence[RequestedOutput]) -> None:
        for output in outputs:
            if output.name not in OUTPUTS:
                raise invalid(
                    f"model {shown(self.name)} has no output {shown(output.name)}; it has {', '.join(OUTPUTS)}",
                )
            count = output.parameters.get(CLASSIFICATION, 0)
            if isinstance(count, bool) or not isinstance(count, int) or count < 0 or (count and output.name == LABEL):
                raise invalid(f"output {shown(output.name)} cannot give {CLASSIFICATION} {shown(count)}")

    def _output(self, asked: RequestedOutput, answers: Sequence[Answer]) -> OutputTensor:
        import numpy as np

        predictions = [each.prediction for each in answers if each.prediction is not None]
        if asked.name == LABEL:
            return OutputTensor(LABEL, "BYTES", (len(answers),), [each.label.encode() for each in predictions])
        rows = [each.scores for each in answers]
        if asked.name == PROBABILITIES:
            rows = [each.probabilities for each in predictions]
        values: NDArray[float32] = np.stack(rows)
        if count := asked.parameters.get(CLASSIFICATION, 0):
            return self._classification(asked.name, values, min(count, values.shape[1]))
        return OutputTensor(asked.name, "FP32", values.shape, values)

    def _classification(self, name: str, values: NDArray[float32], count: int) -> OutputTensor:
        """The best classes of each row as Triton writes them: "value:index:label"."""
        best = (-values).argsort(axis=1, kind="stable")[:, :count]
        classes = self.classifier.card.classes
        texts = [
            f"{row[index]:f}:{index}:{classes[index]}".encode()
            for row, indices in zip(values, best, strict=True)
            for index in indices
        ]
        return OutputTensor(name, "BYTES", (len(values), count), texts)


@dataclass(frozen=True)
class _Images:
    """So many images of a request, and how they become the network's input."""

    count: int
    encoded: bool
    pixels: Callable[[], NDArray[uint8]]


async def _all_or_none(work: Sequence[Any]) -> list[Any]:
    """Results of all; the first error ends the others."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def confidence_in(value: Any) -> float:
    """A probability that a request gives. Raises `RequestError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise invalid(f"min_confidence takes a number from 0 to 1, not {shown(value)}")
    return float(value)


def _asked(request: InferRequest, deadline_ns: int | None) -> Asked:
    """What the parameters of a request say. Raises `RequestError`."""
    parameters = request.parameters
    if strange := sorted(set(parameters) - PARAMETERS):
        raise invalid(f"there is no parameter {shown(strange[0])}; there are min_confidence and timeout")
    minimum = confidence_in(parameters["min_confidence"]) if "min_confidence" in parameters else None
    timeout_us = parameters.get("timeout", 0)
    if isinstance(timeout_us, bool) or not isinstance(timeout_us, int) or timeout_us < 0:
        raise invalid(f"timeout takes a whole number of microseconds, not {shown(timeout_us)}")
    if timeout_us:
        own_ns = now_ns() + 1000 * timeout_us
        deadline_ns = own_ns if deadline_ns is None else min(deadline_ns, own_ns)
    return Asked(minimum, deadline_ns)


def _as_request_error(error: Exception) -> RequestError:
    """What to tell a client about an error."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, asyncio.TimeoutError):
        return RequestError("expired", "the request's time is over")
    if isinstance(error, ImageError):
        return invalid(str(error))
    if not isinstance(error, EdgeclsError):
        logger.error("a request failed", exc_info=error)
    return RequestError("failed", f"the model cannot answer: {first_line(error)}")
