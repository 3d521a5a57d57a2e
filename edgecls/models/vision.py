"""The one import of torchvision.

Where a torch without CUDA meets a torchvision whose operators were compiled for CUDA, the operators do not load and
`import torchvision` dies with "operator torchvision::nms does not exist" (pytorch issues 122494 and 157648). Models,
weights and transforms need none of them, so their missing schemas are declared first; where the operators are there,
nothing is changed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from edgecls.errors import MissingExtraError

_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_COMPILER = "torch._dynamo"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> Any:
    """Return the module `torchvision`. Raises `MissingExtraError` where it or torch is not installed."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "train", "this step") from error
    with no_cache_folder(), _compiler_left_alone():
        try:
            import torchvision
        except ImportError as error:
            raise MissingExtraError("torchvision", "train", "this step") from error
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            for name in ("nms", "qnms"):
                torch.library.define(f"torchvision::{name}", _SCHEMA)
            import torchvision
    return torchvision


@contextmanager
def _compiler_left_alone() -> Iterator[None]:
    """Import torchvision without torch's compiler, which takes more than a second and is not used.

    One operator, of detectors, asks it a question when it is called; the question is put then.
    """
    if _COMPILER in sys.modules:
        yield
        return
    asked = ModuleType(f"{_COMPILER}.utils")
    asked.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    substitutes = {_COMPILER: ModuleType(_COMPILER), asked.__name__: asked}
    sys.modules.update(substitutes)
    try:
        yield
    finally:
        for name, module in substitutes.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return is_compile_supported(device_type)


@contextmanager
def no_cache_folder() -> Iterator[None]:
    """Take away the folder that torch's compiler makes for its cache as soon as it is imported, used or not.

    torchvision and Lightning import the compiler, and so does torch itself for an optimizer.
    """
    chosen = os.environ.get(_CACHE_VARIABLE)
    try:
        yield
    finally:
        made = os.environ.get(_CACHE_VARIABLE)
        if chosen is None and made is not None:
            del os.environ[_CACHE_VARIABLE]  # it is set on import too; a compiler that is used makes its folder again
            with suppress(OSError):
                Path(made).rmdir()  # only where it is empty
