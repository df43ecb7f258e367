"""How much of a price the repair undoes: a regression of trials on prices, with its uncertainty.

Prices are first-order and know no refit: where layers after a cut are refitted, that undoes part of it, more
of it for early layers. So a few candidates are tried, and ``log(trial / price)`` is regressed on where in the
network a candidate lies, how much it removes, of what kind it is, and which dim or span it belongs to: a
Gaussian process (Rasmussen and Williams, 2006, chapter 2), whose posterior variance is the uncertainty of
every healed price, and says what is worth a trial next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PRIOR_MEAN = 0.0
"""Of log(trial / price): a price takes re-expression for granted, which is what trials do first."""

LEVEL, KIND, PLACE, SIZE, PART, NOISE = 1.0, 0.3, 0.6, 0.2, 0.25, 0.05
"""Variances of what candidates have in common: everything, the kind, the place in the network, the size of
the price, the part; and of what they do not."""

WHOLE = 0.02
"""Of a whole: what its parts do to each other's repair. 0.02 is a factor of 1.15 either way."""

PLACE_SCALE, SIZE_SCALE, SHARE_SCALE = 0.3, 3.0, 0.4

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The variances are taken as a whole times one of these, by the marginal likelihood of the trials."""


@dataclass(frozen=True)
class Subject:
    """A candidate as the regression sees it. ``kind``: ``width``, or that of a map. ``place``: where in the
    program it is, from 0 to 1. ``share``: of its part that goes, from 0 to 1. ``part``: the dim or the span's
    name. ``price``: its first-order damage."""

    kind: str
    place: float
    share: float
    part: str
    price: float


@dataclass(frozen=True, eq=False)
class Observation:
    """What one trial says: ``Σ weights · log(trial / price)`` over ``subjects`` is ``value``. One subject
    tried alone has weight 1. A whole of many is ``log Σ price · exp(m)``, which near ``m`` is linear in it
    with each part's share as its weight; ``noise``: the variance of what that leaves out."""

    subjects: tuple[Subject, ...]
    weights: Floats
    value: float
    noise: float = 0.0

    @staticmethod
    def alone(subject: Subject, damage: float) -> Observation:
        """A subject tried by itself."""
        ratio = math.log(max(damage, 1e-12) / max(subject.price, 1e-12))
        return Observation((subject,), np.ones(1), ratio)

    @staticmethod
    def whole(subjects: Sequence[Subject], means: Floats, expected: float, damage: float) -> Observation:
        """All of ``subjects`` tried together. ``means``: what was known of each log(trial / price);
        ``expected``: the damage that was expected of the whole."""
        parts = np.array([subject.price for subject in subjects]) * np.exp(means)
        weights = parts / max(float(parts.sum()), 1e-30)
        off = math.log(max(damage, 1e-12) / max(expected, 1e-12))
        return Observation(tuple(subjects), weights, float(weights @ means) + off, WHOLE)


@dataclass(frozen=True, eq=False)
class Healing:
    """What trials say: ``of`` a subject the mean and the standard deviation of log(trial / price)."""

    seen: tuple[Observation, ...] = ()
    scale: float = 1.0

    @staticmethod
    def fit(seen: Sequence[Observation]) -> Healing:
        """From what was observed; the scale of the variances is that of the greatest likelihood."""
        if not seen:
            return Healing()
        covariance, values = _between(seen, seen), _residuals(seen)
        best = max(SCALES, key=lambda scale: _likelihood(covariance, values, _noise(seen), scale))
        return Healing(tuple(seen), best)

    def of(self, subjects: Sequence[Subject]) -> tuple[Floats, Floats]:
        """The mean and the standard deviation of log(trial / price) of each of ``subjects``, shape (n,)."""
        prior = self.scale * _own_variance()
        if not self.seen:
            return np.full(len(subjects), PRIOR_MEAN), np.full(len(subjects), math.sqrt(prior))
        half, residual = self._conditioned(subjects)
        variance = prior - np.square(half).sum(0)
        return PRIOR_MEAN + half.T @ residual, np.sqrt(np.maximum(variance, 1e-12))

    def draw(self, subjects: Sequence[Subject], seed: int) -> Floats:
        """One function drawn from the posterior: log(trial / price) of each of ``subjects`` as it may well
        be, jointly."""
        covariance, mean = self.scale * _covariance(subjects, subjects), np.full(len(subjects), PRIOR_MEAN)
        if self.seen:
            half, residual = self._conditioned(subjects)
            covariance, mean = covariance - half.T @ half, mean + half.T @ residual
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        noise = np.random.default_rng(seed).standard_normal(len(subjects))
        return mean + vectors @ (np.sqrt(np.maximum(values, 0.0)) * noise)

    def _conditioned(self, subjects: Sequence[Subject]) -> tuple[Floats, Floats]:
        """``F⁻¹ K(seen, subjects)`` and ``F⁻¹ (values − prior)``, with F the factor of what was seen."""
        cross = self.scale * np.stack([o.weights @ _covariance(o.subjects, subjects) for o in self.seen])
        factor = _factor(_between(self.seen, self.seen), _noise(self.seen), self.scale)
        half, residual = np.linalg.solve(factor, cross), np.linalg.solve(factor, _residuals(self.seen))
        return np.asarray(half, np.float64), np.asarray(residual, np.float64)

    def residual(self) -> float:
        """The root mean square of what the log(trial / price) of each subject that was tried alone is off by
        when all other trials predict it; infinite for fewer than three."""
        alone = [at for at, observation in enumerate(self.seen) if len(observation.subjects) == 1]
        if len(alone) < 3:
            return math.inf
        factor = _factor(_between(self.seen, self.seen), _noise(self.seen), self.scale)
        inverse = np.linalg.inv(factor)
        precision = inverse.T @ inverse
        left = precision @ _residuals(self.seen) / np.diagonal(precision)
        return float(np.sqrt(np.square(left[alone]).mean()))


