"""`edgecls evaluate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from edgecls import backends
from edgecls.runtime.store import Artifact

Cli = Callable[..., Result]
Bundle = Callable[[str, str], Artifact]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports are written to the working folder."""
    monkeypatch.chdir(tmp_path)


def test_a_run_is_measured_on_its_test_split(cli: Cli, trained: Artifact, tmp_path: Path):
    result = cli("evaluate", trained.path, "--json", "all.json")
    assert result.exit_code == 0, result.output
    assert "torch-fp32 on 269 images: top-1 " in result.output
    record = json.loads((tmp_path / "all.json").read_text())
    assert record["top1"] == trained.card.quality.top1
    assert len(record["mistakes"]) == round((1 - record["top1"]) * 269)
    assert record["classes"]["seven"]["roc_auc"] > 0.9
    page = (tmp_path / "evaluation.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page  # needs nothing from elsewhere


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_bundle_is_measured_in_its_own_runtime_on_a_folder(cli: Cli, bundle: Bundle, digit_images: Path, target: str):
    if reason := backends.find(target).available():
        pytest.skip(reason)
    result = cli("evaluate", bundle(target, "int8").path, digit_images, "--html", "page.html")
    assert result.exit_code == 0, result.output
    assert f"{target}-int8 on 40 images: top-1 " in result.output
    assert Path("page.html").read_text().startswith("<!doctype html>")


def test_too_low_an_accuracy_can_fail_a_ci(cli: Cli, trained: Artifact):
    result = cli("evaluate", trained.path, "--min-top1", "0.9999")
    assert result.exit_code == 6
    assert "at least 99.99% was asked for" in result.stderr


def test_bad_input_is_one_line(cli: Cli, trained: Artifact, photos: Path, tmp_path: Path):
    (tmp_path / "loose").mkdir()
    (photos / "dark" / "00.jpg").rename(tmp_path / "loose" / "00.jpg")
    for arguments, code, words in (
        (("nowhere",), 4, "there is no model at nowhere"),
        ((trained.path, tmp_path / "none"), 3, "there is no folder"),
        ((trained.path, photos), 3, "is no class of this network"),
        ((trained.path, tmp_path / "loose"), 3, "images without classes"),
        ((trained.path, "--min-top1", "95"), 2, "--min-top1"),
    ):
        result = cli("evaluate", *arguments)
        assert (result.exit_code, len(result.stderr.splitlines())) == (code, 1), result.stderr
        assert words in result.stderr
    assert not Path("evaluation.html").exists()
