"""What removing channels costs the readers of a dim, from first and second moments only.

A reader multiplies its input ``x`` (n channels, seen as samples × positions) by a weight ``W`` (m, n) per
tap. Replacing ``x`` by ``T x`` damages its output by ``E‖W (x − T x)‖² = tr(H (I − T) S (I − T)ᵀ)`` with the
second moment ``S = E[x xᵀ]`` and the gain ``H = Σ_taps WᵀW``; taps are taken as uncorrelated. Everything here
is that formula for some family of ``T``: one substitute per channel (re-routing), or all kept channels
(reconstruction).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from otgraph.errors import DataError
from otgraph.transport.rounding import CANCELLATION, FLOOR, GROWTH, floored

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

REEXPRESSION = 1e-3
"""Of the mean energy, added to each channel's: re-expression by few inputs explains no more than that."""


@dataclass(frozen=True)
class Reading:
    """One reader of a dim of n channels.

    ``name``: the weight that reads. ``moment``: E[x xᵀ] of the reader's input, uncentered, shape (n, n).
    ``gain``: H = Σ_taps WᵀW, shape (n, n). ``mean``: E[x], shape (n,). ``centered``: the reader has a bias
    that can absorb constants, so a channel is only worth what varies in it; costs then use the
    covariance ``moment − mean meanᵀ``. ``rounding``: the part of its mean square below which a variance is
    rounding (``transport.rounding``). Raises ``DataError`` where shapes disagree or a value is not finite.
    """

    name: str
    moment: FloatArray
    gain: FloatArray
    mean: FloatArray | None = None
    centered: bool = False
    rounding: float = CANCELLATION

    def __post_init__(self) -> None:
        n = len(self.gain)
        mean = np.zeros(n) if self.mean is None else self.mean
        for what, array, shape in (
            ("moment", self.moment, (n, n)),
            ("gain", self.gain, (n, n)),
            ("mean", mean, (n,)),
        ):
            if array.shape != shape:
                raise DataError(f"reading {self.name!r}: {what} has shape {array.shape}, expected {shape}")
            if not np.isfinite(array).all():
                raise DataError(f"reading {self.name!r}: {what} holds values that are not finite")
        if self.centered and self.mean is None:
            raise DataError(f"reading {self.name!r}: centered, but no mean is given; pass mean=E[x]")

    @property
    def size(self) -> int:
        """The number of channels n."""
        return len(self.gain)

    def second_moment(self) -> FloatArray:
        """The moment that costs are made of, shape (n, n): centered where the bias absorbs the mean.

        Rows and columns of dead channels are exactly zero: of those that are constant where a bias takes
        constants, and of those whose part in what the reader gives is rounding of the whole (at a gain of at
        least the mean one, since more may come to be read of a channel).
        """
        moment = np.asarray(self.moment, np.float64)
        energy = np.diagonal(moment)
        dead = self.constant() if self.centered else energy <= 0.0
        if self.centered and self.mean is not None:
            mean = np.asarray(self.mean, np.float64)
            moment = moment - np.multiply.outer(mean, mean)
        read = np.maximum(np.diagonal(self.gain), max(float(np.mean(np.diagonal(self.gain))), 0.0))
        dead = dead | (read * np.diagonal(moment) < self.rounding * float(np.mean(read * energy)))
        if dead.any():
            moment = moment * np.multiply.outer(~dead, ~dead)
        return moment

    def energy(self) -> FloatArray:
        """E[x²], shape (n,)."""
        return np.diagonal(self.moment).astype(np.float64)

    def constant(self) -> npt.NDArray[np.bool_]:
        """The channels that vary by no more than rounding does, shape (n,)."""
        energy = self.energy()
        mean = np.zeros(len(energy)) if self.mean is None else np.asarray(self.mean, np.float64)
        return energy - mean * mean <= self.rounding * energy

    def bounds(self) -> FloatArray:
        """The largest factor by which another channel may stand for each, shape (n,): with it no column of
        the reader grows beyond ``GROWTH`` times the largest that it has."""
        read = np.sqrt(np.maximum(np.diagonal(self.gain), 0.0))
        return np.divide(GROWTH * read.max(initial=0.0), read, out=np.zeros_like(read), where=read > 0.0)


