"""What every backend promises, run over the whole registry and every precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgecls import backends
from edgecls.artifact.golden import Golden
from edgecls.errors import ArtifactError, BackendError, UsageError
from edgecls.runtime import store
from edgecls.runtime.pipeline import overlapped, pipelined
from edgecls.runtime.store import Artifact
from tests.conftest import VARIANTS

CASES = [("torch", "fp32"), *VARIANTS]
TOLERANCE = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.5, "int8": 1.5}


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def artifact(request: pytest.FixtureRequest, trained: Artifact, bundle: Callable[[str, str], Artifact]) -> Artifact:
    target, precision = request.param
    return trained if target == "torch" else bundle(target, precision)


@pytest.fixture
def session(artifact: Artifact):
    if reason := artifact.backend.available():
        pytest.skip(f"{artifact.card.target} cannot run here: {reason}")
    with artifact.open() as session:
        yield session


def test_every_module_with_a_backend_is_registered_and_the_reference_by_its_entry_point():
    modules = [path for path in Path(backends.__file__).parent.glob("*.py") if "BACKEND = " in path.read_text()]
    assert len(modules) == 3
    assert set(backends.exportable()) == {"onnx", "openvino", "tensorrt"}
    assert set(backends.all_backends()) == {*backends.exportable(), "torch"}


def test_scores_are_those_of_the_parent(session, artifact: Artifact, trained: Artifact):
    golden = Golden.read(artifact.path)
    scores = session.infer(golden.images)
    assert scores.dtype == np.float32
    assert scores.shape == (16, 10)
    assert abs(scores - golden.scores).max() < TOLERANCE[artifact.card.precision]


def test_a_batch_gives_what_its_images_give_alone(session, artifact: Artifact):
    images = Golden.read(artifact.path).images[:5]
    together = session.infer(images)
    alone = np.concatenate([session.infer(image[None]) for image in images])
    assert abs(together - alone).max() < TOLERANCE[artifact.card.precision]
    assert (together.argmax(1) == alone.argmax(1)).all()


def test_results_are_not_overwritten_by_the_next_call(session, artifact: Artifact):
    images = Golden.read(artifact.path).images
    first = session.infer(images[:1])
    kept = first.copy()
    session.infer(images[1:2])
    assert (first == kept).all()


def test_submissions_come_back_in_order(session, artifact: Artifact):
    images = Golden.read(artifact.path).images
    expected = [session.infer(image[None]) for image in images]
    assert abs(np.concatenate(list(pipelined(session, images))) - np.concatenate(expected)).max() < 1e-4


@pytest.mark.parametrize(
    "parallelism",
    [
        backends.THROUGHPUT,
        backends.Parallelism(threads=2, streams=2),
        backends.Parallelism(spinning=False),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [1, 4])
def test_streams_beside_each_other_give_the_same_in_order(artifact: Artifact, parallelism, batch: int):
    if reason := artifact.backend.available():
        pytest.skip(f"{artifact.card.target} cannot run here: {reason}")
    images = Golden.read(artifact.path).images
    items = [(start, images[start : start + batch]) for start in range(0, 16, batch)]
    with artifact.open() as alone, artifact.open(parallelism) as several:
        expected = [alone.infer(few) for _, few in items]
        started = several.start(images[:1])
        assert abs(several.infer(images[1:2]) - alone.infer(images[1:2])).max() < TOLERANCE[artifact.card.precision]
        assert abs(started.result() - alone.infer(images[:1])).max() < TOLERANCE[artifact.card.precision]
        found = list(overlapped(several, items))
    assert [tag for tag, _ in found] == [start for start, _ in items]
    for (_, (scores,)), wanted in zip(found, expected, strict=True):
        assert abs(scores - wanted).max() < TOLERANCE[artifact.card.precision]


@pytest.mark.parametrize("wrong", [backends.Parallelism(threads=0), backends.Parallelism(streams=0)], ids=str)
def test_parallelism_that_makes_no_sense_is_refused(artifact: Artifact, wrong: backends.Parallelism):
    with pytest.raises(UsageError, match="must be at least 1"):
        artifact.open(wrong)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
    ],
    ids=["float", "no batch", "channels first", "empty"],
)
def test_any_other_input_is_refused(session, images: np.ndarray):
    with pytest.raises(UsageError, match="the model takes uint8 images"):
        session.infer(images)


def test_non_contiguous_input_is_taken(session, artifact: Artifact):
    images = Golden.read(artifact.path).images[:2]
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    assert abs(session.infer(images[:, :, ::-1]) - session.infer(mirrored)).max() < 1e-4


def test_a_changed_model_file_is_never_opened(artifact: Artifact, copy_of: Callable[[Artifact], Path]):
    path = copy_of(artifact)
    with (path / artifact.card.model_file).open("ab") as stream:
        stream.write(b"\0")
    reason = artifact.backend.available()
    with pytest.raises(BackendError if reason else ArtifactError):
        store.find(path).open()


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_a_foreign_bare_file_is_one_clear_error(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match=name):
        store.find(tmp_path / name)


@pytest.mark.parametrize(("target", "precision"), [case for case in VARIANTS if case[0] != "tensorrt"])
def test_a_bare_file_carries_its_card(bundle: Callable[[str, str], Artifact], target: str, precision: str):
    artifact = bundle(target, precision)
    bare = store.find(artifact.path / artifact.card.model_file)
    assert bare.card.classes == artifact.card.classes
    assert bare.card.preprocess == artifact.card.preprocess
    golden = Golden.read(artifact.path)
    with bare.open() as alone, artifact.open() as whole:
        assert (alone.infer(golden.images) == whole.infer(golden.images)).all()


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(UsageError, match="onnx, openvino, tensorrt"):
        backends.find("coreml")
    with pytest.raises(ArtifactError, match=r"\.onnx or \.xml"):
        backends.find_for_file(Path("model.pt"))
