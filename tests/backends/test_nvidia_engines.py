"""The engine cache: what an engine is kept under, when it counts, and who builds it. Built for real by TensorRT-RTX."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgecls.backends.nvidia import engines
from edgecls.backends.nvidia.engines import EngineCache, Plan, build_engine
from edgecls.backends.nvidia.flavours import FLAVOURS, installed_flavours
from edgecls.errors import BackendError
from edgecls.runtime.store import Artifact

RTX = FLAVOURS[1]
pytestmark = pytest.mark.skipif(RTX not in installed_flavours(), reason="tensorrt_rtx is not installed")


@pytest.fixture
def graph(bundle: Callable[[str, str], Artifact], tmp_path: Path) -> Path:
    """A bundle's graph in a folder of its own."""
    (tmp_path / "bundle").mkdir()
    return Path(shutil.copy(bundle("tensorrt", "int8").path / "model.onnx", tmp_path / "bundle" / "model.onnx"))


@pytest.fixture
def plan() -> Plan:
    return Plan(RTX, ("8.9",), "NVIDIA L4 (24GB)", (32, 32, 3))


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """The plans that were really built."""
    built: list[Plan] = []

    def counted(graph: Path, plan: Plan, *arguments: object):
        built.append(plan)
        return build_engine(graph, plan, *arguments)

    monkeypatch.setattr(engines, "build_engine", counted)
    return built


def test_an_engine_is_built_once_and_then_read(graph: Path, plan: Plan, builds: list[Plan]):
    first, second = EngineCache(graph).obtain(plan), EngineCache(graph).obtain(plan)
    assert first == second
    assert len(first) > 100_000
    assert builds == [plan]


def test_the_name_says_graph_flavour_version_gpu_capability_and_batch(graph: Path, plan: Plan):
    name = EngineCache(graph).path(plan).name
    assert name.endswith(f"-tensorrt_rtx-{RTX.version()}-NVIDIA-L4-24GB-sm8.9-b1-1-8.engine")


@pytest.mark.parametrize(
    "change",
    [{"gpu": "NVIDIA A2"}, {"capabilities": ("8.6",)}, {"batch": (1, 4, 4)}, {"workspace_mib": 64}],
    ids=lambda change: next(iter(change)),
)
def test_another_gpu_or_range_of_batches_means_another_engine(
    graph: Path, plan: Plan, builds: list[Plan], change: dict
):
    cache, other = EngineCache(graph), replace(plan, **change)
    cache.obtain(plan)
    assert cache.find(other) is None
    cache.obtain(other)
    assert builds == [plan, other]
    assert cache.find(plan) != cache.find(other)


def test_another_version_of_the_runtime_means_another_engine(graph: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch):
    EngineCache(graph).obtain(plan)
    monkeypatch.setattr(type(RTX), "version", lambda _: "99.0")
    assert EngineCache(graph).find(plan) is None


def test_another_graph_means_another_engine_and_the_old_one_goes(
    graph: Path, plan: Plan, bundle: Callable[[str, str], Artifact]
):
    EngineCache(graph).obtain(plan)
    shutil.copy(bundle("tensorrt", "fp32").path / "model.onnx", graph)
    cache = EngineCache(graph)
    assert cache.find(plan) is None
    cache.obtain(plan)
    assert [path.name for path in cache.folder.glob("*.engine")] == [cache.path(plan).name]


@pytest.mark.parametrize("damage", ["truncated", "changed", "without its note", "with half a note"])
def test_an_engine_that_is_not_whole_is_built_anew(graph: Path, plan: Plan, builds: list[Plan], damage: str):
    cache = EngineCache(graph)
    whole = cache.obtain(plan)
    path, note = cache.path(plan), cache.path(plan).with_name(f"{cache.path(plan).name}.json")
    if damage == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "changed":
        path.write_bytes(b"x" + whole[1:])
    elif damage == "without its note":
        note.unlink()
    else:
        note.write_text(note.read_text()[:20])
    assert cache.find(plan) is None
    assert len(cache.obtain(plan)) == pytest.approx(len(whole), rel=0.1)
    assert builds == [plan, plan]
    assert cache.find(plan) == path


def test_one_built_ahead_of_time_serves_each_of_its_capabilities(graph: Path, plan: Plan, builds: list[Plan]):
    cache, ahead = EngineCache(graph), replace(plan, gpu=None, capabilities=("8.6", "8.9"))
    cache.obtain(ahead)
    assert cache.find(plan) == cache.path(ahead)
    assert cache.find(replace(plan, capabilities=("12.0",))) is None
    cache.obtain(plan)
    assert builds == [ahead]


def test_of_two_processes_that_start_together_one_builds(graph: Path):
    program = (
        "import sys, time; from pathlib import Path; from edgecls.backends.nvidia import engines; "
        "from edgecls.backends.nvidia.flavours import FLAVOURS\n"
        "def slow(*arguments, build=engines.build_engine):\n"
        "    print('built', flush=True); time.sleep(1); return build(*arguments)\n"
        "engines.build_engine = slow\n"
        "plan = engines.Plan(FLAVOURS[1], ('8.9',), 'one', (32, 32, 3))\n"
        "told = []; content = engines.EngineCache(Path(sys.argv[1])).obtain(plan, told.append)\n"
        "print(len(content), 'waited' if any('another process' in line for line in told) else 'first')\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(graph)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert "".join(outputs).count("built") == 1
    assert len({output.split()[-2] for output in outputs}) == 1


def test_beside_a_bundle_that_cannot_be_written_the_users_cache_serves(
    graph: Path, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builds: list[Plan]
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, whom nothing is forbidden
    EngineCache(graph).obtain(plan)
    assert EngineCache(graph).obtain(plan)
    assert builds == [plan]
    assert not (graph.parent / "engines").exists()
    assert list((tmp_path / "cache" / "edgecls" / "engines").glob("*.engine"))


def test_a_cache_that_cannot_be_written_costs_a_build_not_the_answer(graph: Path, plan: Plan, builds: list[Plan]):
    (graph.parent / "engines").write_text("in the way")
    message: list[str] = []
    assert EngineCache(graph).obtain(plan, message.append)
    assert builds == [plan]
    assert any("cannot be kept" in line for line in message)


def test_building_tells_how_far_it_is(graph: Path, plan: Plan):
    message: list[str] = []
    EngineCache(graph).obtain(plan, message.append)
    assert message


def test_what_tensorrt_refuses_to_build_is_told_in_its_words(graph: Path, plan: Plan):
    with pytest.raises(BackendError, match=r"nothing for compute capability 1\.0; it knows .*8\.6"):
        EngineCache(graph).obtain(replace(plan, capabilities=("1.0",)))
    assert not list((graph.parent / "engines").glob("*.engine"))
