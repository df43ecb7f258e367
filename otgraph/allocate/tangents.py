"""``Tangents``: plain sums that lie below a damage with an interaction, or agree with it close to a choice.

With ``x`` one-hot in the candidates the damage is ``ℓ(x) + weight · |Σ v_c x_c|²`` where ``ℓ(x)`` sums up
``d_c − weight · |v_c|²``, a convex function once ``x`` may be fractional. So for any vector ``s``

    ``damage(x) ≥ ℓ(x) + 2 · weight · s · Σ v_c x_c − weight · |s|²``

with equality where the vectors add up to ``s``. The least of the right side over all choices is a lower
bound; the best ``s`` is the sum at the least point of the relaxation, which Frank and Wolfe's method finds
from the minima themselves (here in its fully corrective form: Holloway, 1974), and a tangent is a cut
wherever the damage is to keep a limit (Kelley, 1960).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from otgraph.allocate.interaction import Effects
from otgraph.allocate.prices import Prices
from otgraph.allocate.problem import Problem
from otgraph.allocate.relaxation import Relaxation, Relaxed
from otgraph.allocate.walk import Walk

Floats = npt.NDArray[np.float64]

_STEPS = 2000
_SLACK = 1e-12


@dataclass(frozen=True)
class Point:
    """A point of the relaxation as the damage sees it: ``ℓ(x)`` and ``Σ v_c x_c``."""

    linear: float
    sum: Floats


class Tangents:
    """The tangents of the damage of ``problem``, whose interaction ``effects`` are."""

    def __init__(self, problem: Problem, effects: Effects) -> None:
        self.problem, self.effects = problem, effects
        self.alone = np.zeros(effects.dim_squares.shape)
        for row, dim in enumerate(problem.dims):
            self.alone[row, : len(dim.damages)] = dim.damages
        options = np.array([option.damage for option in problem.options], np.float64)
        self.dims = self.alone - effects.weight * effects.dim_squares
        self.options = options - effects.weight * effects.option_squares

    def at(self, point: Floats) -> Prices:
        """The tangent where the vectors add up to ``point``."""
        slope = 2 * self.effects.weight * point
        dims, options = self.dims + self.effects.dims @ slope, self.options + self.effects.options @ slope
        return self._prices(dims, options, -self.effects.weight * float(point @ point))

    def around(self, walk: Walk) -> Prices:
        """What each single move from where ``walk`` stands leads to, as prices: no tangent and no bound, but
        exact for these moves."""
        here = np.where(walk.absorbed[:, None], 0.0, walk.vectors)
        others = walk.sum(self.effects) - here
        products = (self.effects.dims @ others[:, :, None])[:, :, 0]
        dims = self.alone + 2 * self.effects.weight * products
        harm = walk.harm_of_options()
        kept = (walk.absorbed.astype(np.float64) - walk.absorbed_moved) @ dims[walk.rows, walk.at]
        # giving up one that is taken undoes its price; taking another gives up those that it excludes
        options = np.where(walk.chosen, kept - harm, 0.0)
        lost = (walk.chosen & ~walk.moved).astype(np.float64) @ options
        options = np.where(walk.chosen, options, harm - kept + lost)
        return self._prices(dims, options, 0.0)

    def _prices(self, dims: Floats, options: Floats, constant: float) -> Prices:
        rows = zip(self.problem.dims, dims.tolist(), strict=True)
        alone = tuple(tuple(row[: len(dim.widths)]) for dim, row in rows)
        return Prices(alone, tuple(options.tolist()), constant)

    def point_of(self, relaxation: Relaxation, relaxed: Relaxed) -> Point:
        """A solution of the relaxation."""
        shares = np.zeros(self.dims.shape)
        for row, picks in enumerate(relaxation.picks.values()):
            shares[row, : len(picks)] = relaxed.values[picks]
        options = relaxed.values[relaxation.options]
        linear = float((self.dims * shares).sum() + self.options @ options)
        whole = np.tensordot(shares, self.effects.dims, 2) + options @ self.effects.options
        return Point(linear, whole)

    def point_at(self, walk: Walk) -> Point:
        """Where ``walk`` stands."""
        whole = walk.sum(self.effects)
        return Point(walk.damage - self.effects.weight * float(whole @ whole), whole)

    def damage(self, point: Point) -> float:
        """The damage at a point."""
        return point.linear + self.effects.weight * float(point.sum @ point.sum)

    def border(self, inner: Point, outer: Point, limit: float) -> Point:
        """The last point on the way from ``inner`` to ``outer`` whose damage is at most ``limit``; ``inner``
        where it is above that itself."""
        step = outer.sum - inner.sum
        square = self.effects.weight * float(step @ step)
        slope = outer.linear - inner.linear + 2 * self.effects.weight * float(inner.sum @ step)
        room = max(limit - self.damage(inner), 0.0)
        # the larger root of square · t² + slope · t = room, in the form that does not cancel
        root = slope + math.sqrt(slope * slope + 4 * square * room) if slope > 0 else 0.0
        far = 2 * room / root if root > 0 else _far_root(square, slope, room)
        share = min(max(far, 0.0), 1.0)
        return Point(inner.linear + share * (outer.linear - inner.linear), inner.sum + share * step)

    def lowest(self, points: list[Point]) -> Point:
        """The mixture of ``points`` of least damage, by steps between pairs of them (a quadratic over a
        simplex of a few corners)."""
        linear, sums = np.array([point.linear for point in points]), np.stack([point.sum for point in points])
        weight, products = self.effects.weight, sums @ sums.T
        shares = np.zeros(len(points))
        shares[np.argmin(linear + weight * np.diag(products))] = 1.0
        for _ in range(_STEPS):
            slopes = linear + 2 * weight * products @ shares
            best = int(np.argmin(slopes))
            worst = int(np.argmax(np.where(shares > 0, slopes, -np.inf)))
            gain = slopes[worst] - slopes[best]
            if gain <= _SLACK * np.abs(slopes).max():
                break
            bend = products[best, best] + products[worst, worst] - 2 * products[best, worst]
            step = min(shares[worst], gain / (2 * weight * bend) if bend > 0 else np.inf)
            shares[best] += step
            shares[worst] -= step
        return Point(float(shares @ linear), shares @ sums)


def _far_root(square: float, slope: float, room: float) -> float:
    """The larger root of ``square · t² + slope · t = room`` for a slope of at most 0."""
    return (math.sqrt(slope * slope + 4 * square * room) - slope) / (2 * square) if square > 0 else 1.0
