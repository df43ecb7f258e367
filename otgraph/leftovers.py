"""Whose a temporary file is: its name tells the process, so that what a killed one left can be removed.

A name holds the machine, the start of the process and its number. Only files of the user, of this machine and
of processes that are no more are removed; on doubt a process lives.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path


def owner() -> str:
    """What this process puts into the names of its temporary files."""
    return f"{_machine()}-{_start_of(os.getpid()) or 0}-{os.getpid()}"


def remove_stale(folder: Path, prefix: str, suffix: str = "") -> None:
    """Remove from ``folder`` what processes that are no more left there: ``prefix``, ``owner()``, a dot,
    anything, ``suffix``."""
    for path, start, process in _owned(folder, prefix, suffix):
        if not _is_alive(process, start):
            _remove(path)


def remove_own(folder: Path, prefix: str, suffix: str = "") -> None:
    """Remove from ``folder`` what this process has there under such a name."""
    for path, start, process in _owned(folder, prefix, suffix):
        if f"{_machine()}-{start}-{process}" == owner():
            _remove(path)


def _owned(folder: Path, prefix: str, suffix: str) -> Iterator[tuple[Path, int, int]]:
    """What the user has in ``folder`` of processes of this machine: path, start and number of each."""
    form = re.compile(rf"{re.escape(prefix)}{_machine()}-([0-9]+)-([0-9]+)\..*{re.escape(suffix)}")
    with suppress(OSError):  # a folder may be written to and not listed
        for name in os.listdir(folder):
            match = form.fullmatch(name)
            if match is not None and _is_mine(folder / name):
                yield folder / name, int(match[1]), int(match[2])


def _is_mine(path: Path) -> bool:
    if not hasattr(os, "geteuid"):
        return True
    try:
        return path.lstat().st_uid == os.geteuid()
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):  # another process may have been faster
        path.unlink()


def _is_alive(process: int, start: int) -> bool:
    """Whether the process that began at ``start`` (0: unknown) still runs."""
    if os.name != "posix":
        return True  # elsewhere signal 0 is not a question
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    found = _start_of(process)
    return found is None or start in (0, found)


def _start_of(process: int) -> int | None:
    """When a process began, in the kernel's ticks: numbers are given again, times are not. -1 of one that
    has ended and is only not waited for; None where nothing tells."""
    try:
        # the name of the program, in parentheses, may hold anything
        fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return -1 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


@cache
def _machine() -> str:
    """Tells apart those who may share a folder and do not see each other's processes: hosts, containers."""
    known = [socket.gethostname()]
    with suppress(OSError):
        known.append(os.readlink("/proc/self/ns/pid"))
    with suppress(OSError):
        known.append(Path("/etc/machine-id").read_text(errors="replace"))
    return f"{zlib.crc32(' '.join(known).encode()):08x}"
