"""Rules of the contributing guide that are checked on the source; import-linter checks who imports whom."""

from __future__ import annotations

import ast
from pathlib import Path

import edgecls

ROOT = Path(edgecls.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def test_only_backends_know_the_targets_by_name():
    for path in FILES:
        if "backends" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                words = {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)}
                assert not words & {"onnx", "openvino", "tensorrt"}, f"{path.name}:{node.lineno}"


def test_only_files_gives_files_their_names():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if path.stem != "files" and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                renames = node.func.attr in ("rename", "move") or (
                    node.func.attr == "replace" and len(node.args) == 1 and not node.keywords
                )
                assert not renames, f"{path.name}:{node.lineno} takes no care of a power cut; see files.take_name"
