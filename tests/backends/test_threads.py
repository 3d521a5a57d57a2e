"""A model that many threads share, and what happens after it is closed or its process was forked: for every backend."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edgecls import Classifier, load
from edgecls.backends import LOW_LATENCY, THROUGHPUT, Parallelism
from edgecls.errors import BackendError, UsageError
from edgecls.runtime.store import Artifact
from tests.conftest import VARIANTS

THREADS = 8
CASES = [("torch", "fp32"), *VARIANTS]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def artifact(request: pytest.FixtureRequest, trained: Artifact, bundle: Callable[[str, str], Artifact]) -> Artifact:
    target, precision = request.param
    found = trained if target == "torch" else bundle(target, precision)
    if reason := found.backend.available():
        pytest.skip(f"{target} cannot run here: {reason}")
    return found


@pytest.fixture(params=[LOW_LATENCY, THROUGHPUT], ids=["latency", "throughput"])
def model(request: pytest.FixtureRequest, artifact: Artifact):
    parallelism: Parallelism = request.param
    with Classifier(artifact.card, artifact.open(parallelism), artifact.path) as model:
        yield model


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (24, 32, 32, 3), np.uint8)


def close_to(found: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(abs(found - wanted).max() < 1e-4)


def test_threads_that_share_a_model_each_get_the_answers_to_their_own_images(model: Classifier, images: np.ndarray):
    expected = [model.predict(image).probabilities for image in images]
    batched = model.session.infer(images)

    def work(seed: int) -> bool:
        order = np.random.default_rng(seed).permutation(len(images))
        one_by_one = all(close_to(model.predict(images[i]).probabilities, expected[i]) for i in order)
        answers = model.predict_many(images[order])
        many = all(close_to(answer.probabilities, expected[i]) for answer, i in zip(answers, order, strict=True))
        return one_by_one and many and close_to(model.session.infer(images[order]), batched[order])

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(work, range(THREADS)))


def test_single_images_can_be_classified_while_many_are(model: Classifier, images: np.ndarray):
    expected = [model.predict(image).probabilities for image in images]
    for index, answer in enumerate(model.predict_many(images)):
        assert close_to(model.predict(images[-1 - index]).probabilities, expected[-1 - index])
        assert close_to(answer.probabilities, expected[index])


def test_an_iteration_that_is_given_up_leaves_the_model_usable(model: Classifier, images: np.ndarray):
    expected = [model.predict(image).probabilities for image in images]
    for _ in range(5):
        next(iter(model.predict_many(images)))
    assert all(
        close_to(answer.probabilities, expected[index]) for index, answer in enumerate(model.predict_many(images))
    )


def test_a_closed_model_says_so_whatever_it_is_asked(model: Classifier, images: np.ndarray):
    started = model.session.start(images[:1])
    many = model.predict_many(images)
    next(many)
    model.close()
    model.close()
    for ask in (
        lambda: model.predict(images[0]),
        lambda: list(model.predict_many(images)),
        lambda: list(many),
        lambda: model.session.infer(images[:2]),
        started.result,
    ):
        with pytest.raises(BackendError, match="closed; load it again"):
            ask()


def test_closing_waits_for_the_calls_of_other_threads(model: Classifier, images: np.ndarray):
    def work(_: int) -> list[str]:
        outcomes = []
        for image in images:
            try:
                model.predict(image)
                outcomes.append("answer")
            except BackendError as error:
                outcomes.append(str(error))
        return outcomes

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work, index) for index in range(4)]
        model.close()
        outcomes = {outcome for future in running for outcome in future.result()}
    assert outcomes <= {"answer", "this model is closed; load it again"}


def test_a_model_can_be_closed_by_a_signal_in_the_middle_of_a_call(model: Classifier, images: np.ndarray):
    with model.session.in_use():  # where a handler would interrupt a call
        model.close()
        with pytest.raises(BackendError, match="closed"):
            model.predict(images[0])
    with pytest.raises(BackendError, match="closed"):
        model.predict(images[0])


FIRST_ASKED_BY_MANY = """
import sys
import threading
import numpy as np
import edgecls

sys.setswitchinterval(1e-6)  # threads take turns as often as they can
model = edgecls.load(sys.argv[1])
images = np.zeros((1, *model.session.card.input_shape), np.uint8)
gate = threading.Barrier(8)

def ask():
    gate.wait()
    print(model.session.infer(images).shape, flush=True)

threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_the_first_answers_of_a_process_can_be_asked_for_by_many_threads(artifact: Artifact):
    ended = subprocess.run(
        [sys.executable, "-c", FIRST_ASKED_BY_MANY, str(artifact.path)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 8


FORKED = """
import os, signal, sys
import numpy as np
import edgecls

path, mode = sys.argv[1:]
images = np.zeros((8, 32, 32, 3), np.uint8)
model = edgecls.load(path)
list(model.predict_many(images))
process = os.fork()
if not process:
    signal.alarm(30)  # a child that hangs is ended by it
    try:
        print((model if mode == "inherited" else edgecls.load(path)).predict(images[0]).label in model.card.classes)
        model.close()
    except edgecls.errors.BackendError as error:
        print(error)
    sys.stdout.flush()
    os._exit(0)
assert os.waitpid(process, 0)[1] == 0, "the forked process hung"
assert model.predict(images[0]).label
"""


@pytest.mark.parametrize("mode", ["inherited", "loaded again"])
def test_a_forked_process_answers_or_says_at_once_why_not(artifact: Artifact, mode: str, tmp_path):
    path = artifact.path
    if artifact.is_run:  # without the bundles that would be preferred to it
        path = tmp_path / "run"
        path.mkdir()
        for file in artifact.path.iterdir():
            if file.is_file():
                (path / file.name).write_bytes(file.read_bytes())
    command = [sys.executable, "-c", FORKED, str(path), mode]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ, check=False)
    assert ended.returncode == 0, ended.stderr
    message = ended.stdout.strip()
    assert (
        "before the process was forked" in message or "before this process was forked" in message or message == "True"
    )
    assert mode == "loaded again" or message != "True"


def test_a_session_cannot_be_pickled_and_says_so(model: Classifier):
    with pytest.raises(TypeError, match="cannot be pickled; open the model where it is needed"):
        pickle.dumps(model.session)


def test_a_loaded_model_is_pickled_as_what_it_was_loaded_from(bundle, images: np.ndarray):
    with load(bundle("onnx", "fp32").path) as model, pickle.loads(pickle.dumps(model)) as copy:
        assert close_to(copy.predict(images[0]).probabilities, model.predict(images[0]).probabilities)


@pytest.mark.parametrize("wrong", [[[1]], None, "image", 3], ids=repr)
def test_what_is_no_array_is_refused(model: Classifier, wrong: object):
    with pytest.raises(UsageError, match="NumPy array"):
        model.session.infer(wrong)  # type: ignore[arg-type]
