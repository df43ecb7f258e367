"""Timing a call: process CPU time and wall time together, several calls per reading when they are short."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

from otgraph.data import Array
from otgraph.engines.engine import Session, TimedBy

TARGET_MS = 0.4
"""A reading lasts at least this long. Not longer: short readings mostly fall between two preemptions, so the
median over many of them is far steadier than over few long ones (a 0.5 ms network, A against itself, ten
times: 0.25 % sd with 160 single calls, 1.2 % with 40 readings of 4 calls, in the same time).
"""

MAX_CALLS = 1000


@dataclass(frozen=True)
class Sample:
    """Milliseconds per call: as this process's CPU time, as elapsed time, and by the device's own clock where
    the session has one. ``timed_by`` says which of them means something."""

    cpu: float
    wall: float
    device: float = 0.0
    timed_by: TimedBy = "host"

    def length(self, threads: int) -> float:
        """How long a call takes, as far as one reading tells."""
        if self.timed_by == "device":
            return self.device
        return self.wall if threads > 1 or self.timed_by == "wall" else self.cpu or self.wall


@dataclass(frozen=True)
class Clock:
    """Where the nanoseconds come from; tests put a scripted one here."""

    cpu_ns: Callable[[], int] = time.process_time_ns
    wall_ns: Callable[[], int] = time.perf_counter_ns

    def read(
        self, session: Session, feeds: Mapping[str, Array], calls: int, timed_by: TimedBy | None = None
    ) -> Sample:
        """The mean of ``calls`` consecutive runs, ``timed_by`` the session's own clock where None.

        By the device's, the host's clocks show next to nothing: copies are left out, and preparations are in.
        By the others a device's session is run as a user does it, copies of inputs and outputs included.
        """
        timed_by = timed_by or session.timed_by
        device = 0.0
        wall, cpu = self.wall_ns(), self.cpu_ns()
        if timed_by == "device":
            device = session.device_ms(feeds, calls)
        else:
            for _ in range(calls):
                session.run(feeds)
        cpu, wall = self.cpu_ns() - cpu, self.wall_ns() - wall
        return Sample(cpu / calls / 1e6, wall / calls / 1e6, device, timed_by)


def common_clock(sessions: Iterable[Session]) -> TimedBy:
    """What all of ``sessions`` can be timed by, so that the same is timed of each: a device's clock only
    where every session has one, and the wall clock where the work of one is done elsewhere."""
    kinds: set[TimedBy] = {session.timed_by for session in sessions}
    return kinds.pop() if len(kinds) == 1 else "wall"


def calls_for(ms: float) -> int:
    """How many calls make one reading of at least ``TARGET_MS``, so that the clocks' own cost disappears."""
    if ms <= 0:
        return MAX_CALLS
    return max(1, min(MAX_CALLS, ceil(TARGET_MS / ms)))


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector from landing inside a reading (in a large process it takes over 100 ms)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