def merge_readings(readings: Sequence[Reading]) -> list[Reading]:
    """Sum the gains of readers of the same input: costs stay the same, and are computed once per input."""
    merged: list[Reading] = []
    for reading in readings:
        for at, other in enumerate(merged):
            if _same_input(reading, other):
                merged[at] = replace(other, gain=other.gain + reading.gain)
                break
        else:
            merged.append(reading)
    return merged


def _same_input(one: Reading, other: Reading) -> bool:
    if one.centered != other.centered:
        return False
    if one.moment is other.moment and (one.mean is other.mean or not one.centered):
        return True
    if not np.array_equal(one.moment, other.moment):
        return False
    return not one.centered or (
        one.mean is not None and other.mean is not None and np.array_equal(one.mean, other.mean)
    )


def rerouting_cost(readings: Sequence[Reading]) -> tuple[FloatArray, FloatArray]:
    """``(C, drop)``: what it costs to re-route channel j (row) through i (column), and to drop it.

    ``C[j, i] = Σ_r H_r[j,j] (S_r[j,j] − S_r[j,i]² / S_r[i,i])``, shape (n, n), is the damage under the best
    scalar per reader (the least-squares slope of x_j on x_i, within the bounds of ``routing_scales``);
    ``drop[j] = Σ_r H_r[j,j] S_r[j,j]``, (n,). Both in units of the readers' squared outputs. The diagonal is
    0; through a dead channel nothing can be routed (``C = drop``).
    """
    merged = merge_readings(readings)
    n = _common_size(merged)
    cost, drop = np.zeros((n, n)), np.zeros(n)
    for reading in merged:
        moment = reading.second_moment()
        energy = np.diagonal(moment).copy()
        gain = np.maximum(np.diagonal(reading.gain), 0.0)
        slope = _slopes(reading, moment)
        explained = 2.0 * moment
        explained -= slope * energy
        explained *= slope
        np.subtract(energy[:, None], explained, out=explained)
        np.maximum(explained, 0.0, out=explained)  # Cauchy–Schwarz, up to rounding
        explained *= gain[:, None]
        cost += explained
        drop += gain * energy
    np.fill_diagonal(cost, 0.0)
    return cost, drop


def routing_scales(reading: Reading, target: IntArray) -> FloatArray:
    """The factor per channel, (n,), that the reader's column of ``target[j]`` takes of its column j.

    The least-squares slope ``S[j,t] / S[t,t]``; 1 for a kept channel (``target[j] == j``), 0 for a dropped
    one (-1) and for one whose target is dead in this reader. Two bounds keep a slope that the moments hardly
    determine from growing: a target counts as varying at least ``1 / GROWTH`` of its root mean square, so
    that ``|scale_j| · rms_t ≤ GROWTH · deviation_j``; and ``Reading.bounds``. Where the reading is centered,
    the reader's bias takes the rest: ``W_j (mean_j − scale_j mean_target[j])``.
    """
    moment = reading.second_moment()
    channels = np.arange(reading.size)
    routed = (target >= 0) & (target != channels)
    through = np.where(routed, target, 0)
    inverse = inverse_or_zero(floored(np.diagonal(moment), reading.energy()))
    bounds = reading.bounds()
    slope = np.clip(moment[channels, through] * inverse[through], -bounds, bounds)
    return np.where(routed, slope, (target == channels).astype(np.float64))


def _slopes(reading: Reading, moment: FloatArray) -> FloatArray:
    """``routing_scales`` of every channel (row) through every other (column), (n, n)."""
    bounds = reading.bounds()[:, None]
    slope = moment * inverse_or_zero(floored(np.diagonal(moment), reading.energy()))
    return np.clip(slope, -bounds, bounds, out=slope)


def reconstruction(moment: FloatArray, kept: IntArray, ridge: float = 1e-8) -> FloatArray:
    """``A`` (n, k) with ``x ≈ A x_kept`` in least squares; kept rows are exact unit rows.

    ``ridge`` is relative to each kept channel's own energy, so that the answer follows rescaled channels.
    A dead channel contributes nothing. Source: the normal equations (the reconstruction step of OBC, ZipLM).
    """
    n, k = len(moment), len(kept)
    gram = moment[np.ix_(kept, kept)].copy()
    energy = np.diagonal(gram).copy()
    unit = np.where(energy > 0.0, energy, 1.0)
    gram[np.diag_indices(k)] += np.where(energy > 0.0, ridge * energy, 1.0)
    scale = 1.0 / np.sqrt(unit)
    solved = np.linalg.solve(gram * np.multiply.outer(scale, scale), (moment[:, kept] * scale).T)
    answer = (solved * scale[:, None]).T
    answer[kept] = np.eye(k)
    return answer.reshape(n, k)


