"""`edgecls build` and `edgecls info --layers`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from edgecls import backends
from edgecls.backends.nvidia.flavours import FLAVOURS, installed_flavours
from edgecls.runtime.store import Artifact

Cli = Callable[..., Result]
Bundle = Callable[[str, str], Artifact]
needs_rtx = pytest.mark.skipif(FLAVOURS[1] not in installed_flavours(), reason="tensorrt_rtx is not installed")


@needs_rtx
def test_an_engine_for_other_gpus_is_built_ahead_of_time(cli: Cli, bundle: Bundle, copy_of: Callable[[Artifact], Path]):
    path = copy_of(bundle("tensorrt", "int8"))
    result = cli("build", path, "--compute-capability", "8.0,12.1")
    assert result.exit_code == 0, result.output
    assert "-any-sm8.0+12.1-b1-1-8.engine" in result.output.replace("\n", "")


@needs_rtx
def test_without_a_gpu_it_says_how_to_build_for_one(cli: Cli, bundle: Bundle):
    if backends.find("tensorrt").available() is None:
        pytest.skip("this machine has an NVIDIA GPU")
    result = cli("build", bundle("tensorrt", "int8").path)
    assert result.exit_code == 5
    assert "name the GPUs to build for: --compute-capability" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_what_needs_no_building_is_said(cli: Cli, bundle: Bundle):
    assert "nothing to build" in cli("build", bundle("onnx", "fp32").path).output


def test_a_changed_bundle_is_refused(cli: Cli, bundle: Bundle, copy_of: Callable[[Artifact], Path]):
    path = copy_of(bundle("tensorrt", "fp32"))
    (path / "model.onnx").write_bytes(b"changed")
    assert cli("build", path, "--compute-capability", "8.9").exit_code == 4


def test_layers_are_printed_with_their_shares(cli: Cli, bundle: Bundle):
    output = cli("info", bundle("onnx", "int8").path, "--layers").output
    assert "QLinearConv" in output
    assert "5 with weights" in output
    record = json.loads(cli("info", bundle("onnx", "int8").path, "--layers", "--json").output)
    assert {layer["precision"] for layer in record["layers"] if layer["weighted"]} == {"int8"}
    assert record["shares"]["int8"] > 0.1


def test_a_run_has_no_layers_to_show(cli: Cli, trained: Artifact):
    result = cli("info", trained.path, "--layers")
    assert result.exit_code == 2
    assert "give a bundle" in result.stderr
