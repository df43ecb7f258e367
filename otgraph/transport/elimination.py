"""Order channels by what is lost after the best *linear* re-expression: pivoted elimination.

Two greedy orders minimize the reconstruction cost ``Σ_r tr(H_r · Schur complement of S_r on the kept set)``,
and both are the same elimination on a pair (A, B) per reader, with the score ``B_pp / A_pp`` of the pivot p:

* forward (column subset selection, a pivoted Cholesky): ``A = S, B = S H S``; take the largest score, which
  is the damage that keeping p undoes;
* backward (the structured optimal brain surgeon): ``A = S⁻¹, B = H``; take the smallest score, which is the
  damage that removing p does after the others have absorbed it.

Eliminating p subtracts ``v vᵀ`` from A and ``v wᵀ + w vᵀ`` from B, with ``v = A_p / √A_pp`` and
``w = B_p / √A_pp − (B_pp / 2 A_pp) v``. Updates are held back for a block of pivots and then applied as
matrix products, so the whole curve costs about 2 n³ operations at matrix-product speed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from otgraph.transport.cost import FloatArray, IntArray, Reading, merge_readings
from otgraph.transport.curve import RateDistortion

BLOCK = 64
"""Pivots whose updates are applied together."""

SINGULAR = 1e-11
"""A pivot below this part of its first value is rounding: nothing is left to explain."""

TIE = 1e-12
"""Scores below this part of all that could be lost are rounding of 0: among them the damage of dropping a
channel outright decides, so that constants go before channels that others happen to explain."""


def eliminate_backward(readings: Sequence[Reading], ridge: float = 1e-6) -> RateDistortion:
    """Remove the channel whose absence costs least after least squares, until none is left. O(n³).

    ``ridge`` is added to the moments relative to each channel's own energy, so the order follows rescaled
    channels; it also keeps few samples from explaining everything. The distortion is the reconstruction cost
    under these moments, in units of the readers' squared outputs.
    """
    stabilized = _stabilized(readings, ridge)
    pairs = [(_inverse(moment), gain) for moment, gain in stabilized]
    order, scores = _Elimination(pairs, *_ties(readings)).run(-1.0)
    return RateDistortion(order[::-1].copy(), np.concatenate([[0.0], np.cumsum(scores)])[::-1].copy())


def eliminate_forward(readings: Sequence[Reading], ridge: float = 1e-6) -> RateDistortion:
    """Keep the channel that explains most of the readers' outputs, until all are kept. O(n³).

    Arguments, units and the meaning of the distortion as in ``eliminate_backward``.
    """
    stabilized = _stabilized(readings, ridge)
    pairs = [(moment, moment @ gain @ moment) for moment, gain in stabilized]
    order, scores = _Elimination(pairs, *_ties(readings)).run(1.0)
    return RateDistortion(order, _remainders(stabilized, scores))


def reconstruction_along(readings: Sequence[Reading], order: IntArray, ridge: float = 1e-6) -> RateDistortion:
    """The curve of nested sets that something else chose: their reconstruction costs. O(n³)."""
    stabilized = _stabilized(readings, ridge)
    pairs = [(_inverse(moment), gain) for moment, gain in stabilized]
    removed, scores = _Elimination(pairs, *_ties(readings)).run(-1.0, order[::-1])
    return RateDistortion(removed[::-1].copy(), np.concatenate([[0.0], np.cumsum(scores)])[::-1].copy())


def _stabilized(readings: Sequence[Reading], ridge: float) -> list[tuple[FloatArray, FloatArray]]:
    """(moment with ridge, gain) per reader, in units of each channel's deviation; a dead channel becomes one
    of energy 1 that nobody reads. Scores are the same in any units, and rounding is least in these."""
    pairs: list[tuple[FloatArray, FloatArray]] = []
    for reading in merge_readings(readings):
        moment = reading.second_moment()
        energy = np.diagonal(moment)
        alive = energy > 0.0
        unit = np.where(alive, np.sqrt(energy), 1.0)
        moment = moment / np.multiply.outer(unit, unit) + np.diag(np.where(alive, ridge, 1.0))
        read = np.where(alive, unit, 0.0)
        pairs.append((moment, reading.gain * np.multiply.outer(read, read)))
    return pairs


def _ties(readings: Sequence[Reading]) -> tuple[IntArray, float]:
    """The place of each channel, (n,), by the damage of dropping it outright, then by all that it gives (of
    constants those first that are 0 to begin with, and read the least); and below which score it decides."""
    drop, given, gain = np.zeros((3, readings[0].size))
    for reading in merge_readings(readings):
        read = np.maximum(np.diagonal(reading.gain), 0.0)
        drop += read * np.diagonal(reading.second_moment())
        given += read * reading.energy()
        gain += read
    rank = np.empty(len(drop), np.int64)
    rank[np.lexsort((gain, given, drop))] = np.arange(len(drop))
    return rank, TIE * float(drop.sum())


def _inverse(moment: FloatArray) -> FloatArray:
    """The precision matrix, computed on the correlation scale and symmetric."""
    scale = 1.0 / np.sqrt(np.diagonal(moment))
    inverse = np.linalg.inv(moment * np.multiply.outer(scale, scale)) * np.multiply.outer(scale, scale)
    return (inverse + inverse.T) / 2.0


def _remainders(pairs: Sequence[tuple[FloatArray, FloatArray]], scores: FloatArray) -> FloatArray:
    """The damage left after each forward step: all of it, less what was undone; never below 0 by rounding."""
    whole = sum(float(np.sum(moment * gain)) for moment, gain in pairs)
    left = whole - np.concatenate([[0.0], np.cumsum(scores)])
    left[-1] = 0.0
    return np.minimum.accumulate(np.maximum(left, 0.0))


class _Pair:
    """One reader's (A, B) on the channels that are left, with the updates that are held back."""

    def __init__(self, a: FloatArray, b: FloatArray) -> None:
        self.a, self.b = a, b
        self.a_diagonal, self.b_diagonal = np.diagonal(a).copy(), np.diagonal(b).copy()
        self.floor = SINGULAR * self.a_diagonal
        self._clear()

    def _clear(self) -> None:
        self.v, self.w = np.empty((BLOCK, len(self.a))), np.empty((BLOCK, len(self.a)))

    def scores(self) -> FloatArray:
        alive = self.a_diagonal > self.floor
        return np.divide(self.b_diagonal, self.a_diagonal, out=np.zeros(len(alive)), where=alive).clip(0.0)

    def eliminate(self, pivot: int, held: int) -> None:
        v, w = self.v[:held], self.w[:held]
        at_pivot = self.a_diagonal[pivot]
        if at_pivot <= self.floor[pivot]:
            self.v[held] = self.w[held] = 0.0
            return
        root = np.sqrt(at_pivot)
        new_v = (self.a[pivot] - v[:, pivot] @ v) / root
        new_w = (self.b[pivot] - v[:, pivot] @ w - w[:, pivot] @ v) / root
        new_w -= self.b_diagonal[pivot] / (2.0 * at_pivot) * new_v
        self.v[held], self.w[held] = new_v, new_w
        self.a_diagonal -= new_v * new_v
        self.b_diagonal -= 2.0 * new_v * new_w

    def flush(self, left: IntArray, held: int) -> None:
        """Apply what was held back and forget the channels that are gone."""
        v, w = self.v[:held, left], self.w[:held, left]
        cross = v.T @ w
        self.a = self.a[np.ix_(left, left)] - v.T @ v
        self.b = self.b[np.ix_(left, left)] - cross - cross.T
        self.a_diagonal, self.b_diagonal = np.diagonal(self.a).copy(), np.diagonal(self.b).copy()
        self.floor = self.floor[left]
        self._clear()


