"""Batches: what waits for one, and what becomes of one that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
import pytest

import edgecls
from edgecls.runtime.store import Artifact
from edgecls.serving.batching import Batcher, ImageLimit, Threads
from edgecls.serving.metrics import Statistics


class Panic(BaseException):
    """As extensions in Rust raise it."""


def panic() -> NoReturn:
    raise Panic("index out of bounds")


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads(1)
    yield threads
    threads.close()


def test_a_panic_of_native_code_is_told_and_others_are_answered(model: Artifact, threads: Threads):
    async def ask() -> None:
        batcher = Batcher(classifier.session, threads, Statistics())
        with pytest.raises(RuntimeError, match="index out of bounds"):
            await asyncio.wait_for(batcher.add(1, panic, len), 30)
        image = np.zeros((1, *classifier.card.input_shape), np.uint8)
        scores, _ = await batcher.add(1, lambda: image, lambda outputs: outputs[0])
        assert scores.shape == (1, len(classifier.card.classes))

    with edgecls.load(model.path, streams=None) as classifier:
        asyncio.run(ask())


def test_images_wait_until_there_is_room_and_who_left_is_not_waited_for():
    async def take() -> list[str]:
        limit, inside, leave = ImageLimit(4), list[str](), asyncio.Event()

        async def image(name: str, images: int) -> None:
            async with limit.room(images):
                inside.append(name)
                try:
                    await leave.wait()
                finally:
                    inside.remove(name)

        async def settled() -> str:
            for _ in range(5):
                await asyncio.sleep(0)
            return " ".join(inside)

        seen = []
        tasks = {name: asyncio.create_task(image(name, images)) for name, images in [("a", 3), ("b", 4), ("c", 1)]}
        seen.append(await settled())  # c waits for b, which came before
        tasks["b"].cancel()
        seen.append(await settled())
        tasks["d"] = asyncio.create_task(image("d", 4))
        tasks["a"].cancel()
        seen.append(await settled())
        tasks["c"].cancel()
        seen.append(await settled())
        leave.set()
        await tasks["d"]
        async with limit.room(4):
            return seen

    assert asyncio.run(asyncio.wait_for(take(), 30)) == ["a", "a c", "c", "d"]
