"""Energy from whatever sensors the machine lets us read; absent where there are none.

RAPL counts the joules of Intel's and AMD's processor packages (Linux powercap), NVML those of NVIDIA's GPUs; a Jetson's
INA3221 gives volts and amperes of the whole board (hwmon, in mV and mA), which are sampled.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from pathlib import Path

from edgecls.clock import milliseconds_since, now_ns

POWERCAP = Path("/sys/class/powercap")
INA3221 = Path("/sys/bus/i2c/drivers/ina3221")
SAMPLE_S = 0.02


class Sensor(ABC):
    """Something that knows how much energy was used. `name` says what it covers."""

    name: str

    @abstractmethod
    def joules(self) -> float:
        """Energy since some moment, in J."""

    def close(self) -> None:
        """Stop looking."""


class Rapl(Sensor):
    """The counters of all processor packages; they wrap around."""

    name = "processor packages (RAPL)"

    def __init__(self, domains: list[Path]):
        self._domains = domains
        self._last = [self._read(domain) for domain in domains]
        self._range = [self._read(domain, "max_energy_range_uj") for domain in domains]
        self._total_uj = 0

    @staticmethod
    def _read(domain: Path, name: str = "energy_uj") -> int:
        return int((domain / name).read_text())

    def joules(self) -> float:
        """See `Sensor.joules`."""
        for index, domain in enumerate(self._domains):
            now = self._read(domain)
            self._total_uj += (now - self._last[index]) % (self._range[index] + 1)
            self._last[index] = now
        return self._total_uj / 1e6


class Board(Sensor):
    """A Jetson's power input, sampled in a thread."""

    name = "board input (INA3221)"

    def __init__(self, channel: Path, number: str):
        self._volts, self._amperes = channel / f"in{number}_input", channel / f"curr{number}_input"
        self._joules, self._seen_ns = 0.0, now_ns()
        self._watts = self._read()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgecls-energy", daemon=True)
        self._thread.start()

    def _read(self) -> float:
        return int(self._volts.read_text()) * int(self._amperes.read_text()) / 1e6

    def _run(self) -> None:
        while not self._closing.wait(SAMPLE_S):
            watts = self._read()
            self._joules += (watts + self._watts) / 2 * milliseconds_since(self._seen_ns) / 1000
            self._watts, self._seen_ns = watts, now_ns()

    def joules(self) -> float:
        """See `Sensor.joules`."""
        return self._joules

    def close(self) -> None:
        """See `Sensor.close`."""
        self._closing.set()
        self._thread.join()


class Gpu(Sensor):
    """The first NVIDIA GPU's own counter."""

    name = "GPU (NVML)"

    def __init__(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        self._library = pynvml
        self.joules()

    def joules(self) -> float:
        """See `Sensor.joules`."""
        return float(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000


def sensor() -> Sensor | None:
    """The best sensor that can be read: a board's, a GPU's, the processor's; None where there is none."""
    for find in (_board, _gpu, _rapl):
        if sensor := find():
            return sensor
    return None


def _rapl() -> Sensor | None:
    try:
        domains = [path for path in sorted(POWERCAP.glob("*-rapl:*")) if path.name.count(":") == 1]
        return Rapl(domains) if domains else None
    except (OSError, ValueError):  # since 2020 only root may read them
        return None


def _board() -> Sensor | None:
    for label in sorted(INA3221.glob("*/hwmon/hwmon*/in*_label")):
        try:
            if label.read_text().strip() in ("VDD_IN", "POM_5V_IN"):
                return Board(label.parent, label.name.removeprefix("in").removesuffix("_label"))
        except (OSError, ValueError):
            continue
    return None


def _gpu() -> Sensor | None:
    try:
        return Gpu()
    except Exception:
        # pynvml is not installed, there is no driver, or the GPU does not count: its errors share no base class.
        return None
