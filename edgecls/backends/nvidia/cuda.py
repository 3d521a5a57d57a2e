"""What is used of the CUDA runtime, through NVIDIA's own bindings (`cuda-python`), and why it may not be there."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import Any

from edgecls.errors import BackendError, MissingExtraError


@dataclass(frozen=True)
class Gpu:
    """The GPU that engines are built for and run on: the first one that CUDA lists."""

    name: str
    capability: str
    memory_mib: int


def call(function: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime; return its result, if it has one.

    Raises `BackendError` with CUDA's own words, and what to do where the GPU's memory is exhausted.
    """
    from cuda.bindings import runtime as cudart

    status, *result = getattr(cudart, function)(*arguments)
    if status != cudart.cudaError_t.cudaSuccess:
        remedy = ""
        if status == cudart.cudaError_t.cudaErrorMemoryAllocation:
            remedy = "; the GPU's memory is full: stop what else runs on it, or export with a smaller `batch`"
        raise BackendError(f"CUDA: {function} failed: {_words(status)}{remedy}")
    return result[0] if result else None


@cache
def gpu() -> Gpu | None:
    """The first GPU, or None; `unavailable_reason` says why."""
    if unavailable_reason() is not None:
        return None
    properties = call("cudaGetDeviceProperties", 0)
    name = properties.name.decode(errors="replace") if isinstance(properties.name, bytes) else str(properties.name)
    memory_mib = int(properties.totalGlobalMem) >> 20
    return Gpu(name.rstrip("\0"), f"{properties.major}.{properties.minor}", memory_mib)


@cache
def unavailable_reason() -> str | None:
    """Why no GPU can be used on this machine, and what would change that, or None where one can."""
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        return str(MissingExtraError("cuda-python", "tensorrt-rtx", "running TensorRT engines"))
    from cuda.bindings import runtime as cudart

    _, supported = cudart.cudaDriverGetVersion()
    status, count = cudart.cudaGetDeviceCount()
    if status == cudart.cudaError_t.cudaSuccess and count:
        return None
    if not supported:
        return "no NVIDIA GPU with a working driver was found"
    if status == cudart.cudaError_t.cudaErrorInsufficientDriver:
        _, needed = cudart.cudaRuntimeGetVersion()
        return (
            f"the NVIDIA driver is too old: it supports CUDA {_dotted(supported)} and cuda-python needs "
            f"{_dotted(needed)}; update the driver, or pip install 'cuda-python=={supported // 1000}.*'"
        )
    return f"CUDA finds no usable GPU ({_words(status)})"


def _words(status: Any) -> str:
    from cuda.bindings import runtime as cudart

    _, text = cudart.cudaGetErrorString(status)
    return text.decode() if isinstance(text, bytes) else str(text)


def _dotted(version: int) -> str:
    """CUDA counts 1000 major + 10 minor."""
    return f"{version // 1000}.{version % 1000 // 10}"
