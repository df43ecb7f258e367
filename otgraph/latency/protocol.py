"""Is B faster than A here? The paired protocol, as measured to be the least noisy one on a busy machine.

Fresh sessions of A and B for every repeat, created in alternating order; 4 warm-ups each; then 40 pairs of
readings (24 when one takes over 30 ms, up to 160 when they are short), in random order inside the pair; the
median of the pair ratios B/A, with a bootstrap interval. Pairing cancels what changes slowly (frequency,
neighbors), the random order what the first of two pays; the fresh sessions show how far memory placement
alone moves the figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from otgraph.data import Array
from otgraph.engines.engine import Engine, Model, Session, TimedBy
from otgraph.errors import UsageError
from otgraph.latency.clock import Clock, Sample, calls_for, common_clock, no_collection
from otgraph.latency.environment import Conditions, Snapshot, conditions
from otgraph.latency.statistics import Floats, estimate

WARM_UPS = 4
PAIRS = 40
PAIRS_SHORT = 160
PAIRS_SLOW = 24
SPENT_MS = 320.0
SLOW_MS = 30.0
WALL_TRUSTED = 0.97

ClockName = Literal["wall", "CPU time", "GPU time"]


@dataclass(frozen=True)
class Contestant:
    """A model, the engine that runs it, and what it is fed."""

    engine: Engine
    model: Model
    feeds: Mapping[str, Array]


@dataclass(frozen=True)
class Comparison:
    """The latency of B relative to A: ``ratio`` = B / A with its 95 % interval ``low`` to ``high``.

    ``a_ms`` and ``b_ms`` are medians per call. ``clock`` is "wall" (latency; of a GPU with the copies of
    inputs and outputs), "CPU time" (the machine was too busy for wall time to mean anything; only said at one
    thread) or "GPU time" (CUDA events around the kernels, copies not counted; only where both have such a
    clock). ``per_repeat`` holds each fresh pair of sessions' own ratio, ``calls`` the calls averaged in one
    reading.
    """

    ratio: float
    low: float
    high: float
    a_ms: float
    b_ms: float
    clock: ClockName
    per_repeat: tuple[float, ...]
    pairs: int
    calls: int
    threads: int
    seed: int
    conditions: Conditions

    @property
    def speedup(self) -> float:
        """How many times faster B is: 1 / ratio."""
        return 1 / self.ratio

    @property
    def credible_gain(self) -> bool:
        """B is faster, and the whole interval says so."""
        return self.high < 1

    @property
    def credible_loss(self) -> bool:
        """B is slower, and the whole interval says so."""
        return self.low > 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return {**vars(self), "per_repeat": list(self.per_repeat), "conditions": self.conditions.to_json()}


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call of one model with a 95 % interval; fields as in ``Comparison``."""

    ms: float
    low: float
    high: float
    clock: ClockName
    per_repeat: tuple[float, ...]
    runs: int
    calls: int
    threads: int
    conditions: Conditions

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field name."""
        return {**vars(self), "per_repeat": list(self.per_repeat), "conditions": self.conditions.to_json()}


def compare(
    engine: Engine,
    a: Model,
    b: Model,
    feeds: Mapping[str, Array],
    *,
    threads: int = 1,
    seed: int = 0,
    pairs: int | None = None,
    repeats: int = 3,
    clock: Clock | None = None,
) -> Comparison:
    """Measure B against A on the same ``feeds``. Raises ``ModelError`` when either cannot be run."""
    pair = [Contestant(engine, model, feeds) for model in (a, b)]
    return contest(pair, threads=threads, seed=seed, pairs=pairs, repeats=repeats, clock=clock).comparisons[0]


def measure(
    engine: Engine,
    model: Model,
    feeds: Mapping[str, Array],
    *,
    threads: int = 1,
    seed: int = 0,
    runs: int | None = None,
    repeats: int = 3,
    clock: Clock | None = None,
) -> Latency:
    """The latency of one model, by the same rules. To tell two models apart use ``compare`` instead."""
    alone = [Contestant(engine, model, feeds)]
    return contest(alone, threads=threads, seed=seed, pairs=runs, repeats=repeats, clock=clock).latencies[0]


@dataclass(frozen=True)
class Contest:
    """Several artifacts measured together: the latency of each, and of all but the first its comparison with
    the first."""

    latencies: tuple[Latency, ...]
    comparisons: tuple[Comparison, ...]


def contest(
    contestants: Sequence[Contestant],
    *,
    threads: int = 1,
    seed: int = 0,
    pairs: int | None = None,
    repeats: int = 3,
    clock: Clock | None = None,
) -> Contest:
    """Measure artifacts, of one engine or of several, in rounds of one reading each in random order.

    Raises ``ModelError`` when one of them cannot be run.
    """
    readings, calls, state = _measure(contestants, threads, seed, pairs, repeats, clock or Clock())
    name = clock_name(readings, threads)
    times = _times(readings, name)
    common = _Common(name, times.shape[1], calls, threads, seed, state)
    count = len(contestants)
    return Contest(
        tuple(_latency(times[:, :, index], common) for index in range(count)),
        tuple(_comparison(times[:, :, 0], times[:, :, index], common) for index in range(1, count)),
    )


@dataclass(frozen=True)
class _Common:
    """What all results of one measurement share."""

    clock: ClockName
    rounds: int
    calls: int
    threads: int
    seed: int
    conditions: Conditions


def _latency(times: Floats, common: _Common) -> Latency:
    found = estimate(times, common.seed)
    return Latency(
        ms=found.value,
        low=found.low,
        high=found.high,
        clock=common.clock,
        per_repeat=found.per_session,
        runs=common.rounds,
        calls=common.calls,
        threads=common.threads,
        conditions=common.conditions,
    )


def _comparison(a: Floats, b: Floats, common: _Common) -> Comparison:
    found = estimate(b / a, common.seed)
    return Comparison(
        ratio=found.value,
        low=found.low,
        high=found.high,
        a_ms=float(np.median(a)),
        b_ms=float(np.median(b)),
        clock=common.clock,
        per_repeat=found.per_session,
        pairs=common.rounds,
        calls=common.calls,
        threads=common.threads,
        seed=common.seed,
        conditions=common.conditions,
    )


Readings = list[list[tuple[Sample, ...]]]
"""Repeats, then rounds, then one reading per model."""

_Ready = tuple[Session, Mapping[str, Array]]


def _measure(
    contestants: Sequence[Contestant],
    threads: int,
    seed: int,
    rounds: int | None,
    repeats: int,
    clock: Clock,
) -> tuple[Readings, int, Conditions]:
    if repeats < 1 or (rounds is not None and rounds < 1):
        raise UsageError(f"repeats={repeats}, rounds={rounds}: give at least 1 of each")
    draw = np.random.default_rng(seed)
    before: Snapshot | None = None
    readings: Readings = []
    calls = 1
    for repeat in range(repeats):
        ready = _fresh(contestants, threads, repeat)
        timed_by = common_clock(session for session, _ in ready)
        warm = _warm_up(ready, clock, timed_by)
        if repeat == 0:  # decided once, so that every repeat is measured alike
            times = [reading.length(threads) for reading in warm]
            calls = calls_for(min(times))
            rounds = rounds or pairs_for(max(times) * calls)
        # after a warm-up: the clocks of a device that slept until now are not those it works at
        before = before or Snapshot.take(_state(contestants))
        with no_collection():
            readings.append([_round(ready, calls, clock, timed_by, draw) for _ in range(rounds or PAIRS)])
    after = Snapshot.take(_state(contestants))
    return readings, calls, conditions(before or after, after, cpu_over_wall(readings))


def _state(contestants: Sequence[Contestant]) -> dict[str, float]:
    """What the devices say of themselves; those of one kind of engine are one device."""
    engines = {contestant.engine.name: contestant.engine for contestant in contestants}
    return {name: value for engine in engines.values() for name, value in engine.state().items()}


def pairs_for(ms: float) -> int:
    """How many pairs when one reading takes ``ms``: as many as ``SPENT_MS`` allows, within what is useful."""
    if ms > SLOW_MS:
        return PAIRS_SLOW
    return max(PAIRS, min(PAIRS_SHORT, round(SPENT_MS / ms)))


def _fresh(contestants: Sequence[Contestant], threads: int, repeat: int) -> list[_Ready]:
    """New sessions, listed as given; created first to last in even repeats, last to first in odd."""
    order = range(len(contestants)) if repeat % 2 == 0 else range(len(contestants) - 1, -1, -1)
    made = {
        index: contestants[index].engine.load(contestants[index].model, threads=threads) for index in order
    }
    return [(made[index], contestant.feeds) for index, contestant in enumerate(contestants)]


def _warm_up(ready: Sequence[_Ready], clock: Clock, timed_by: TimedBy) -> list[Sample]:
    """Run each session ``WARM_UPS`` times; the last reading of each tells how long a call takes."""
    return [
        [clock.read(session, feeds, 1, timed_by) for _ in range(WARM_UPS)][-1] for session, feeds in ready
    ]


def _round(
    ready: Sequence[_Ready], calls: int, clock: Clock, timed_by: TimedBy, draw: np.random.Generator
) -> tuple[Sample, ...]:
    """One reading of each session, taken in random order."""
    taken: dict[int, Sample] = {}
    for index in map(int, draw.permutation(len(ready))):
        session, feeds = ready[index]
        taken[index] = clock.read(session, feeds, calls, timed_by)
    return tuple(taken[index] for index in range(len(ready)))


def cpu_over_wall(readings: Readings) -> float:
    """CPU time per elapsed time over all readings."""
    flat = [reading for repeat in readings for group in repeat for reading in group]
    return sum(reading.cpu for reading in flat) / max(sum(reading.wall for reading in flat), 1e-12)


def clock_name(readings: Readings, threads: int) -> ClockName:
    """The device's clock where all have one; else wall time when it can be trusted or CPU time means nothing
    (several threads, work done elsewhere); else CPU time."""
    flat = [reading for repeat in readings for group in repeat for reading in group]
    if all(reading.timed_by == "device" for reading in flat):
        return "GPU time"
    elsewhere = any(reading.timed_by != "host" for reading in flat)
    coarse = any(reading.cpu <= 0 for reading in flat)
    quiet = cpu_over_wall(readings) > WALL_TRUSTED
    return "wall" if threads > 1 or elsewhere or coarse or quiet else "CPU time"


def _times(readings: Readings, name: ClockName) -> Floats:
    """Milliseconds as repeats × rounds × models."""
    field = {"wall": "wall", "CPU time": "cpu", "GPU time": "device"}[name]
    return np.array(
        [[[getattr(reading, field) for reading in group] for group in repeat] for repeat in readings]
    )
