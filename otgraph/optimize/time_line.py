"""From summed node times to the network's latency: a line through the measured original, corrected by what
was measured of candidates.

Node times rank candidates well, but no sum of them promises a budget. So the plan is allocated with this
line, built and measured, and the line corrected.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otgraph.errors import UsageError
from otgraph.pricing.timing import OVERHEAD


@dataclass(frozen=True)
class TimeLine:
    """ratio(spent) = start · (1 − slope · (1 − spent / base)).

    ``base``: the summed node times of the original, in any unit. ``slope``: the share of the network's time
    that its nodes pay for; 1 − slope is overhead. ``points``: the measured (spent, ratio to the original)
    that the slope was corrected with; without any it is a guess. ``start``: the measured ratio of the network
    with nothing cut, once it is simplified: what exact rewrites gain comes for nothing.

    Raises:
        UsageError: ``base`` or ``start`` is not above 0.
    """

    base: float
    slope: float = 1 - OVERHEAD
    points: tuple[tuple[float, float], ...] = ()
    start: float = 1.0

    def __post_init__(self) -> None:
        if not (self.base > 0 and self.start > 0):
            raise UsageError(f"latency: base of {self.base}, start {self.start}; both must be > 0")

    def ratio(self, spent: float) -> float:
        """Predicted latency relative to the original's; never below zero."""
        return self.start * max(0.0, 1 - self.slope * (1 - spent / self.base))

    def budget_for(self, ratio: float) -> float | None:
        """The most that nodes may take together to run within ``ratio``; ``None`` if even 0 would not do."""
        ratio /= self.start
        if ratio >= 1:
            return self.base * (1 + (ratio - 1) / self.slope) if self.slope > 0 else self.base
        if self.slope <= 0:
            return None
        share = 1 - (1 - ratio) / self.slope
        return share * self.base if share >= 0 else None

    def corrected(self, spent: float, measured: float) -> TimeLine:
        """The line that also knows one more measured ratio.

        Least squares through the base point over all measurements so far: one point is met exactly. Points
        far from the base weigh more, as their relative error is smaller. The slope is kept ≥ 0: less work
        never predicts more time.
        """
        points = (*self.points, (spent, measured))
        cut = 1 - np.array([spent / self.base for spent, _ in points])
        gain = 1 - np.array([ratio for _, ratio in points]) / self.start
        weight = float(cut @ cut)
        slope = max(0.0, float(cut @ gain) / weight) if weight > 0 else self.slope
        return replace(self, points=points, slope=slope)
