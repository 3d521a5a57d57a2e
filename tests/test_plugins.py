"""Backends, sources and sinks of other packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from edgecls import backends, plugins
from edgecls.errors import UsageError
from edgecls.runtime.store import Artifact
from edgecls.streaming.sinks.choose import from_other_package
from edgecls.streaming.sources import open_source

EXAMPLE = Path(__file__).parents[1] / "examples" / "edgecls-example"


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace the entry points of all installed packages."""

    def replace(group: str, **values: str) -> None:
        found = metadata.EntryPoints(metadata.EntryPoint(name, value, group) for name, value in values.items())
        monkeypatch.setattr(metadata, "entry_points", lambda group: found.select(group=group))

    return replace


def test_a_backend_that_cannot_be_loaded_stops_no_other(entries: Callable, caplog: pytest.LogCaptureFixture):
    entries(
        plugins.BACKENDS, gone="no_such_package:BACKEND", odd="json:dumps", torch="edgecls.models.torch_backend:BACKEND"
    )
    assert set(backends.all_backends.__wrapped__()) == set(backends.all_backends())
    assert "no_such_package" in caplog.text
    assert "odd is no Backend" in caplog.text


def test_what_is_no_sink_or_unknown_is_one_line(entries: Callable):
    entries(plugins.SINKS, odd="json:dumps", gone="no_such_package:Sink")
    for text, words in (("nothing", "'nothing'.*gone, odd"), ("gone:x", "cannot be loaded"), ("odd", "gives no Sink")):
        with pytest.raises(UsageError, match=words):
            from_other_package(text)


def test_a_source_that_cannot_be_loaded_is_one_line(entries: Callable):
    entries(plugins.SOURCES, gone="no_such_package:open")
    with pytest.raises(UsageError, match="gone of no_such_package:open cannot be loaded"):
        open_source("gone:1", None)


@pytest.fixture(scope="module")
def with_example(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line where the example package is installed."""
    target = tmp_path_factory.mktemp("example")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, EXAMPLE]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install here: {done.stderr.strip().splitlines()[-1:]}")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, (str(target), os.environ.get("PYTHONPATH"))))
        return subprocess.run(
            [sys.executable, "-m", "edgecls", *map(str, arguments)], capture_output=True, text=True, timeout=240,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip

    return run


def test_the_examples_backend_is_exported_to_verified_and_run(
    with_example: Callable, trained: Artifact, tmp_path: Path
):
    done = with_example("export", "--target", "onnx-reference", trained.path, "--out", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    assert "onnx-reference" in json.loads(with_example("doctor", "--json").stdout)["backends"]
    done = with_example("verify", tmp_path / "bundle")
    assert (done.returncode, "pass:" in done.stdout) == (0, True), done.stderr


def test_the_examples_source_and_sink_make_a_stream(
    with_example: Callable, bundle: Callable[[str, str], Artifact], tmp_path: Path
):
    tally = tmp_path / "tally.json"
    common = ("stream", "--model", bundle("onnx", "int8").path, "--display", "none")
    done = with_example(*common, "--camera", "noise:64x48x12", "--sink", f"tally:{tally}")
    assert done.returncode == 0, done.stderr
    assert sum(json.loads(tally.read_text()).values()) == 12
    for wrong, words in (
        (("--camera", "noise:x"), "noise: takes WIDTH"),
        (("--camera", "demo", "--sink", "tally"), "tally takes"),
    ):
        done = with_example(*common, *wrong)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
