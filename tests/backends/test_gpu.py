"""What only an NVIDIA GPU can show. `benchmarks/gpu/run.py` measures on top of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgecls import backends
from edgecls.artifact.golden import Golden
from edgecls.backends.nvidia import engines
from edgecls.runtime.layers import profile_layers
from edgecls.runtime.pipeline import pipelined
from edgecls.runtime.store import Artifact

REASON = backends.find("tensorrt").available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(REASON is not None, reason=str(REASON))]
PRECISIONS = backends.find("tensorrt").precisions


def free_bytes() -> int:
    """Free memory of the GPU."""
    from cuda.bindings import runtime

    _, free, _total = runtime.cudaMemGetInfo()
    return free


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_engine_answers_as_its_graph_does_in_onnx_runtime(bundle: Callable[[str, str], Artifact], precision: str):
    artifact = bundle("tensorrt", precision)
    images = np.concatenate([Golden.read(artifact.path).images] * 3)
    graph = backends.find("onnx").open(artifact.path / artifact.card.model_file, artifact.card)
    with artifact.open() as session, graph:
        for count in (1, 8, 9, len(images)):  # the usual batch, the largest, and beyond it
            scores, expected = session.infer(images[:count]), graph.infer(images[:count])
            assert (scores.argmax(1) == expected.argmax(1)).mean() >= 0.95
            np.testing.assert_allclose(scores, expected, atol=0.1 * np.abs(expected).max())


def test_what_is_submitted_comes_back_in_order(bundle: Callable[[str, str], Artifact]):
    artifact = bundle("tensorrt", "int8")
    images = Golden.read(artifact.path).images
    with artifact.open() as session:
        expected = [session.infer(image[None]) for image in images]
        collected = list(pipelined(session, images))
    np.testing.assert_allclose(np.concatenate(collected), np.concatenate(expected), atol=1e-4)


def test_the_second_opening_builds_nothing(
    bundle: Callable[[str, str], Artifact], copy_of: Callable[[Artifact], Path], monkeypatch: pytest.MonkeyPatch
):
    artifact = bundle("tensorrt", "fp16")
    copy = Artifact(copy_of(artifact), artifact.card)
    copy.open().close()
    monkeypatch.setattr(engines, "build_engine", lambda *_: pytest.fail("built again"))
    copy.open().close()


def test_convolutions_of_an_int8_engine_compute_in_int8(bundle: Callable[[str, str], Artifact]):
    inside = profile_layers(bundle("tensorrt", "int8"))
    assert inside.total_ms > 0
    assert inside.shares.get("int8", 0.0) > 0
    assert not [name for name in inside.unquantized if "conv" in name.lower()]


def test_the_gpus_memory_is_given_back(bundle: Callable[[str, str], Artifact]):
    artifact = bundle("tensorrt", "fp32")
    artifact.open().close()
    before = free_bytes()
    for _ in range(5):
        artifact.open().close()
    assert free_bytes() >= before - (16 << 20)
