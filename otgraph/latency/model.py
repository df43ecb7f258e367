"""Predicting latency from multiply-accumulates: a line through the measured base, corrected by measurements.

With widths the engine likes, a line with an intercept predicts a pruned network's time about as well as a
table of nodes does; no predictor is good enough to promise a budget. So the plan allocates with this line,
builds, measures, and corrects the line with what it measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from otgraph.errors import UsageError

OVERHEAD = 0.04


@dataclass(frozen=True)
class AffineModel:
    """time(macs) = base_ms · start · (1 − slope · (1 − macs / base_macs)).

    ``start`` is the measured ratio to the base of the network with nothing cut, once it is simplified: what
    exact rewrites gain comes for nothing. ``slope`` is the part of that time that MACs pay for; 1 − slope is
    overhead. ``points`` are the measured (macs, ratio to the base) pairs the slope was corrected with;
    ``points`` empty means the slope is a guess.
    """

    base_ms: float
    base_macs: float
    slope: float = 1 - OVERHEAD
    points: tuple[tuple[float, float], ...] = ()
    start: float = 1.0

    def __post_init__(self) -> None:
        if not (self.base_ms > 0 and self.base_macs > 0 and self.start > 0):
            raise UsageError(
                f"latency model: base of {self.base_ms} ms and {self.base_macs} MACs, start {self.start};"
                " all must be > 0"
            )

    def ratio(self, macs: float) -> float:
        """Predicted time relative to the base; never below zero."""
        return self.start * max(0.0, 1 - self.slope * (1 - macs / self.base_macs))

    def predict(self, macs: float) -> float:
        """Predicted milliseconds."""
        return self.base_ms * self.ratio(macs)

    def macs_for(self, ratio: float) -> float | None:
        """The most MACs predicted to run within ``ratio`` of the base time; ``None`` if even 0 would not."""
        ratio /= self.start
        if ratio >= 1:
            return self.base_macs * (1 + (ratio - 1) / self.slope) if self.slope > 0 else self.base_macs
        if self.slope <= 0:
            return None
        share = 1 - (1 - ratio) / self.slope
        return share * self.base_macs if share >= 0 else None

    def corrected(self, macs: float, measured_ratio: float) -> AffineModel:
        """The model that also knows one more measurement.

        Least squares through the base point over all measurements so far: one point is met exactly. Points
        far from the base weigh more, as their relative error is smaller. The slope is kept ≥ 0: fewer MACs
        never predict more time.
        """
        points = (*self.points, (macs, measured_ratio))
        return self.fit(self.base_ms, self.base_macs, points, prior=self.slope, start=self.start)

    @classmethod
    def fit(
        cls,
        base_ms: float,
        base_macs: float,
        points: tuple[tuple[float, float], ...],
        *,
        prior: float = 1 - OVERHEAD,
        start: float = 1.0,
    ) -> AffineModel:
        """The line through the base nearest to ``points``; ``prior`` is its slope when they say nothing."""
        model = cls(base_ms, base_macs, prior, points, start)
        cut = 1 - np.array([macs / base_macs for macs, _ in points])
        gain = 1 - np.array([ratio for _, ratio in points]) / start
        weight = float(cut @ cut)
        if weight == 0:
            return model
        return replace(model, slope=max(0.0, float(cut @ gain) / weight))
