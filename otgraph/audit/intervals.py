"""How far a figure of fidelity may be from that of all inputs: a bootstrap over inputs, in stretches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, sqrt

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]
"""The ends of a 95 % interval."""
Figure = Callable[[Floats], Floats]
"""A figure of sums over inputs, (…, sums) → (…)."""

RESAMPLES = 2000
CONFIDENCE = 0.95
NORMAL = 1.96
AT_ONCE = 4_000_000
"""So many numbers are drawn at a time."""
FEWEST = 4
"""Of fewer stretches nothing can be said."""


def intervals(sums: Floats, figures: Mapping[str, Figure], seed: int = 0) -> dict[str, Interval | None]:
    """95 % intervals of ``figures`` of ``sums``, one row per input in the order of the data.

    Inputs in order are often kin (crops of one photograph, frames of one film), and so are their errors:
    drawn one by one they would make an interval far too short. Stretches as long as errors resemble each
    other are drawn instead (circular block bootstrap, Politis and Romano 1992), with the percentiles'
    distance from the figure stretched by √(B / (B − 1)), since B stretches show only (B − 1) / B of their
    variance. None where there are fewer than ``FEWEST`` stretches, or the figure is not finite.
    """
    n = len(sums)
    if n < FEWEST:
        return dict.fromkeys(figures)
    length = max(kin(_influence(sums, figure)) for figure in figures.values())
    count = ceil(n / length)
    around = np.concatenate([sums, sums[: length - 1]])
    running = np.concatenate([np.zeros((1, sums.shape[1])), np.cumsum(around, axis=0)])
    stretches = running[length:] - running[:-length]
    draw = np.random.default_rng(seed)
    step = max(1, AT_ONCE // (count * sums.shape[1]))
    totals = np.concatenate(
        [
            stretches[draw.integers(0, n, (min(step, RESAMPLES - start), count))].sum(1)
            for start in range(0, RESAMPLES, step)
        ]
    )
    whole = sums.sum(0)
    return {name: _percentiles(figure(whole), figure(totals), count) for name, figure in figures.items()}


def share_interval(found: Interval | None, share: float, n: int, length: int = 1) -> Interval | None:
    """The interval of a share, at least as wide as Wilson's of ``n`` inputs in stretches of ``length``.

    A bootstrap of inputs that all agree has no width, and 20 inputs without a miss do not make a network that
    never misses.
    """
    if found is None:
        return None
    count, square = max(n / length, 1.0), NORMAL**2
    center = (share + square / (2 * count)) / (1 + square / count)
    half = NORMAL / (1 + square / count) * sqrt(share * (1 - share) / count + square / (4 * count**2))
    return max(0.0, min(found[0], center - half)), min(1.0, max(found[1], center + half))


def at_least_zero(found: Interval | None) -> Interval | None:
    """The interval of what is never negative."""
    return None if found is None else (max(found[0], 0.0), found[1])


def kin(values: Floats) -> int:
    """How many neighbors resemble each other: the first lag at which ``values`` are not credibly correlated,
    at most a quarter of them."""
    n = len(values)
    centered = values - values.mean()
    power = float(centered @ centered)
    most = n // FEWEST
    if not power > 0 or not np.isfinite(power):
        return 1
    for lag in range(1, most):
        if float(centered[lag:] @ centered[:-lag]) / power < 2 / sqrt(n):
            return lag
    return max(most, 1)


def _influence(sums: Floats, figure: Figure) -> Floats:
    """What each input does to the figure: the figure without it, against the others'."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(figure(sums.sum(0) - sums), nan=0.0, posinf=0.0, neginf=0.0)


def _percentiles(value: Floats, drawn: Floats, count: int) -> Interval | None:
    center = float(value)
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(center) or len(drawn) < RESAMPLES // 2 or count < FEWEST:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = center + (np.quantile(drawn, [tail, 1 - tail]) - center) * sqrt(count / (count - 1))
    return float(min(low, center)), float(max(high, center))
