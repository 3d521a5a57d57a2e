"""`edgecls explain`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from edgecls.imaging.decode import read_image
from edgecls.imaging.opencv import cv2
from edgecls.runtime.store import Artifact

Cli = Callable[..., Result]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "explanation.html"


def test_each_image_gets_its_answer_a_picture_and_the_training_images_most_like_it(
    cli: Cli, trained: Artifact, bundle: Callable[[str, str], Artifact], digit_images: Path, page: Path, tmp_path: Path
):
    model, out = bundle("onnx", "fp32").path, tmp_path / "heat"
    image = digit_images / "seven" / sorted(each.name for each in (digit_images / "seven").iterdir())[0]
    result = cli("explain", image, "--model", model, "--html", page, "--out", out, "--nearest", 3)
    assert result.exit_code == 0, result.output
    assert "seven" in result.output
    assert "most like 3 seven" in result.output
    assert read_image(out / f"{image.stem}.jpg").shape == read_image(image).shape
    text = page.read_text()
    assert text.count("<img") == 5
    assert "similarity 1.00" in text


def test_images_of_the_same_name_do_not_replace_each_other(
    cli: Cli, bundle: Callable[[str, str], Artifact], digit_images: Path, page: Path, tmp_path: Path
):
    model, out = bundle("onnx", "fp32").path, tmp_path / "heat"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "same.png"), np.zeros((32, 32, 3), np.uint8))
    images = (tmp_path / "a", tmp_path / "b")
    result = cli("explain", *images, "--model", model, "--html", page, "--out", out, "--nearest", 0)
    assert result.exit_code == 0, result.output
    assert sorted(each.name for each in out.iterdir()) == ["same-2.jpg", "same.jpg"]


def test_a_run_is_explained_by_gradients(cli: Cli, trained: Artifact, digit_images: Path, page: Path, copy_of):
    result = cli("explain", digit_images / "two", "--model", copy_of(trained), "--html", page, "--class", "two")
    assert result.exit_code == 0, result.output
    assert "HiResCAM" in result.output


def test_images_of_a_folder_are_neighbours_where_one_is_named(
    cli: Cli, bundle: Callable[[str, str], Artifact], digit_images: Path, page: Path
):
    model = bundle("onnx", "fp32").path
    result = cli("explain", digit_images / "two", "--model", model, "--data", digit_images, "--html", page)
    assert result.exit_code == 0, result.output
    assert "most like" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--class", "cat"), "no class 'cat'"),
        (("--nearest", "21"), "--nearest"),
        (("--data", "nowhere"), "there is no folder nowhere"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_in_one_line_and_leaves_no_page(
    cli: Cli,
    bundle: Callable[[str, str], Artifact],
    digit_images: Path,
    page: Path,
    arguments: tuple[str, ...],
    message: str,
):
    result = cli("explain", digit_images, "--model", bundle("onnx", "fp32").path, "--html", page, *arguments)
    assert result.exit_code != 0
    assert message in str(result.exception) + result.output
    assert not page.exists()
