"""The Ray engine makes the parts of the local one, byte for byte, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgecls.bulk.config import BulkConfig
from edgecls.errors import UsageError
from tests.bulk.conftest import Predict, rows_of

pytest.importorskip("pyarrow")
ray = pytest.importorskip("ray", reason="Ray is not installed")
PATIENCE_S = 60
"""Only a test that fails waits so long."""
TRIES = 3


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH")))))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        ray.init(cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


def _same(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.glob("part-*"))
    return names == sorted(path.name for path in other.glob("part-*")) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_parts_are_those_of_the_local_engine(
    cluster: Any, predict: Predict, photos: Path, paths: list[Path], tmp_path: Path, format: str
):
    paths[2].write_bytes(b"none")
    predict(tmp_path / "local", photos, format=format)
    summary = predict(tmp_path / "ray", photos, format=format, engine="ray")
    assert (summary.total.images, summary.total.unreadable) == (24, 1)
    assert _same(tmp_path / "local", tmp_path / "ray")


def _until(happened: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + PATIENCE_S
    while not (done := happened()) and time.monotonic() < deadline_s:
        time.sleep(0.005)
    return done


def _running(count: int, out: Path) -> bool:
    return _until(lambda: len(list(out.glob("part-*"))) >= count)


def _many(paths: list[Path], folder: Path, times: int) -> Path:
    """A list of the same images under many names."""
    lines = []
    for index in range(times):
        (folder / f"{index:04d}").symlink_to(paths[0].parents[1])
        lines += [folder / f"{index:04d}" / path.parent.name / path.name for path in paths]
    (folder / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder / "list.txt"


def test_a_worker_that_is_killed_is_replaced(
    cluster: Any, predict: Predict, paths: list[Path], tmp_path: Path, workers: Callable[[], list[int]],
    caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    listed, out = _many(paths, tmp_path, 50), tmp_path / "out"

    def kill() -> None:
        if _running(5, out):
            os.kill(workers()[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    summary = predict(out, list_file=listed, engine="ray")
    killer.join()
    assert (summary.total.images, summary.total.unreadable, summary.parts) == (1200, 0, 240)
    assert "a worker died" in caplog.text
    assert len({row["image"] for row in rows_of(out)}) == 1200


def test_a_node_that_is_lost_is_not_waited_for(
    cluster: Any, predict: Predict, paths: list[Path], tmp_path: Path, workers: Callable[[], list[int]],
    caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    listed = _many(paths, tmp_path, 50)
    for attempt in range(TRIES):  # it can be lost before it has an actor, or when there is nothing left to do
        out, node = tmp_path / f"out{attempt}", cluster.add_node(num_cpus=1)

        def kill(out: Path = out, node: Any = node) -> None:
            if _running(5, out):
                _until(lambda: len(workers()) > 2)  # those of the two other nodes
                cluster.remove_node(node, allow_graceful=False)

        killer = threading.Thread(target=kill)
        killer.start()
        summary = predict(out, list_file=listed, engine="ray")
        killer.join()
        assert (summary.total.images, summary.total.unreadable, summary.parts) == (1200, 0, 240)
        if "a worker died" in caplog.text:
            break
    assert "a worker died" in caplog.text


@pytest.fixture
def workers() -> Callable[[], list[int]]:
    """The processes of the actors of this package."""
    import psutil

    return lambda: [
        process.pid for process in psutil.process_iter(["cmdline"])
        if "ray::Actor" in " ".join(process.info["cmdline"] or [])
        and any(parent.pid == os.getpid() for parent in process.parents())
    ]  # fmt: skip


def test_too_little_room_is_said_before_anything_waits(cluster: Any, predict: Predict, photos: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="room for a worker of 64 CPUs"):
        predict(tmp_path / "out", photos, engine="ray", worker_cpus=64)
    with pytest.raises(UsageError, match="`workers` belongs to `engine` ray"):
        BulkConfig(workers=2).check()
