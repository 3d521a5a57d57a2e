"""The script for people with a GPU, as far as it runs without one: its measuring, on ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from edgecls import backends
from edgecls.runtime.store import Artifact

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu" / "run.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = spec_from_file_location("gpu_run", SCRIPT)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_engine_is_compared_with_its_graph(script: ModuleType, bundle: Callable[[str, str], Artifact]):
    found = script.parity(bundle("onnx", "int8"))
    assert found["images"] == 16 + script.IMAGES
    assert found["agreement"] > 0.99
    assert found["submitted_as_inferred"]


def test_latency_is_measured_for_each_batch_and_with_overlap(
    script: ModuleType, bundle: Callable[[str, str], Artifact]
):
    rows = script.latency(bundle("onnx", "int8"), 0.01)
    assert [row["batch"] for row in rows] == [*script.BATCHES, 1]
    assert all(row["images_per_s"] > 0 for row in rows)
    assert rows[-1]["overlapping"] >= 1


def test_the_shares_of_precisions_are_recorded(script: ModuleType, bundle: Callable[[str, str], Artifact]):
    found = script.inside(bundle("onnx", "int8"))
    assert found["layers_with_weights"] == {"int8": 5}
    assert found["unquantized"] == []


def test_without_a_gpu_it_says_so():
    if backends.find("tensorrt").available() is None:
        pytest.skip("this machine has an NVIDIA GPU")
    done = subprocess.run([sys.executable, SCRIPT, "nowhere"], capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
