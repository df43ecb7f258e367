"""What the machine was doing while we measured, and what machine it is."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from otgraph.engines.processor import processor

PROC = Path("/proc")
FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
THERMAL = Path("/sys/class/thermal/thermal_zone0/temp")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


PACKAGES = ("otgraph", "numpy", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Snapshot:
    """Counters of ``/proc/stat`` at one moment, in ticks, zero where there is no such file; and ``sensors``,
    clocks in MHz and temperatures in °C by name."""

    total: int
    steal: int
    sensors: Mapping[str, float] = field(default_factory=dict[str, float])

    @classmethod
    def take(cls, device: Mapping[str, float] | None = None) -> Snapshot:
        """Now. ``device``: what the engines' device says of itself."""
        return replace(cls.parse(_read(PROC / "stat")), sensors={**host_sensors(), **(device or {})})

    @classmethod
    def parse(cls, text: str | None) -> Snapshot:
        """From the first line of ``/proc/stat``: user nice system idle iowait irq softirq steal …"""
        fields = (text or "").split("\n", 1)[0].split()[1:9]
        ticks = [int(field) for field in fields]
        return cls(sum(ticks), ticks[7] if len(ticks) > 7 else 0)


@dataclass(frozen=True)
class Conditions:
    """The load under which a measurement was made.

    ``load`` is the 1-minute load average, ``steal`` the share of CPU time the hypervisor took away,
    ``cpu_over_wall`` CPU time per elapsed time of the measured calls (1 on an idle machine at one
    thread). ``sensors``: clocks in MHz and temperatures in °C, each after the first warm-up and at the end.
    ``None`` (and no such sensor) where the system does not say.
    """

    load: float | None
    steal: float | None
    cpu_over_wall: float
    cpu_count: int
    governor: str | None
    sensors: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return {**vars(self), "sensors": {name: list(pair) for name, pair in self.sensors.items()}}


def conditions(before: Snapshot, after: Snapshot, cpu_over_wall: float) -> Conditions:
    """The conditions between two snapshots."""
    ticks = after.total - before.total
    return Conditions(
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        steal=(after.steal - before.steal) / ticks if ticks > 0 else None,
        cpu_over_wall=cpu_over_wall,
        cpu_count=os.cpu_count() or 1,
        governor=_read(GOVERNOR),
        sensors={
            name: (value, after.sensors[name])
            for name, value in before.sensors.items()
            if name in after.sensors
        },
    )


def host_sensors() -> dict[str, float]:
    """The first processor's clock and the first thermal zone's temperature, where the system tells them."""
    found: dict[str, float] = {}
    for name, path, unit in (("cpu_clock_mhz", FREQUENCY, 1e3), ("cpu_temperature_c", THERMAL, 1e3)):
        text = _read(path)
        if text is not None and text.lstrip("-").isdigit():
            found[name] = int(text) / unit
    return found


@dataclass(frozen=True)
class Environment:
    """The machine and the versions that a figure belongs to."""

    os: str
    python: str
    cpu: str
    cpu_count: int
    engine: dict[str, str]
    packages: dict[str, str]
    engine_b: dict[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return dict(vars(self))


def environment(engine: dict[str, str], engine_b: dict[str, str] | None = None) -> Environment:
    """This machine; ``engine`` is what the engine says of itself, ``engine_b`` what that of the second model
    says, where it is another."""
    return Environment(
        os=platform.platform(),
        python=platform.python_version(),
        cpu=processor(),
        cpu_count=os.cpu_count() or 1,
        engine=engine,
        engine_b=engine_b if engine_b != engine else None,
        packages={name: _version(name) for name in PACKAGES},
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
