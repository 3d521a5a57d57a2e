"""The calibration study's table in the guide is the one that its results give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "calibration"
RESULTS = sorted((ROOT / "results").glob("*.json"))


@pytest.mark.skipif(not RESULTS, reason="the study's results are not part of this install")
def test_the_guide_shows_the_results_as_they_are():
    command = [sys.executable, str(ROOT / "study.py"), "--table", *map(str, RESULTS)]
    table = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()
    assert len(table.splitlines()) > 10
    assert table in (ROOT / "README.md").read_text()
