"""From readings to one figure with an interval: medians, and a bootstrap over sessions and readings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RESAMPLES = 4000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, and what each session alone gave."""

    value: float
    low: float
    high: float
    per_session: tuple[float, ...]


def estimate(samples: Floats, seed: int) -> Estimate:
    """The median over sessions of the median over readings, of ``samples`` (sessions × readings, positive).

    Interval: a two-stage percentile bootstrap (sessions with replacement, then readings inside each drawn
    session; Davison & Hinkley 1997, section 3.8), seeded, on the logarithm, its distance from the value
    stretched by sqrt(S / (S - 1)) since S sessions resampled with replacement show only (S - 1) / S of
    their variance. Simulated coverage with three sessions of 40 pairs (spread inside 3 %): 99 % without
    a session effect, 97 % where sessions differ by 0.5 % (the measured size), 92 % at 1 %. One session
    says nothing about the spread between sessions: its interval covers the readings only.
    """
    if samples.ndim != 2 or samples.size == 0 or not (samples > 0).all():
        raise ValueError(f"samples: shape {samples.shape}, want positive (sessions, readings)")
    logs = np.log(samples)
    per_session = np.median(logs, axis=1)
    center = float(np.median(per_session))
    sessions, readings = logs.shape
    draw = np.random.default_rng(seed)
    chosen = draw.integers(0, sessions, (RESAMPLES, sessions, 1))
    inside = draw.integers(0, readings, (RESAMPLES, sessions, readings))
    resampled = np.median(np.median(logs[chosen, inside], axis=2), axis=1)
    tail = (1 - CONFIDENCE) / 2
    stretch = np.sqrt(sessions / (sessions - 1)) if sessions > 1 else 1.0
    low, high = center + (np.quantile(resampled, [tail, 1 - tail]) - center) * stretch
    return Estimate(
        value=float(np.exp(center)),
        low=float(np.exp(min(low, center))),
        high=float(np.exp(max(high, center))),
        per_session=tuple(float(value) for value in np.exp(per_session)),
    )
