"""Importing torch's family leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "arguments",
    [
        ["import", "classes.txt", "--arch", "resnet18", "--classes", "classes.txt"],
        ["train", "--arch", "simple_cnn", "--epochs", "1", "--size", "32", "--out", "run"],
    ],
    ids=["no checkpoint", "training"],
)
def test_no_command_leaves_something_among_the_temporary_files(tmp_path: Path, arguments: list[str]):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "classes.txt").write_text("a\nb\n")
    variables = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    subprocess.run(
        [sys.executable, "-m", "edgecls", *arguments],
        cwd=tmp_path, env={**variables, "TMPDIR": str(temporary)}, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert not list(temporary.iterdir())
    assert "run" not in arguments or (tmp_path / "run" / "card.json").is_file()


def test_importing_torchvision_does_not_import_the_compiler_and_its_operators_still_find_it():
    code = (
        "import sys; from edgecls.models.vision import import_torchvision; torchvision = import_torchvision();"
        "assert not {'torch._dynamo', 'torch._inductor'} & set(sys.modules);"
        "import torch; from torchvision.ops import roi_align;"
        "assert roi_align.__globals__['is_compile_supported']('cpu') in (True, False);"
        "assert sys.modules['torch._dynamo'].__file__; import torch._dynamo.utils;"
        "torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
