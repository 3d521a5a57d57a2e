"""The figures in the README are those of the committed results."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_says_what_was_measured(tables: ModuleType):
    text = (ROOT / "README.md").read_text()
    assert all(f"<!-- {name} -->" in text for name in tables.BLOCKS)
    assert text == tables.filled(text), "run python benchmarks/tables.py"


def test_a_changed_figure_would_be_noticed(tables: ModuleType):
    text = (ROOT / "README.md").read_text()
    begin, end = text.index("<!-- peers -->"), text.index("<!-- end of peers -->")
    changed = text[:begin] + text[begin:end].replace("| edgecls", "| edgeclz") + text[end:]
    assert changed != text
    assert tables.filled(changed) == text


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda file: file.name)
def test_every_result_names_its_machine_and_versions(file: Path):
    result = json.loads(file.read_text())
    assert result["machine"]["cores"] >= 1
    assert "numpy" in result["versions"]
