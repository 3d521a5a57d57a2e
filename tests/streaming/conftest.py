from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import edgecls
from edgecls.runtime.store import Artifact


@pytest.fixture(scope="module")
def classifier(bundle: Callable[[str, str], Artifact]) -> Iterator[edgecls.Classifier]:
    with edgecls.load(bundle("onnx", "int8").path) as model:
        yield model
