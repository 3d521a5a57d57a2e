"""Energy and the machine's state, from files as the kernel writes them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edgecls.benchmarking import conditions, energy
from edgecls.benchmarking.conditions import Conditions, Ticks


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    monkeypatch.setattr(energy, "INA3221", tmp_path / "ina3221")
    monkeypatch.setattr(energy, "_gpu", lambda: None)
    return tmp_path


def test_where_there_is_no_sensor_there_is_no_figure(nothing: Path):
    assert energy.sensor() is None


def test_packages_are_added_up_and_their_counters_wrap_around(nothing: Path):
    for number, start in ((0, 900_000), (1, 0)):
        domain = nothing / "powercap" / f"intel-rapl:{number}"
        domain.mkdir(parents=True)
        (domain / "max_energy_range_uj").write_text("999999\n")
        (domain / "energy_uj").write_text(f"{start}\n")
    (nothing / "powercap" / "intel-rapl:0:0").mkdir()  # the cores, which the package holds already
    sensor = energy.sensor()
    assert sensor is not None
    assert sensor.name == "processor packages (RAPL)"
    assert sensor.joules() == 0
    (nothing / "powercap" / "intel-rapl:0" / "energy_uj").write_text("100000\n")
    (nothing / "powercap" / "intel-rapl:1" / "energy_uj").write_text("300000\n")
    assert sensor.joules() == pytest.approx(0.5)
    (nothing / "powercap" / "intel-rapl:1" / "energy_uj").write_text("400000\n")
    assert sensor.joules() == pytest.approx(0.6)


def test_the_power_of_a_jetson_is_added_up_over_time(nothing: Path):
    channel = nothing / "ina3221" / "1-0040" / "hwmon" / "hwmon3"
    channel.mkdir(parents=True)
    for name, value in (("in1_label", "VDD_IN"), ("in1_input", "5000"), ("curr1_input", "2000")):
        (channel / name).write_text(f"{value}\n")
    sensor = energy.sensor()
    assert sensor is not None
    time.sleep(0.5)
    sensor.close()
    assert sensor.joules() == pytest.approx(5.0, rel=0.3)  # 10 W for half a second


def test_what_makes_a_measurement_doubtful_is_told():
    assert Conditions("performance", 0.1, True).remarks() == []
    governor, load = Conditions("powersave", 1.5, None).remarks()
    assert "powersave" in governor
    assert "load 1.5" in load
    assert Ticks(30, 200, 0).stolen_since(Ticks(10, 100, 0)) == pytest.approx(0.2)
    assert conditions.ticks().all > 0