class _Elimination:
    """All readers' pairs, eliminated in one common order."""

    def __init__(self, pairs: Sequence[tuple[FloatArray, FloatArray]], rank: IntArray, tie: float) -> None:
        self.pairs = [_Pair(a, b) for a, b in pairs]
        self.rank, self.tie = rank, tie
        self.channels: IntArray = np.arange(len(pairs[0][1]), dtype=np.int64)

    def run(self, sign: float, forced: IntArray | None = None) -> tuple[IntArray, FloatArray]:
        """Pivots in turn and their scores; the best by ``sign × score``, or those of ``forced``."""
        n = len(self.channels)
        order, scores = np.empty(n, np.int64), np.empty(n)
        for start in range(0, n, BLOCK):
            held = min(BLOCK, n - start)
            wanted = None if forced is None else forced[start : start + held]
            order[start : start + held], scores[start : start + held] = self._block(sign, held, wanted)
        return order, scores

    def _scores(self) -> FloatArray:
        total = np.zeros(len(self.channels))
        for pair in self.pairs:
            total += pair.scores()
        return total

    def _pick(self, sign: float, score: FloatArray, open_: npt.NDArray[np.bool_]) -> int:
        """The open channel of the best ``sign × score``, scores that are rounding counting as equal."""
        worth = np.where(score <= self.tie, 0.0, score)
        best = np.where(open_, sign * worth, -np.inf)
        tied = np.flatnonzero(best == best.max())
        return int(tied[np.argmax(sign * self.rank[self.channels[tied]])])

    def _block(self, sign: float, held: int, forced: IntArray | None) -> tuple[IntArray, FloatArray]:
        open_: npt.NDArray[np.bool_] = np.ones(len(self.channels), bool)
        pivots, scores = np.empty(held, np.int64), np.empty(held)
        for step in range(held):
            score = self._scores()
            if forced is None:
                pivot = self._pick(sign, score, open_)
            else:
                pivot = int(np.flatnonzero(self.channels == forced[step])[0])
            pivots[step], scores[step], open_[pivot] = self.channels[pivot], score[pivot], False
            for pair in self.pairs:
                pair.eliminate(pivot, step)
        left = np.flatnonzero(open_)
        for pair in self.pairs:
            pair.flush(left, held)
        self.channels = self.channels[left]
        return pivots, scores
