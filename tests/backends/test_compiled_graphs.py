"""A compiled graph that is kept computes what one that was compiled now computes, on every runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgecls import cache, processor
from edgecls.artifact.golden import Golden
from edgecls.backends import THROUGHPUT, Parallelism
from edgecls.runtime.store import Artifact
from tests.conftest import VARIANTS

KEPT = [(target, precision) for target, precision in VARIANTS if target != "tensorrt"]
"""TensorRT's engines have a cache of their own."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture(params=KEPT, ids="-".join)
def artifact(request: pytest.FixtureRequest, bundle: Callable[[str, str], Artifact]) -> Artifact:
    return bundle(*request.param)


def scores(artifact: Artifact, parallelism: Parallelism = THROUGHPUT, cached: bool = True) -> np.ndarray:
    images = Golden.read(artifact.path).images
    with artifact.open(parallelism, cached=cached) as session:
        alone = np.concatenate([session.infer(image[None]) for image in images])
        return np.concatenate([alone, session.infer(images)])


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("kept/*/*")}


def test_the_second_start_computes_the_same_and_compiles_nothing(artifact: Artifact, folder: Path):
    fresh, first = scores(artifact, cached=False), scores(artifact)
    kept = entries(folder)
    assert kept
    assert np.array_equal(first, fresh)
    assert np.array_equal(scores(artifact), fresh)
    assert entries(folder) == kept


def test_a_cache_that_holds_something_else_is_noticed_and_rebuilt(artifact: Artifact, folder: Path):
    """Intact, by its digest, but nothing that the runtime reads."""
    fresh = scores(artifact)
    for path in folder.glob("kept/*/*"):
        cache.Entry(path.parent.name, path.stem).write(b"no graph")
    assert np.array_equal(scores(artifact), fresh)
    assert all(path.stat().st_size > 1000 for path in folder.glob("kept/*/*"))


def test_another_processor_or_runtime_has_graphs_of_its_own(
    artifact: Artifact, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    scores(artifact)
    kept = entries(folder)
    monkeypatch.setattr(processor, "flags", lambda: frozenset({"avx2"}))
    scores(artifact)
    elsewhere = entries(folder) - kept
    assert elsewhere
    monkeypatch.setattr(type(artifact.backend), "version", lambda _: "another")
    scores(artifact)
    assert entries(folder) - kept - elsewhere


def test_threads_and_streams_are_those_that_are_asked_for(artifact: Artifact):
    for asked in (Parallelism(threads=1), Parallelism(threads=2, streams=2)):
        for _ in range(2):
            with artifact.open(asked, cached=True) as session:
                depth = session.depth
            with artifact.open(asked) as session:
                assert depth == session.depth


def test_a_model_opens_where_nothing_can_be_written(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    fresh = scores(artifact, cached=False)
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
        assert np.array_equal(scores(artifact), fresh)
    monkeypatch.setenv(cache.VARIABLE, cache.OFF)
    monkeypatch.setattr(cache.Entry, "of", lambda *_: pytest.fail("a compiled graph is written out for nothing"))
    assert np.array_equal(scores(artifact), fresh)


def test_openvino_keeps_its_settings_in_what_is_kept(bundle: Callable[[str, str], Artifact]):
    artifact = bundle("openvino", "fp32")
    names = ("INFERENCE_NUM_THREADS", "NUM_STREAMS", "INFERENCE_PRECISION_HINT", "PERFORMANCE_HINT")
    for asked in (Parallelism(threads=1), Parallelism(threads=2, streams=2), THROUGHPUT):
        told = []
        for cached in (False, True, True):
            with artifact.open(asked, cached=cached) as session:
                told.append([str(session._single.compiled.get_property(name)) for name in names])
        assert told[0] == told[1] == told[2]
