"""Is B faster than A here? The paired protocol, as measured to be the least noisy one on a busy machine.

Fresh sessions of A and B for every repeat, created in alternating order; 4 warm-ups each; then 40 pairs of
readings (24 when one takes over 30 ms, up to 160 when they are short), in random order inside the pair; the
median of the pair ratios B/A, with a bootstrap interval. Pairing cancels what changes slowly (frequency,
neighbours), the random order what the first of two pays; the fresh sessions show how far memory placement
alone moves the figure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from otgraph.data import Array
from otgraph.engines.engine import Engine, Model, Session
from otgraph.errors import UsageError
from otgraph.latency.clock import Clock, Reading, calls_for, no_collection
from otgraph.latency.environment import Conditions, Snapshot, conditions
from otgraph.latency.statistics import estimate

WARM_UPS = 4
PAIRS = 40
PAIRS_SHORT = 160
PAIRS_SLOW = 24
SPENT_MS = 320.0
SLOW_MS = 30.0
WALL_TRUSTED = 0.97

ClockName = Literal["wall", "CPU time"]


@dataclass(frozen=True)
class Comparison:
    """The latency of B relative to A: ``ratio`` = B / A with its 95 % interval ``low`` to ``high``.

    ``a_ms`` and ``b_ms`` are medians per call. ``clock`` is "wall" (latency) or "CPU time" (the machine was
    too busy for wall time to mean anything; only said at one thread). ``per_repeat`` holds each fresh
    pair of sessions' own ratio, ``calls`` the calls averaged in one reading.
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
    readings, calls, state = _measure(engine, (a, b), feeds, threads, seed, pairs, repeats, clock or Clock())
    name = clock_name(readings, threads)
    times = _times(readings, name)
    found = estimate(times[:, :, 1] / times[:, :, 0], seed)
    a_ms, b_ms = (float(value) for value in np.median(times, axis=(0, 1)))
    count = times.shape[1]
    return Comparison(
        ratio=found.value,
        low=found.low,
        high=found.high,
        a_ms=a_ms,
        b_ms=b_ms,
        clock=name,
        per_repeat=found.per_session,
        pairs=count,
        calls=calls,
        threads=threads,
        seed=seed,
        conditions=state,
    )


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
    readings, calls, state = _measure(engine, (model,), feeds, threads, seed, runs, repeats, clock or Clock())
    name = clock_name(readings, threads)
    times = _times(readings, name)
    found = estimate(times[:, :, 0], seed)
    return Latency(
        ms=found.value,
        low=found.low,
        high=found.high,
        clock=name,
        per_repeat=found.per_session,
        runs=times.shape[1],
        calls=calls,
        threads=threads,
        conditions=state,
    )


Readings = list[list[tuple[Reading, ...]]]
"""Repeats, then rounds, then one reading per model."""


def _measure(
    engine: Engine,
    models: tuple[Model, ...],
    feeds: Mapping[str, Array],
    threads: int,
    seed: int,
    rounds: int | None,
    repeats: int,
    clock: Clock,
) -> tuple[Readings, int, Conditions]:
    if repeats < 1 or (rounds is not None and rounds < 1):
        raise UsageError(f"repeats={repeats}, rounds={rounds}: give at least 1 of each")
    draw = np.random.default_rng(seed)
    before = Snapshot.take()
    readings: Readings = []
    calls = 1
    for repeat in range(repeats):
        sessions = _fresh(engine, models, threads, repeat)
        warm = _warm_up(sessions, feeds, clock)
        if repeat == 0:  # decided once, so that every repeat is measured alike
            times = [reading.wall if threads > 1 else reading.cpu or reading.wall for reading in warm]
            calls = calls_for(min(times))
            rounds = rounds or pairs_for(max(times) * calls)
        with no_collection():
            readings.append([_round(sessions, feeds, calls, clock, draw) for _ in range(rounds or PAIRS)])
    return readings, calls, conditions(before, Snapshot.take(), cpu_over_wall(readings))


def pairs_for(ms: float) -> int:
    """How many pairs when one reading takes ``ms``: as many as ``SPENT_MS`` allows, within what is useful."""
    if ms > SLOW_MS:
        return PAIRS_SLOW
    return max(PAIRS, min(PAIRS_SHORT, round(SPENT_MS / ms)))


def _fresh(engine: Engine, models: tuple[Model, ...], threads: int, repeat: int) -> list[Session]:
    """New sessions, listed as ``models``; created first to last in even repeats, last to first in odd."""
    order = range(len(models)) if repeat % 2 == 0 else range(len(models) - 1, -1, -1)
    made = {index: engine.load(models[index], threads=threads) for index in order}
    return [made[index] for index in range(len(models))]


def _warm_up(sessions: list[Session], feeds: Mapping[str, Array], clock: Clock) -> list[Reading]:
    """Run each session ``WARM_UPS`` times; the last reading of each tells how long a call takes."""
    return [[clock.read(session, feeds, 1) for _ in range(WARM_UPS)][-1] for session in sessions]


def _round(
    sessions: list[Session], feeds: Mapping[str, Array], calls: int, clock: Clock, draw: np.random.Generator
) -> tuple[Reading, ...]:
    """One reading of each session, taken in random order."""
    taken = {
        int(index): clock.read(sessions[index], feeds, calls) for index in draw.permutation(len(sessions))
    }
    return tuple(taken[index] for index in range(len(sessions)))


def cpu_over_wall(readings: Readings) -> float:
    """CPU time per elapsed time over all readings."""
    flat = [reading for repeat in readings for group in repeat for reading in group]
    return sum(reading.cpu for reading in flat) / max(sum(reading.wall for reading in flat), 1e-12)


def clock_name(readings: Readings, threads: int) -> ClockName:
    """Wall time when it can be trusted or CPU time means nothing (several threads), else CPU time."""
    flat = [reading for repeat in readings for group in repeat for reading in group]
    coarse = any(reading.cpu <= 0 for reading in flat)
    return "wall" if threads > 1 or coarse or cpu_over_wall(readings) > WALL_TRUSTED else "CPU time"


def _times(readings: Readings, name: ClockName) -> np.ndarray[tuple[int, int, int], np.dtype[np.float64]]:
    """Milliseconds as repeats × rounds × models."""
    pick = (lambda reading: reading.wall) if name == "wall" else (lambda reading: reading.cpu)
    return np.array([[[pick(reading) for reading in group] for group in repeat] for repeat in readings])