def reexpression(reading: Reading, kept: IntArray) -> FloatArray:
    """``A`` (n, k) with ``x ≈ A x_kept`` as far as a few inputs tell; kept rows are exact unit rows.

    Unlike ``reconstruction``, which gives the cost in the limit of many inputs, this one is to be used on
    others than those of the moments: every channel counts with some noise (``reexpression_noise``). Where the
    reading is centered, the rest, ``mean − A mean_kept``, is for the reader's bias.
    """
    moment = reading.second_moment()
    noise = reexpression_noise(reading, moment)
    gram = moment[np.ix_(kept, kept)] + np.diag(noise[kept])
    answer = np.linalg.solve(gram, moment[kept]).T
    answer[kept] = np.eye(len(kept))
    return np.asarray(answer, np.float64)


def reexpression_noise(reading: Reading, moment: FloatArray) -> FloatArray:
    """The variance of the noise that each channel counts with, (n,); ``moment`` is its ``second_moment``.

    ``REEXPRESSION`` of the mean energy, so that a channel of little energy cannot stand for one of much; and
    at least ``FLOOR / 4`` of the channel's own mean square, so that one that hardly varies about its mean
    cannot either: since ``‖A_j √noise‖ ≤ deviation_j / 2``, ``|A_ji| · rms_i ≤ GROWTH · deviation_j``.
    """
    common = REEXPRESSION * max(float(np.diagonal(moment).mean()), 1e-30)
    return np.maximum(common, FLOOR / 4.0 * reading.energy())


def reconstruction_cost(readings: Sequence[Reading], kept: IntArray, ridge: float = 1e-8) -> float:
    """The damage left after each reader re-expresses every removed channel by all kept ones.

    ``Σ_r tr(H_r · Schur complement of S_r on kept)``, in units of the readers' squared outputs.
    """
    total = 0.0
    for reading in merge_readings(readings):
        moment = reading.second_moment()
        total += _damage(reading, moment, reconstruction(moment, kept, ridge), kept)
    return total


def damage(readings: Sequence[Reading], target: IntArray) -> float:
    """The exact damage of a re-routing, cross terms between removed channels included.

    The cost of a selection problem adds the channels' damages as if their errors were uncorrelated; this is
    ``Σ_r tr(H_r (I − T) S_r (I − T)ᵀ)`` for the map T that ``target`` (n,) and the best scales describe.
    """
    kept = np.flatnonzero(target == np.arange(len(target)))
    total = 0.0
    for reading in readings:
        routing = np.zeros((len(target), len(kept)))
        routed = np.flatnonzero(target >= 0)
        routing[routed, np.searchsorted(kept, target[routed])] = routing_scales(reading, target)[routed]
        total += _damage(reading, reading.second_moment(), routing, kept)
    return total


def _damage(reading: Reading, moment: FloatArray, routing: FloatArray, kept: IntArray) -> float:
    """``tr(H E S Eᵀ)`` for the error map ``E = I − routing`` of which only removed rows are not zero."""
    removed = np.setdiff1d(np.arange(reading.size), kept)
    error = np.eye(reading.size)[removed]
    error[:, kept] -= routing[removed]
    residual = error @ moment @ error.T
    return max(float(np.sum(reading.gain[np.ix_(removed, removed)] * residual)), 0.0)


def inverse_or_zero(energy: FloatArray) -> FloatArray:
    """``1 / energy`` where it is positive, else 0: nothing can be explained by a dead channel."""
    return np.divide(1.0, energy, out=np.zeros_like(energy), where=energy > 0.0)


def _common_size(readings: Sequence[Reading]) -> int:
    if not readings:
        raise DataError("channel cost: no reading is given; a dim that nothing reads can be removed whole")
    for reading in readings:
        if reading.size != readings[0].size:
            raise DataError(
                f"channel cost: reading {reading.name!r} has {reading.size} channels, "
                f"{readings[0].name!r} has {readings[0].size}; pass the readers of one dim"
            )
    return readings[0].size
