"""The images that a network finds most like another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgecls.data.sources import FolderSource
from edgecls.data.splits import Sample
from edgecls.errors import DataError
from edgecls.evaluation.nearest import NearestImages
from edgecls.runtime.store import Artifact


def test_images_that_are_gone_are_no_neighbours(
    bundle: Callable[[str, str], Artifact], digit_images: Path, trained: Artifact
):
    source, artifact = FolderSource(digit_images), bundle("onnx", "fp32")
    keys = sorted(str(path.relative_to(digit_images)) for path in digit_images.rglob("*.png"))
    samples = [Sample(key, trained.card.classes.index(Path(key).parent.name)) for key in keys]
    pixels = trained.card.preprocess(source.read(keys[5]))
    with_all = NearestImages(artifact, source, samples)
    assert with_all.find(pixels, 1)[0].key == keys[5]
    (digit_images / keys[5]).unlink()
    without = NearestImages(artifact, source, samples)
    found = without.find(pixels, 39)
    assert len(found) == 39
    assert keys[5] not in {each.key for each in found}
    assert found[0].similarity < 1
    for key in {each.key for each in found}:
        (digit_images / key).unlink()
    with pytest.raises(DataError, match="are gone; say where they are"):
        NearestImages(artifact, source, samples)
    assert np.isfinite(found[0].similarity)
    with_all.close()
    without.close()
