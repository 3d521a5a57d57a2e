"""Which processor this is, as the system tells."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

INSTRUCTION_SETS = {
    "avx2": "AVX2", "avx512f": "AVX-512", "avx_vnni": "AVX-VNNI", "avx512_vnni": "AVX-512 VNNI", "amx_int8": "AMX int8",
    "asimd": "NEON", "asimddp": "dot product", "i8mm": "int8 matrix", "sve": "SVE",
}  # fmt: skip
"""The flags of /proc/cpuinfo that decide how fast int8 is, and what people call them."""


@cache
def name() -> str:
    """What the processor or the board calls itself."""
    board = read("/proc/device-tree/model").strip("\0\n")
    model = field(_cpuinfo(), "model name") or board or platform.processor()
    return " ".join(model.split()) or platform.machine()


@cache
def flags() -> frozenset[str]:
    """The features that the kernel lists; empty where there is no such list."""
    return frozenset(field(_cpuinfo(), "flags").split()) | frozenset(field(_cpuinfo(), "Features").split())


def instruction_sets() -> tuple[str, ...]:
    """Those of `INSTRUCTION_SETS` that the processor has, as people call them."""
    return tuple(title for flag, title in INSTRUCTION_SETS.items() if flag in flags())


def fingerprint() -> str | None:
    """What decides which code a runtime picks: architecture, processor and features, in one text.

    None where the system does not tell the features, and two processors could not be told apart.
    """
    return " ".join([platform.machine(), name(), *sorted(flags())]) if flags() else None


def read(path: str) -> str:
    """The text of a file in which the kernel tells about the machine; empty where there is none."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def field(text: str, wanted: str) -> str:
    """The first value of that name in lines `name: value`, or an empty text."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == wanted:
            return value.strip()
    return ""


@cache
def _cpuinfo() -> str:
    return read("/proc/cpuinfo")
