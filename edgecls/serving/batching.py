"""Images of several requests inferred together, where that pays, by a few threads of their own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from edgecls.clock import milliseconds_since, now_ns
from edgecls.serving.metrics import Statistics, Times

if TYPE_CHECKING:
    from numpy import float32, uint8
    from numpy.typing import NDArray

    from edgecls.backends import Session

BATCHES = (1, 2, 4, 8, 16)
"""Sizes that are tried when a model is opened."""
MIN_GAIN = 1.2
"""What a batch must gain over single images to be used; less is within the noise, and others wait for it."""
ROUNDS = 5
MEASURING_MS = 1500.0
"""No round begins later: a large network shows in one what it does."""


class Threads:
    """Those that work for all models, and the one that opens and closes models beside them."""

    def __init__(self, count: int):
        self.count = count
        self.work = ThreadPoolExecutor(count, thread_name_prefix="edgecls-serve")
        self.background = ThreadPoolExecutor(1, thread_name_prefix="edgecls-serve-models")

    def close(self) -> None:
        """Wait for what is running."""
        self.work.shutdown(cancel_futures=True)
        self.background.shutdown()


@dataclass(eq=False)
class Part:
    """Images of one request that are inferred together. `prepare` makes them (N, h, w, 3), and `finish` an answer of
    their outputs; both run in a thread, and what they raise is the answer's error.
    """

    images: int
    prepare: Callable[[], NDArray[uint8]]
    finish: Callable[[tuple[NDArray[float32], ...]], Any]
    answer: asyncio.Future[tuple[Any, Times]]
    queued_ns: int = field(default_factory=now_ns)


class ImageLimit:
    """So many images may be decoded and not inferred yet; others wait, who came first goes first. In one event loop."""

    def __init__(self, images: int):
        self._free = images
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def room(self, images: int) -> AsyncIterator[None]:
        """Room for so many images, at most as many as there may be, until the block ends."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((images, turn))
        self._free_room(0)
        try:
            await turn
            yield
        finally:
            taken = turn.done() and not turn.cancelled()
            self._free_room(images if taken else 0)

    def _free_room(self, images: int) -> None:
        self._free += images
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            wanted, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= wanted
                turn.set_result(None)


