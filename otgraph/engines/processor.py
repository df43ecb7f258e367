"""Which processor this is, since a measurement of one says nothing of another."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    """This machine's processor."""
    try:
        return cpu_model(CPUINFO.read_text())
    except OSError:
        return cpu_model(None)


def cpu_model(cpuinfo: str | None) -> str:
    """The processor's name from ``/proc/cpuinfo``, else what Python knows of it."""
    for line in (cpuinfo or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
