"""Work in threads, in order, with bounded memory. OpenCV and the runtimes release Python's lock while they compute."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def usable_cpus() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    work: Callable[[T], R], items: Iterable[T], threads: int | None = None, ahead: int | None = None
) -> Generator[R, None, None]:
    """Yield `work(item)` for each item in order, computed ahead in threads.

    Four items a thread are held that are not done; as many results, or `ahead` where they are small, wait for one that
    takes longer. Where items are slow to come, a result waits for the next one at most. An error in `work` is raised
    where its result would have come. No thread is left when the generator is closed.
    """
    threads = threads or usable_cpus()
    held = 4 * threads
    ahead = max(held, ahead or 0)
    pending: deque[Future[R]] = deque()
    done, undone = threading.Semaphore(0), 0
    with ThreadPoolExecutor(threads, thread_name_prefix="edgecls-map") as pool:
        try:
            for item in items:
                pending.append(future := pool.submit(work, item))
                future.add_done_callback(lambda _: done.release())
                undone += 1
                while pending and (pending[0].done() or undone >= held or len(pending) >= ahead):
                    if pending[0].done():
                        yield pending.popleft().result()
                    else:
                        done.acquire()
                        undone -= 1
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def read_ahead(items: Iterable[T], size: int) -> Generator[T, None, None]:
    """Yield the items in order while a thread makes the next ones, at most `size` of them ahead.

    An error in making one is raised where it would have come. The thread has ended when the generator is closed.
    """
    ready: queue.Queue[tuple[bool, T | None, Exception | None]] = queue.Queue(size)
    closing = threading.Event()

    def put(entry: tuple[bool, T | None, Exception | None]) -> None:
        while not closing.is_set():
            try:
                ready.put(entry, timeout=0.1)
                break
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((True, item, None))
                if closing.is_set():
                    return
            put((False, None, None))
        except Exception as error:
            put((False, None, error))

    thread = threading.Thread(target=work, name="edgecls-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            more, item, error = ready.get()
            if error is not None:
                raise error
            if not more:
                return
            yield item  # type: ignore[misc]
    finally:
        closing.set()
        thread.join()


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; the last may be shorter."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
