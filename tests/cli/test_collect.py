"""`edgecls collect` as it is typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from edgecls.collecting.labelled import LabelledFolder


def test_pictures_of_folders_become_a_data_set(cli: Callable[..., Result], photos: Path, tmp_path: Path):
    out = tmp_path / "new"
    for label in ("dark", "bright"):
        result = cli("collect", "--camera", photos / label, "--label", label, "--out", out)
        assert result.exit_code == 0, result.stderr
        one_class = "collect images of another class, too: a classifier needs two, and there is only dark"
        assert f"next: {one_class if label == 'dark' else 'edgecls train'}" in result.stderr
    assert "12 pictures taken, 0 left out" in result.stdout
    assert "bright: 12 images in 12 series (8 train, 2 val, 2 test)" in result.stdout
    checked = cli("data", "check", out, "--html", tmp_path / "page.html")
    assert "24 images in 2 classes: 16 train, 4 val, 4 test" in checked.stdout
    (out / "dark" / "mine.jpg").write_bytes(next(out.rglob("*.jpg")).read_bytes())
    assert (
        "unlisted: 1, images that data.csv does not list" in cli("data", "check", out, "--html", tmp_path / "p").stdout
    )


def test_what_the_folder_holds_already_is_said(cli: Callable[..., Result], photos: Path, tmp_path: Path):
    out = tmp_path / "new"
    cli("collect", "--camera", photos / "dark", "--label", "dark", "--out", out)
    again = cli("collect", "--camera", photos / "dark", "--label", "dark", "--out", out)
    assert "0 pictures taken, 0 left out" in again.stdout
    assert f"12 left out that {out} holds already\n" in again.stdout
    assert "next:" not in again.stderr
    other = cli("collect", "--camera", photos / "dark", "--label", "bright", "--out", out)
    assert f"12 left out that {out} holds already (12 as dark; correct labels in: edgecls review)" in other.stdout


@pytest.mark.parametrize("time", ["2", "20ms", "0.01min", "1h", "1 s"])
def test_times_have_units(cli: Callable[..., Result], photos: Path, tmp_path: Path, time: str):
    """A folder's images do not follow each other in time: each is taken, whatever the pause."""
    taken = cli("collect", "--camera", photos / "dark", "--label", "dark", "--out", tmp_path / "out", "--every", time)
    assert taken.exit_code == 0
    assert len(LabelledFolder(tmp_path / "out").rows()) == 12


@pytest.mark.parametrize("time", ["2 days", "-1s", "²", "s", "1e9s", "0"])
def test_what_is_no_time_is_refused(cli: Callable[..., Result], photos: Path, tmp_path: Path, time: str):
    refused = cli(
        "collect", "--camera", photos / "dark", "--label", "dark", "--out", tmp_path / "out", f"--every={time}"
    )
    assert refused.exit_code == 2
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--every", "2s"), 2, "give --label too"),
        (("--classes", "ok,a\nb"), 2, "a class takes a name"),
        (("--camera", "nowhere"), 7, "there is no camera or file nowhere"),
        (("--web", "here"), 2, "--web takes a port"),
        (("--label", "ok", "--camera", "demo", "--model", "nothing"), 4, "nothing"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    cli: Callable[..., Result], tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
):
    result = cli("collect", "--out", tmp_path / "out", *arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists() or LabelledFolder(tmp_path / "out").rows() == []
