"""A command in a process of its own: what it cost, and that it is stopped after so many CPU seconds.

CPU seconds and not wall seconds are what is counted and limited, with all children, for other work on the
machine stretches only the latter. What else ran is noted beside it: the load, and the share of the machine's
time that a hypervisor kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

POLL_SECONDS = 0.5
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""What holds every library that otgraph uses to one thread, so that CPU seconds are those of one core."""


@dataclass(frozen=True)
class Usage:
    """What a process came to. ``code`` is None where it was stopped at the limit of CPU seconds; ``peak_mb``
    is the largest resident memory of it or of one of its children; ``load`` the machine's at start and
    end."""

    code: int | None
    cpu_seconds: float
    wall_seconds: float
    peak_mb: float
    when: str
    load: tuple[float, float]
    stolen: float

    @property
    def finished(self) -> bool:
        """It ended by itself."""
        return self.code is not None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return {**vars(self), "load": list(self.load)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Usage:
        """What ``to_json`` wrote."""
        return cls(**{**fields, "load": tuple(fields["load"])})


def run_limited(
    command: Sequence[str],
    *,
    out: Path,
    errors: Path,
    cpu_limit: float | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Usage:
    """Run ``command`` with its output in files; stop it once it and its children have used ``cpu_limit``
    CPU seconds. What it wrote until then stays."""
    started, first = time.perf_counter(), psutil.cpu_times()
    when, load = datetime.now(UTC).isoformat(timespec="seconds"), os.getloadavg()[0]
    with out.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen(
            list(command), stdout=stdout, stderr=stderr, cwd=folder, env={**os.environ, **(environment or {})}
        )
        try:
            code, cpu, peak = _wait(process, cpu_limit)
        except BaseException:  # interrupted: leave nothing running behind
            _stop(process.pid)
            process.wait()
            raise
    seconds = time.perf_counter() - started
    return Usage(
        code, cpu, seconds, peak, when, (load, os.getloadavg()[0]), _stolen(first, psutil.cpu_times())
    )


def _wait(process: subprocess.Popen[bytes], limit: float | None) -> tuple[int | None, float, float]:
    """The exit status (None where it was stopped), the CPU seconds and the peak in MB, as the kernel counts
    them once it is gone; what a child took counts once that child has been waited for."""
    stopped, seen = False, 0.0
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if limit is not None and not stopped:
            seen = max(seen, cpu_seconds(process.pid))
            if seen > limit:
                _stop(process.pid)
                stopped = True
        time.sleep(POLL_SECONDS)
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e6 / 1024)
    return None if stopped else process.returncode, max(seen, used.ru_utime + used.ru_stime), peak


def cpu_seconds(pid: int) -> float:
    """Of a running process and of its children, the ended ones included; 0 where it is gone."""
    total = 0.0
    with suppress(psutil.Error):
        family = psutil.Process(pid)
        for member in (family, *family.children(recursive=True)):
            with suppress(psutil.Error):
                spent = member.cpu_times()
                total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


def _stop(pid: int) -> None:
    with suppress(psutil.Error):
        family = psutil.Process(pid)
        for member in (*family.children(recursive=True), family):
            with suppress(psutil.Error):
                member.kill()


def _stolen(first: Any, last: Any) -> float:
    """The share of the machine's time between the two readings that went to other machines."""
    spent = sum(last) - sum(first)
    return (getattr(last, "steal", 0.0) - getattr(first, "steal", 0.0)) / spent if spent > 0 else 0.0
