"""A certificate for a selection: a lower bound on the cost of *every* choice of k channels.

Kantorovich duality for the selection problem: for any potentials ``u`` with ``u_j ≤ drop_j``,

    ``L(u) = Σ_j a_j u_j − (sum of the k largest over i of Σ_j a_j (u_j − C[j,i])₊)  ≤  min_{|K| = k} f(K)``

(relax "each channel is served once" with multipliers u; the dustbin caps them). A few projected subgradient
steps raise it. Any ``u`` gives a valid bound, so the search runs in float32 and only the value that is
returned is evaluated in float64, less the rounding its sums can have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from otgraph.errors import DataError
from otgraph.transport.cost import FloatArray, IntArray
from otgraph.transport.problem import SelectionProblem

Float32Array = npt.NDArray[np.float32]

BLOCK = 64
"""Servers per block of the search: a block of the (n, n) table that stays in the cache."""

LEVELS = (0.0, 0.01, 0.05)
"""Quantiles of what the kept channels are worth, from which the search may begin."""

STALL = 5
"""Steps without progress after which the pace is halved."""


@dataclass(frozen=True)
class Certificate:
    """What is known about the best choice of ``k`` channels: ``bound ≤ optimum ≤ cost``.

    ``cost``: of the set that was given. ``potentials``: the u of the bound, shape (n,).
    """

    k: int
    cost: float
    bound: float
    potentials: FloatArray

    @property
    def gap(self) -> float:
        """``(cost − bound) / cost``, 0 when the set is certified optimal; 1 when nothing is known."""
        return (self.cost - self.bound) / self.cost if self.cost > 0.0 else 0.0


def certify(problem: SelectionProblem, kept: IntArray, iterations: int = 60) -> Certificate:
    """Bound the cost of all sets as large as ``kept``, beginning from the duals that ``kept`` suggests.

    Subgradient ascent with Polyak's step towards the cost of ``kept``, halved when it stalls; about
    ``iterations`` evaluations of O(n²). Raises ``DataError`` where ``kept`` is empty.
    """
    if len(kept) == 0:
        raise DataError("certificate: no channel is kept; the cost is then the sum of all drops, exactly")
    search = _Ascent(problem, kept)
    best = search.run(iterations)
    cost = problem.value(kept)
    bound = min(lower_bound(problem, len(kept), best), cost)
    return Certificate(len(kept), cost, bound, best)


def lower_bound(problem: SelectionProblem, k: int, potentials: FloatArray) -> float:
    """``L(u)`` in float64, at least 0: below the cost of any k channels whatever ``potentials`` (n,) are."""
    masses = problem.weights()
    capped = np.minimum(potentials, problem.drop)
    surplus = capped[:, None] - problem.cost
    np.maximum(surplus, 0.0, out=surplus)
    attraction = masses @ surplus
    largest = np.partition(attraction, len(attraction) - k)[len(attraction) - k :]
    earned, paid = float(masses @ capped), float(largest.sum())
    rounding = 4.0 * problem.size * float(np.finfo(np.float64).eps) * (float(masses @ np.abs(capped)) + paid)
    return max(earned - paid - rounding, 0.0)


class _Ascent:
    """Projected subgradient ascent of ``L`` in float32, each channel stepping in proportion to its potential.

    (The potentials of kept and of nearly free channels differ by orders of magnitude; plain steps stall.)
    """

    def __init__(self, problem: SelectionProblem, kept: IntArray) -> None:
        self.masses = problem.weights().astype(np.float32)
        self.drop = problem.drop.astype(np.float32)
        self.columns: Float32Array = np.ascontiguousarray(problem.cost.T, np.float32)  # (server, channel)
        self.k = len(kept)
        self.goal = problem.value(kept)
        self.starts = [start.astype(np.float32) for start in _starts(problem, kept)]
        self.room = np.empty((min(BLOCK, problem.size), problem.size), np.float32)

    def run(self, iterations: int) -> FloatArray:
        """The best potentials found, shape (n,)."""
        best = max(self.starts, key=lambda start: self._evaluate(start)[0])
        value, slope = self._evaluate(best)
        best_value, pace, stalled, potentials = value, 1.0, 0, best
        speed = np.maximum(best, 1e-6 * best.max()).astype(np.float32)
        for _ in range(iterations - len(self.starts) - 1):
            steepness = float((speed * slope) @ slope)
            if steepness == 0.0 or best_value >= self.goal * (1.0 - 1e-6):
                break
            step = np.float32(pace * max(self.goal - value, 0.0) / steepness)
            potentials = np.clip(potentials + step * speed * slope, 0.0, self.drop).astype(np.float32)
            value, slope = self._evaluate(potentials)
            stalled = 0 if value > best_value + 1e-3 * (self.goal - best_value) else stalled + 1
            if value > best_value:
                best_value, best = value, potentials
            if stalled == STALL:
                pace, stalled, potentials = pace / 2.0, 0, best
                value, slope = self._evaluate(best)
        return best.astype(np.float64)

    def _evaluate(self, potentials: Float32Array) -> tuple[float, Float32Array]:
        """``L`` and its supergradient: its mass, less it per open server that it pays."""
        attraction = np.empty(len(potentials), np.float32)
        for start in range(0, len(potentials), BLOCK):
            block = self.columns[start : start + BLOCK]
            surplus = np.subtract(potentials, block, out=self.room[: len(block)])
            np.maximum(surplus, np.float32(0.0), out=surplus)
            attraction[start : start + BLOCK] = surplus @ self.masses
        opened = np.argpartition(attraction, len(attraction) - self.k)[len(attraction) - self.k :]
        payers = np.zeros(len(potentials), np.int64)
        for start in range(0, self.k, BLOCK):
            payers += np.count_nonzero(self.columns[opened[start : start + BLOCK]] < potentials, axis=0)
        value = float(self.masses @ potentials) - float(attraction[opened].sum())
        return value, (self.masses * (1.0 - payers)).astype(np.float32)


def _starts(problem: SelectionProblem, kept: IntArray) -> list[FloatArray]:
    """Potentials under which each kept channel attracts the same amount λ, for a few λ; each (n,).

    A channel offers what its server costs it and a share of the step to its second server, so that it pays no
    other kept channel. Were no channel outside more attractive than λ, ``kept`` would be proved optimal;
    small λ leave the outside too attractive, large ones exceed what the weakest kept channel is worth.
    """
    n = problem.size
    table = problem.facilities()[:, np.append(kept, n)]
    masses = problem.weights()
    nearest = np.argmin(table, axis=1)
    at = np.arange(n)
    price = table[at, nearest]
    table[at, nearest] = np.inf
    second = np.minimum(table.min(axis=1), masses * problem.drop)
    worth = np.bincount(nearest, second - price, len(kept) + 1)
    worth[-1] = np.inf  # the dustbin needs no payment
    shares = [
        np.minimum(1.0, level / np.maximum(worth[nearest], np.finfo(np.float64).tiny))
        for level in np.quantile(worth[:-1], LEVELS)
    ]
    per_mass = np.divide(1.0, masses, out=np.zeros(n), where=masses > 0.0)
    return [per_mass * (price + share * (second - price)) for share in shares]
