"""``SelectionProblem``: semi-relaxed transport of a dim's channels onto k free atoms and a dustbin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from otgraph.errors import DataError
from otgraph.transport.cost import FloatArray, IntArray, Reading, rerouting_cost


@dataclass(frozen=True)
class SelectionProblem:
    """Choose k of n channels so that the rest can be re-routed through them, or dropped, most cheaply.

    Minimize ``f(K) = Σ_j masses[j] · min(drop[j], min_{i ∈ K} cost[j, i])`` over ``|K| = k``. For a given K
    it is optimal transport with the source marginal fixed and the target's free (each channel takes its
    cheapest target); over K it is k-medoids with a dustbin: decreasing and supermodular. ``cost`` (n, n),
    rows are removed channels and columns kept ones, diagonal 0; ``drop`` (n,); ``masses`` (n,), ones by
    default. Raises ``DataError`` on wrong shapes and on values that are negative or not finite.
    """

    cost: FloatArray
    drop: FloatArray
    masses: FloatArray | None = None

    def __post_init__(self) -> None:
        n = len(self.drop)
        if n == 0:
            raise DataError("selection problem: no channels; a dim needs at least one")
        if self.cost.shape != (n, n):
            raise DataError(f"selection problem: cost has shape {self.cost.shape}, expected {(n, n)}")
        for what, array in (("cost", self.cost), ("drop", self.drop), ("masses", self.weights())):
            if not np.isfinite(array).all() or (array < 0.0).any():
                raise DataError(f"selection problem: {what} must be finite and not negative")
        if self.weights().shape != (n,):
            raise DataError(f"selection problem: masses have shape {self.weights().shape}, expected {(n,)}")
        if np.diagonal(self.cost).any():
            raise DataError("selection problem: the diagonal of cost must be 0; keeping a channel is free")

    @property
    def size(self) -> int:
        """The number of channels n."""
        return len(self.drop)

    def weights(self) -> FloatArray:
        """The masses, shape (n,)."""
        return np.ones(len(self.drop)) if self.masses is None else self.masses

    def facilities(self) -> FloatArray:
        """Cost of serving each channel (row) by each channel, or by the dustbin (last column), (n, n + 1).

        Masses are multiplied in. Routes that do not beat dropping are infinite: the dustbin stands for them.
        """
        n = self.size
        table = np.empty((n, n + 1))
        np.copyto(table[:, :n], self.cost)
        table[:, :n][self.cost >= self.drop[:, None]] = np.inf
        table[:, n] = self.drop
        diagonal = np.arange(n)
        table[diagonal, diagonal] = 0.0
        if self.masses is not None:
            massive = self.masses > 0.0
            table[massive] *= self.masses[massive, None]
            table[~massive] = 0.0
        return table

    def value(self, kept: IntArray) -> float:
        """``f(kept)``: the cost of re-routing everything else through ``kept``, or dropping it."""
        return float(np.sum(self.weights() * self.serve(kept)[1]))

    def serve(self, kept: IntArray) -> tuple[IntArray, FloatArray]:
        """The cheapest target of each channel (-1: dropped), and its cost per unit of mass; each (n,)."""
        if len(kept) == 0:
            return np.full(self.size, -1), self.drop.copy()
        routes = self.cost[:, kept]
        nearest = np.argmin(routes, axis=1)
        price = routes[np.arange(self.size), nearest]
        target = kept[nearest].astype(np.int64)
        dropped = price >= self.drop
        dropped[kept] = False
        target[dropped] = -1
        target[kept] = kept
        price = np.where(dropped, self.drop, price)
        price[kept] = 0.0
        return target, price


def rerouting_problem(readings: Sequence[Reading]) -> SelectionProblem:
    """The selection problem of a dim under the re-routing cost of its readers."""
    cost, drop = rerouting_cost(readings)
    return SelectionProblem(cost, drop)
