"""What cutting one dim does to the network's output: local curves scaled by measured output divergence.

Each dim is cut to a few widths in trials that include a repair: what a cut costs *after* its repair is often
a tenth of what it costs before, and ranks dims otherwise. The reconstruction cost of the calibration moments
says how the damage goes on between and beyond the widths that were tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from otgraph.allocate.choice import Choice
from otgraph.calibrate.width import Width
from otgraph.optimize.trial import Trial
from otgraph.transport.cost import FloatArray
from otgraph.transport.elimination import reconstruction_along

PROBES = (0.75, 0.5, 0.25)
"""Fractions of a dim to which it is cut in trials, the most useful first."""


@dataclass(frozen=True)
class Sensitivity:
    """The predicted damage of keeping k channels of a dim, for every k: ``damage[k]``, never increasing in k.

    In additive units, shape (n + 1,). ``measured``: (k, damage) as tried.
    """

    dim: str
    damage: FloatArray
    measured: tuple[tuple[int, float], ...]


def measure_sensitivities(
    trial: Trial,
    names: Sequence[str],
    seconds: float = 120.0,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Sensitivity]:
    """The sensitivity of the dims ``names``, one at a time: those that no gradient tells of.

    All dims are tried at the first of ``PROBES``; further ones only while that takes less than ``seconds`` of
    CPU time in all.
    """
    widths = {name: trial.widths[name] for name in names}
    measured: dict[str, dict[int, float]] = {name: {} for name in widths}
    started = time.process_time()
    for number, share in enumerate(PROBES, 1):
        for name, width in widths.items():
            if number > 1 and time.process_time() - started > seconds:
                break
            progress(f"trying {name} at {share:.0%} (round {number} of {len(PROBES)})")
            k = min(max(1, round(width.size * share)), width.size - 1)
            measured[name][k] = trial.damage(Choice({name: k}))
    return {name: _sensitivity(width, measured[name]) for name, width in widths.items()}


def _sensitivity(width: Width, measured: Mapping[int, float]) -> Sensitivity:
    local = reconstruction_along(width.readings, width.curve.order).distortion
    points = sorted(measured.items())
    return Sensitivity(width.dim, scaled_curve(local, points), tuple(points))


def scaled_curve(local: FloatArray, measured: Sequence[tuple[int, float]]) -> FloatArray:
    """Local costs times the ratio measured / local, interpolated geometrically between the measured widths.

    ``local``: cost of keeping k, shape (n + 1,). ``measured``: (k, damage), ascending in k. The result never
    increases in k and is 0 at n.
    """
    n = len(local) - 1
    floor = 1e-9 * max(float(local[0]), 1e-30)
    at = np.array([k for k, _ in measured], dtype=np.float64)
    ratio = np.log([max(d, 1e-12) / max(float(local[k]), floor) for k, d in measured])
    scale = np.exp(np.interp(np.arange(n + 1), at, ratio))
    damage = np.maximum(local, floor) * scale
    damage[n] = 0.0
    return np.maximum.accumulate(damage[::-1])[::-1].copy()