def spread(subjects: Mapping[str, Subject], count: int, known: Sequence[Subject] = ()) -> list[str]:
    """Which of ``subjects`` to try: one after the other that of which the others so far tell least, so that
    they are spread over place, size and kind. Deterministic."""
    names = sorted(subjects)
    pool = [subjects[name] for name in names]
    chosen: list[int] = []
    seen = list(known)
    prior = _own_variance()
    while len(chosen) < min(count, len(pool)):
        if seen:
            factor = _factor(_covariance(seen, seen), np.full(len(seen), NOISE), 1.0)
            half = np.linalg.solve(factor, _covariance(pool, seen).T)
            variance = prior - np.square(half).sum(0)
        else:
            covariance = _covariance(pool, pool)
            variance = np.square(covariance).sum(0) / np.diagonal(covariance)  # what tells most of all
        variance[chosen] = -np.inf
        best = int(np.argmax(variance))
        chosen.append(best)
        seen.append(pool[best])
    return [names[at] for at in chosen]


def _own_variance() -> float:
    return LEVEL + KIND + PLACE + SIZE + PART + NOISE


def _covariance(one: Sequence[Subject], other: Sequence[Subject]) -> Floats:
    def column(values: Sequence[Subject], name: str) -> npt.NDArray[np.generic]:
        return np.array([getattr(value, name) for value in values])

    def same(name: str) -> Floats:
        return (column(one, name)[:, None] == column(other, name)[None]).astype(np.float64)

    def near(name: str, scale: float, *, log: bool = False) -> Floats:
        a, b = (column(values, name).astype(np.float64) for values in (one, other))
        if log:
            a, b = (np.log(np.maximum(values, 1e-12)) for values in (a, b))
        return np.exp(-0.5 * np.square((a[:, None] - b[None]) / scale))

    alike = same("part") * near("share", SHARE_SCALE)
    return (
        LEVEL
        + KIND * same("kind")
        + PLACE * near("place", PLACE_SCALE)
        + SIZE * near("price", SIZE_SCALE, log=True)
        + PART * alike
    )


def _between(one: Sequence[Observation], other: Sequence[Observation]) -> Floats:
    found = [[a.weights @ _covariance(a.subjects, b.subjects) @ b.weights for b in other] for a in one]
    return np.array(found, np.float64)


def _noise(seen: Sequence[Observation]) -> Floats:
    """The variance of each observation that it shares with no other; a whole averages over its parts."""
    return np.array([NOISE * float(o.weights @ o.weights) + o.noise for o in seen])


def _residuals(seen: Sequence[Observation]) -> Floats:
    return np.array([o.value - PRIOR_MEAN * float(o.weights.sum()) for o in seen])


def _factor(covariance: Floats, noise: Floats, scale: float) -> Floats:
    return np.asarray(np.linalg.cholesky(scale * (covariance + np.diag(noise))), np.float64)


def _likelihood(covariance: Floats, values: Floats, noise: Floats, scale: float) -> float:
    factor = _factor(covariance, noise, scale)
    residual = np.linalg.solve(factor, values)
    return -0.5 * float(residual @ residual) - float(np.log(np.diagonal(factor)).sum())
