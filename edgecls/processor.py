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
    model = _field("model name") or _board() or platform.processor()
    return " ".join(model.split()) or platform.machine()


@cache
def flags() -> frozenset[str]:
    """The features that the kernel lists; empty where there is no such list."""
    return frozenset(_field("flags").split()) | frozenset(_field("Features").split())


def instruction_sets() -> tuple[str, ...]:
    """Those of `INSTRUCTION_SETS` that the processor has, as people call them."""
    return tuple(title for flag, title in INSTRUCTION_SETS.items() if flag in flags())


def fingerprint() -> str:
    """What decides which code a runtime picks: architecture, processor and features, in one text."""
    return " ".join([platform.machine(), name(), *sorted(flags())])


def _board() -> str:
    try:
        return Path("/proc/device-tree/model").read_text(errors="replace").strip("\0\n")
    except OSError:
        return ""


@cache
def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ""


def _field(wanted: str) -> str:
    """The first value of that name in /proc/cpuinfo, or an empty text."""
    for line in _cpuinfo().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == wanted:
            return value.strip()
    return ""
