"""What this machine is: processor, instruction sets, memory, GPU, and the versions of what is installed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import edgecls
from edgecls import processor
from edgecls.artifact.card import Lineage
from edgecls.concurrency import usable_cpus
from edgecls.processor import field, read

PACKAGES = (
    "numpy", "opencv-python", "opencv-python-headless", "av", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx",
    "cuda-python", "torch", "torchvision", "onnx", "scikit-learn", "matplotlib",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """One machine, as far as it decides how fast a model runs."""

    cpu: str
    architecture: str
    cores: int
    memory_gib: float | None
    instruction_sets: tuple[str, ...]
    gpu: str | None
    system: str
    python: str

    @property
    def name(self) -> str:
        """Short name under which measurements are kept."""
        gpu = f", {self.gpu}" if self.gpu else ""
        return f"{self.cpu}, {self.cores} cores{gpu}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "instruction_sets": list(self.instruction_sets)}


@cache
def this_machine() -> Machine:
    """Look at the machine that this process runs on."""
    return Machine(
        cpu=processor.name(),
        architecture=platform.machine(),
        cores=usable_cpus(),
        memory_gib=_memory_gib(),
        instruction_sets=processor.instruction_sets(),
        gpu=_nvidia_gpu(),
        system=f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        python=platform.python_version(),
    )


def int8_kind(machine: Machine) -> str:
    """The kind of `backends.base.PROCESSORS` that a processor is.

    On x86 without VNNI 8-bit products overflow their 16-bit sums (Intel SDM, VPMADDUBSW).
    """
    if machine.architecture.lower() in ("x86_64", "amd64", "i686"):
        return "x86-vnni" if any("VNNI" in name or "AMX" in name for name in machine.instruction_sets) else "x86"
    return "arm"


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Installed version of each of these packages, all that matter here by default; missing ones are left out."""
    installed = {}
    for package in packages:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def new_lineage(data: str | None, parent: str | None = None) -> Lineage:
    """The lineage of an artifact that is made now, on this machine."""
    return Lineage(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        edgecls=edgecls.__version__,
        machine=this_machine().name,
        parent=parent,
        data=data,
    )


def peak_memory_mb() -> float | None:
    """The most memory that this process has held, in MB (10^6), or None where the system does not say."""
    if (held := field(read("/proc/self/status"), "VmHWM")).endswith(" kB"):
        return int(held.split()[0]) * 1024 / 1e6  # what getrusage tells begins with the parent process' peak
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def has_display() -> bool:
    """Whether a window could be shown."""
    if platform.system() != "Linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _nvidia_gpu() -> str | None:
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        return field(read(str(information)), "Model") or "NVIDIA GPU"
    return "NVIDIA Tegra" if Path("/etc/nv_tegra_release").exists() else None


def gpu_driver() -> str:
    """What an NVIDIA GPU's driver says of its version; empty where there is none."""
    return read("/proc/driver/nvidia/version") or read("/etc/nv_tegra_release")


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def available_memory_bytes() -> int:
    """Memory that programs may still take without swapping, within a container's limit; 0 where that is not told."""
    try:
        free = [int(field(read("/proc/meminfo"), "MemAvailable").split()[0]) << 10]
    except (ValueError, IndexError):
        free = []
    limits = [int(limit) for limit in [read("/sys/fs/cgroup/memory.max").strip()] if limit.isdecimal()]
    return min([*free, *limits], default=0)
