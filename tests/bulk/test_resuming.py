"""A job that ended in any way goes on where it was, and no other job's answers get between."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgecls.errors import OutputError, UsageError
from tests.bulk.conftest import Predict, rows_of

pytest.importorskip("pyarrow")


def test_parts_that_are_there_are_not_made_again(predict: Predict, photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    first = predict(out, photos)
    assert (first.parts, first.found_parts, first.answered) == (5, 0, 24)
    parts = sorted(out.glob("part-*"))
    content = parts[2].read_bytes()
    whole = len(rows_of(out))
    parts[2].unlink()
    kept = len(rows_of(out))
    again = predict(out, photos)
    assert (again.parts, again.found_parts, again.answered) == (5, 4, whole - kept)
    assert parts[2].read_bytes() == content
    assert json.loads((out / "_SUCCESS").read_text()) == {"images": 24, "unreadable": 0}


def test_another_job_does_not_mix_in(predict: Predict, photos: Path, paths: list[Path], tmp_path: Path):
    out = tmp_path / "out"
    predict(out, photos)
    for other, words in (({"top": 2}, "settings differ"), ({"format": "csv"}, "settings differ")):
        with pytest.raises(UsageError, match=words):
            predict(out, photos, **other)
    with pytest.raises(UsageError, match="inputs differ"):
        predict(out, photos / "dark")
    paths[0].unlink()
    with pytest.raises(UsageError, match="the input has changed"):
        predict(out, photos)
    (out / "_job.json").unlink()
    with pytest.raises(UsageError, match=r"no _job\.json"):
        predict(out, photos)


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_a_part_with_other_images_than_its_name_says_is_found(
    predict: Predict, photos: Path, tmp_path: Path, format: str
):
    out = tmp_path / "out"
    predict(out, photos, format=format)
    one, other, *_ = sorted(out.glob("part-*"), key=lambda path: -path.stat().st_size)
    one.write_bytes(other.read_bytes())
    with pytest.raises(OutputError, match="does not hold the images"):
        predict(out, photos, format=format)
    one.write_bytes(b"\xff")
    with pytest.raises(OutputError, match="delete it"):
        predict(out, photos, format=format)


def test_killed_at_random_moments_every_image_has_one_row(model: Path, photos: Path, paths: list[Path], tmp_path: Path):
    """One image a part, so that there is much to lose."""
    bad = paths[7]
    bad.write_bytes(b"none")
    out, chance = tmp_path / "out", random.Random(0)
    command = [sys.executable, "-m", "edgecls", "predict", photos, "--model", model, "--out", f"{out}/"]
    command += ["--shard-images", "1", "--no-check"]
    for _ in range(4):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wanted = len(list(out.glob("part-*"))) + chance.randint(1, 5)
        while process.poll() is None and len(list(out.glob("part-*"))) < wanted:
            time.sleep(0.001)
        process.kill()
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "24 images, each in one row of 24 parts" in done.stderr
    rows = rows_of(out)
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    assert [row["image"] for row in rows if row["error"]] == [str(bad)]
