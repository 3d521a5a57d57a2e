"""What is learned of embeddings: with and without labels."""

from __future__ import annotations

import numpy as np
import pytest

from edgecls.reviewing import learning
from edgecls.reviewing.learning import compressed, learned, smoothed

CLASSES, EACH, SPREAD = 4, 60, 0.9


def spread_out() -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of classes that a few labels do not tell apart well, and their classes."""
    generator = np.random.default_rng(0)
    classes = np.arange(CLASSES * EACH) % CLASSES
    seen = generator.normal(size=(CLASSES, 12))[classes] + generator.normal(scale=SPREAD, size=(len(classes), 12))
    return np.maximum(seen @ generator.normal(size=(12, 200)), 0), classes


def wrong(points: np.ndarray, classes: np.ndarray) -> float:
    """How many get the wrong class by two labels of each."""
    labels = [str(each) for each in classes[: 2 * CLASSES]]
    _, probabilities = learned(points, [*range(2 * CLASSES)], labels)
    return float((probabilities.argmax(axis=1) != classes).mean())


class TestPoints:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    def test_they_are_short_and_of_length_one(self, dtype: type):
        embeddings, _ = spread_out()
        for points in (compressed(embeddings.astype(dtype)), smoothed(compressed(embeddings.astype(dtype)))):
            assert points.shape == (len(embeddings), learning.WIDTH)
            assert points.dtype == np.float32
            assert np.linalg.norm(points, axis=1) == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("anchors", [learning.ANCHORS, 80])
    def test_drawn_to_their_neighbours_they_need_fewer_labels(self, monkeypatch: pytest.MonkeyPatch, anchors: int):
        monkeypatch.setattr(learning, "ANCHORS", anchors)
        embeddings, classes = spread_out()
        points = compressed(embeddings)
        assert wrong(smoothed(points), classes) < 0.7 * wrong(points, classes)

    def test_few_or_equal_pictures_are_no_trouble(self):
        for count in (1, 2, 11, 30):
            points = smoothed(compressed(np.ones((count, 8), np.float32)))
            assert np.isfinite(points).all()
            assert len(points) == count