def measured_batch(session: Session, most: int = BATCHES[-1]) -> tuple[int, dict[int, float]]:
    """How many images are best inferred together on this machine, and the milliseconds an image of each size tried.

    One thread's time on random images: 1 where no batch is `MIN_GAIN` times as fast as single images, else the smallest
    that is nearly as fast as the best.
    """
    import numpy as np

    shape = session.card.input_shape
    sizes = [size for size in BATCHES if size <= most]
    images = np.random.default_rng(0).integers(0, 256, (sizes[-1], *shape), np.uint8)
    session.infer(images[:1])
    samples: dict[int, list[float]] = {size: [] for size in sizes}
    begun_ns = now_ns()
    for round_ in range(ROUNDS):
        if round_ and milliseconds_since(begun_ns) > MEASURING_MS:
            break
        for size in sizes:  # in turn, so that a busy moment of the machine meets all of them
            start_ns = now_ns()
            for _ in range(sizes[-1] // size):
                session.infer(images[:size])
            samples[size].append(milliseconds_since(start_ns) / sizes[-1])
    per_image_ms = {size: median(values) for size, values in samples.items()}
    best_ms = min(per_image_ms.values())
    if per_image_ms[1] < MIN_GAIN * best_ms:
        return 1, per_image_ms
    return next(size for size in sizes if per_image_ms[size] <= 1.05 * best_ms), per_image_ms


class Batcher:
    """Puts parts in a queue, and a batch at a time into an executor; lives in one event loop.

    A batch has up to `max_batch` images, or is one part. It is taken once a thread is free, and there are enough images
    or the oldest part has waited for `delay_ms`. Who no longer waits for an answer is left out.
    """

    def __init__(
        self,
        session: Session,
        threads: Threads,
        statistics: Statistics,
        max_batch: int = 1,
        delay_ms: float = 0.0,
    ):
        self.max_batch = max_batch
        self._session, self._statistics = session, statistics
        self._executor: Executor = threads.work
        self._delay_ms = delay_ms if max_batch > 1 else 0.0
        # One batch waits at the executor's door, so that a thread needs nobody to go on.
        self._slots = threads.count + 1
        self._running = 0
        self._queue: deque[Part] = deque()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def add(
        self,
        images: int,
        prepare: Callable[[], NDArray[uint8]],
        finish: Callable[[tuple[NDArray[float32], ...]], Any],
    ) -> asyncio.Future[tuple[Any, Times]]:
        """Have images inferred; the future gets what `finish` returns, and what it took. Cancel it to leave."""
        part = Part(images, prepare, finish, self._loop.create_future())
        self._queue.append(part)
        self._dispatch()
        return part.answer

    def _dispatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._running < self._slots:
            while self._queue and self._queue[0].answer.done():
                self._queue.popleft()
            if not self._queue:
                return
            if wait_ms := self._still_to_wait_ms():
                self._timer = self._loop.call_later(wait_ms / 1000, self._dispatch)
                return
            self._run(self._take())

    def _still_to_wait_ms(self) -> float:
        """How long the oldest part waits on for others."""
        if not self._delay_ms or sum(part.images for part in self._queue) >= self.max_batch:
            return 0.0
        return max(0.0, self._delay_ms - milliseconds_since(self._queue[0].queued_ns))

    def _take(self) -> list[Part]:
        batch = [self._queue.popleft()]
        room = self.max_batch - batch[0].images
        while self._queue and self._queue[0].images <= room:
            if not (part := self._queue.popleft()).answer.done():
                batch.append(part)
                room -= part.images
        return batch

    def _run(self, batch: list[Part]) -> None:
        self._running += 1
        done = self._loop.run_in_executor(self._executor, self._compute, batch)
        done.add_done_callback(partial(self._finish, batch))

    def _finish(self, batch: Sequence[Part], done: asyncio.Future[_Computed]) -> None:
        self._running -= 1
        if not done.cancelled():
            # Not even a panic of native code, which is no Exception, leaves a request without an answer.
            error = done.exception()
            computed = done.result() if error is None else _Computed.failed(batch, error)
            if computed.images:
                self._statistics.executed(computed.images, computed.infer_ns)
            for part, answer, times in computed.answers:
                if part.answer.done():
                    continue
                if isinstance(answer, Exception):
                    part.answer.set_exception(answer)
                else:
                    part.answer.set_result((answer, times))
        self._dispatch()

    def _compute(self, batch: Sequence[Part]) -> _Computed:
        """In a thread: prepare, infer and finish. An image that cannot be decoded is its own part's trouble alone."""
        begun_ns = now_ns()
        computed = _Computed()
        ready: list[tuple[Part, NDArray[uint8], Times]] = []
        for part in batch:
            if part.answer.done():
                continue
            times, start_ns = Times(queue_ns=begun_ns - part.queued_ns), now_ns()
            try:
                ready.append((part, part.prepare(), times))
            except Exception as error:
                computed.answers.append((part, error, times))
            times.input_ns = now_ns() - start_ns
        if ready:
            self._infer(ready, computed)
        return computed

    def _infer(self, ready: Sequence[tuple[Part, NDArray[uint8], Times]], computed: _Computed) -> None:
        import numpy as np

        arrays = [images for _, images, _ in ready]
        start_ns = now_ns()
        try:
            outputs = self._session.infer_all(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
        except Exception as error:
            computed.answers += [(part, error, times) for part, _, times in ready]
            return
        computed.infer_ns = now_ns() - start_ns
        computed.images = sum(map(len, arrays))
        begin = 0
        for part, images, times in ready:
            times.infer_ns, times.batch, start_ns = computed.infer_ns, computed.images, now_ns()
            own = tuple(output[begin : begin + len(images)] for output in outputs)
            begin += len(images)
            try:
                answer = part.finish(own)
            except Exception as error:
                answer = error
            times.output_ns = now_ns() - start_ns
            computed.answers.append((part, answer, times))


@dataclass
class _Computed:
    """What a thread made of a batch: answers or errors, and the size and time of the inference."""

    answers: list[tuple[Part, Any, Times]] = field(default_factory=list)
    images: int = 0
    infer_ns: int = 0

    @classmethod
    def failed(cls, batch: Sequence[Part], cause: BaseException) -> _Computed:
        """The same error for every part."""
        error = RuntimeError(f"inferring ended with {cause!r}")
        error.__cause__ = cause
        return cls([(part, error, Times()) for part in batch])
