"""Under which conditions a measurement was made: governor, load, time that a hypervisor took, throttling."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CPU = Path("/sys/devices/system/cpu")
BUSY_LOAD = 0.5
"""From this load per processor on, before anything is measured, the machine is called busy."""
STOLEN = 0.05
"""From this share of stolen time on it is told."""


@dataclass(frozen=True)
class Conditions:
    """The machine's state. `load` is the mean number of running processes in the last minute, for each processor."""

    governor: str | None
    load: float | None
    turbo: bool | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def remarks(self) -> list[str]:
        """What makes a measurement under these conditions doubtful."""
        lines = []
        if self.governor not in (None, "performance", "schedutil"):
            lines.append(f"the processor's governor is {self.governor}; performance is steadier")
        if self.load is not None and self.load >= BUSY_LOAD:
            lines.append(f"the machine was busy before anything was measured (load {self.load:.1f} per processor)")
        return lines


@dataclass(frozen=True)
class Ticks:
    """Counters of the kernel: stolen and all time of the processors, and how often they were throttled."""

    stolen: int
    all: int
    throttled: int

    def stolen_since(self, before: Ticks) -> float:
        """The share of time that a hypervisor gave to others, 0..1."""
        return (self.stolen - before.stolen) / max(1, self.all - before.all)


def now() -> Conditions:
    """Look at the machine."""
    from edgecls.concurrency import usable_cpus

    try:
        load: float | None = os.getloadavg()[0] / usable_cpus()
    except OSError:
        load = None
    no_turbo = _read(CPU / "intel_pstate" / "no_turbo")
    boost = _read(CPU / "cpufreq" / "boost")
    turbo = no_turbo == "0" if no_turbo else boost == "1" if boost else None
    return Conditions(_read(CPU / "cpu0" / "cpufreq" / "scaling_governor") or None, load, turbo)


def ticks() -> Ticks:
    """The kernel's counters (proc(5), /proc/stat; x86's core_throttle_count)."""
    line = _read(Path("/proc/stat")).partition("\n")[0].split()[1:9]
    values = [int(value) for value in line]
    throttled = sum(int(_read(path) or 0) for path in CPU.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    return Ticks(values[7] if len(values) > 7 else 0, sum(values), throttled)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
