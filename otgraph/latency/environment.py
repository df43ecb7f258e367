"""What the machine was doing while we measured, and what machine it is."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PROC = Path("/proc")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True)
class Snapshot:
    """Counters of ``/proc/stat`` at one moment, in ticks; zero where there is no such file."""

    total: int
    steal: int

    @classmethod
    def take(cls) -> Snapshot:
        """Now."""
        return cls.parse(_read(PROC / "stat"))

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
    thread). ``None`` where the system does not say.
    """

    load: float | None
    steal: float | None
    cpu_over_wall: float
    cpu_count: int
    governor: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return dict(vars(self))


def conditions(before: Snapshot, after: Snapshot, cpu_over_wall: float) -> Conditions:
    """The conditions between two snapshots."""
    ticks = after.total - before.total
    return Conditions(
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        steal=(after.steal - before.steal) / ticks if ticks > 0 else None,
        cpu_over_wall=cpu_over_wall,
        cpu_count=os.cpu_count() or 1,
        governor=_read(GOVERNOR),
    )


@dataclass(frozen=True)
class Environment:
    """The machine and the versions that a figure belongs to."""

    os: str
    python: str
    cpu: str
    cpu_count: int
    engine: dict[str, str]
    packages: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return dict(vars(self))


def environment(engine: dict[str, str]) -> Environment:
    """This machine; ``engine`` is what the engine says of itself."""
    return Environment(
        os=platform.platform(),
        python=platform.python_version(),
        cpu=cpu_model(_read(PROC / "cpuinfo")),
        cpu_count=os.cpu_count() or 1,
        engine=engine,
        packages={name: _version(name) for name in ("otgraph", "numpy", "onnx", "onnxruntime")},
    )


def cpu_model(cpuinfo: str | None) -> str:
    """The processor's name from ``/proc/cpuinfo``, else what Python knows of it."""
    for line in (cpuinfo or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


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
