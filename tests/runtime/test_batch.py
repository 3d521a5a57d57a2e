"""Many images through one model: in order, none held up by a large one, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgecls import Classifier
from edgecls.backends import THROUGHPUT
from edgecls.errors import ImageError
from edgecls.runtime import batch
from edgecls.runtime.batch import classify
from edgecls.runtime.store import Artifact

PATIENCE_S = 30
"""Only a test that fails waits so long."""
Answers = Callable[[Classifier, list[Path]], Iterator[object]]


@pytest.fixture(params=["onnx", "openvino"])
def model(request: pytest.FixtureRequest, bundle: Callable[[str, str], Artifact]) -> Iterator[Classifier]:
    artifact = bundle(request.param, "fp32")
    with Classifier(artifact.card, artifact.open(THROUGHPUT), artifact.path) as model:
        yield model


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("edgecls-map")]


def test_an_image_that_takes_long_does_not_keep_the_others_from_the_model(
    model: Classifier, photos: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first file is there only when all others went through the model."""
    paths = sorted(photos.rglob("*.jpg"))
    inferred, infer, read = threading.Semaphore(0), model.session.infer, batch.read_image

    def counted(images: np.ndarray) -> np.ndarray:
        inferred.release()
        return infer(images)

    def late(path: Path, *arguments: object) -> np.ndarray:
        if path == paths[0]:
            assert all(inferred.acquire(timeout=PATIENCE_S) for _ in paths[1:])
        return read(path, *arguments)  # type: ignore[arg-type]

    expected = [model.predict(path).probabilities for path in paths]
    monkeypatch.setattr(model.session, "infer", counted)
    monkeypatch.setattr(batch, "read_image", late)
    answers = list(classify(model, paths))
    assert [answer.image for answer in answers] == [str(path) for path in paths]
    for answer, wanted in zip(answers, expected, strict=True):
        assert answer.prediction is not None
        assert abs(answer.prediction.probabilities - wanted).max() < 1e-4


def test_what_cannot_be_read_is_answered_in_its_place(model: Classifier, photos: Path):
    paths = sorted(photos.rglob("*.jpg"))
    paths[3].write_bytes(b"none")
    answers = list(classify(model, [*paths, photos / "gone.jpg"]))
    unreadable = [index for index, answer in enumerate(answers) if answer.prediction is None]
    assert unreadable == [3, len(paths)]
    assert "03.jpg" in str(answers[3].error)
    many = model.predict_many(paths)
    assert [next(many).label for _ in range(3)] == [model.predict(path).label for path in paths[:3]]
    with pytest.raises(ImageError, match=r"03\.jpg"):
        next(many)


@pytest.mark.parametrize("ask", [classify, Classifier.predict_many], ids=["classify", "predict_many"])
def test_what_is_given_up_leaves_no_thread(ask: Answers, model: Classifier, photos: Path):
    answers = ask(model, sorted(photos.rglob("*.jpg")) * 20)
    next(answers)
    assert _threads()
    answers.close()  # type: ignore[attr-defined]
    assert not _threads()
    assert model.predict(np.zeros((8, 8, 3), np.uint8)).label
