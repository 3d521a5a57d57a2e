"""The newest picture for browsers."""

from __future__ import annotations

import threading

import numpy as np

from edgecls.web.pictures import Newest

IMAGE = np.zeros((8, 8, 3), np.uint8)


def test_a_picture_is_encoded_once_for_all_who_wait_and_never_an_older_one():
    newest, encoded, waiting = Newest(), [], threading.Event()

    def image(number: int, slow: bool = False) -> np.ndarray:
        encoded.append(number)
        if slow:
            waiting.set()
            release.wait(10)
        return IMAGE

    release = threading.Event()
    newest.put(1, lambda: image(1, slow=True))
    numbers: list[int] = []
    viewers = [threading.Thread(target=lambda: numbers.append(newest.jpeg()[0])) for _ in range(3)]
    viewers[0].start()
    waiting.wait(10)
    viewers[1].start()
    newest.put(2, lambda: image(2))
    viewers[2].start()
    release.set()
    for viewer in viewers:
        viewer.join(10)
    assert newest.jpeg()[0] == 2
    assert encoded == [1, 2]
    assert sorted(numbers) == [1, 2, 2]
