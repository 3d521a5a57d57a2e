"""Which images an evaluation looks at."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecls.evaluation.images import images_for
from edgecls.runtime.store import Artifact


@pytest.mark.parametrize(("split", "images"), [(None, 40), ("train", 20)])
def test_a_manifest_is_measured_whole_unless_it_names_what_is_held_out(
    trained: Artifact, digit_images: Path, split: str | None, images: int
):
    """Of one that has training images alone, half stands in for the test split."""
    files = sorted(path for path in digit_images.rglob("*") if path.is_file())
    further = f",{split}" if split else ""
    lines = [f"{path},{path.parent.name}{further}" for path in files]
    manifest = digit_images / "list.csv"
    manifest.write_text("\n".join([f"path,label{',split' if split else ''}", *lines]))
    assert len(images_for(trained, manifest)[1]) == images
