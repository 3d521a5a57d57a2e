"""The structure that the contributing guide describes, checked on the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edgecls

ROOT = Path(edgecls.__file__).parent
FLOORS = [
    {"errors"}, {"storage", "opencv", "vision", "fields", "urls", "bounds"}, {"preprocess"}, {"card"},
    {"data", "models"}, {"runs", "backends"}, {"env", "evaluate"},
    {"classifier"}, {"batch"}, {"train", "intake", "benchmark"}, {"export", "stream"}, {"tune"},
    {"report"}, {"cli"},
]  # fmt: skip
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
FILES = [path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem in FLOOR]


def imported(path: Path) -> set[str]:
    """Dotted names below `edgecls` that a file imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "edgecls":
            names |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "edgecls" else {node.module}
            )
    return {name.removeprefix("edgecls.") for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards_only(path: Path):
    own = FLOOR[path.relative_to(ROOT).parts[0].removesuffix(".py")]
    for name in imported(path):
        other = FLOOR.get(name.split(".")[0])
        assert other is None or other <= own, f"{path.name} imports {name}, which stands above it"


def test_no_two_files_import_each_other():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): imported(path) for path in FILES}
    for name, others in modules.items():
        assert not [other for other in others if name in modules.get(other, set())], name


def test_only_backends_know_the_targets_by_name():
    for path in FILES:
        if "backends" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                words = {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)}
                assert not words & {"onnx", "openvino", "tensorrt"}, f"{path.name}:{node.lineno}"


def test_only_storage_gives_files_their_names():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if path.stem != "storage" and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                renames = node.func.attr in ("rename", "move") or (
                    node.func.attr == "replace" and len(node.args) == 1 and not node.keywords
                )
                assert not renames, f"{path.name}:{node.lineno} takes no care of a power cut; see storage.take_name"
