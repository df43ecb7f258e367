"""How much of a price the repair undoes: a regression of trials on prices, with its uncertainty.

Prices are first-order and know no repair: layers after a cut are refitted, which undoes part of it, more of
it for early layers. So a few candidates are tried, and ``log(trial / price)`` is regressed on where in the
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

PRIOR_MEAN = -0.5
"""Of log(trial / price): on the networks that this was measured on, between −1.8 (digits) and −0.3."""

LEVEL, KIND, PLACE, SIZE, PART, NOISE = 1.0, 0.3, 0.6, 0.2, 0.25, 0.05
"""Variances of what candidates have in common: everything, the kind, the place in the network, the size of
the price, the part; and of what they do not."""

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
class Healing:
    """What trials say: ``of`` a subject the mean and the standard deviation of log(trial / price)."""

    subjects: tuple[Subject, ...] = ()
    ratios: tuple[float, ...] = ()
    """log(trial / price) of each of ``subjects``."""
    scale: float = 1.0

    @staticmethod
    def fit(trials: Sequence[tuple[Subject, float]]) -> Healing:
        """From (subject, damage measured) pairs, all positive."""
        subjects = tuple(subject for subject, _ in trials)
        ratios = tuple(math.log(max(damage, 1e-12) / max(subject.price, 1e-12)) for subject, damage in trials)
        if not trials:
            return Healing()
        best = max(SCALES, key=lambda scale: _likelihood(subjects, np.array(ratios), scale))
        return Healing(subjects, ratios, best)

    def of(self, subjects: Sequence[Subject]) -> tuple[Floats, Floats]:
        """The mean and the standard deviation of log(trial / price) of each of ``subjects``, shape (n,)."""
        prior = self.scale * _own_variance()
        if not self.subjects:
            return np.full(len(subjects), PRIOR_MEAN), np.full(len(subjects), math.sqrt(prior))
        cross = self.scale * _covariance(subjects, self.subjects)
        factor = _factor(self.subjects, self.scale)
        half = np.linalg.solve(factor, cross.T)
        residual = np.linalg.solve(factor, np.array(self.ratios) - PRIOR_MEAN)
        variance = prior - np.square(half).sum(0)
        return PRIOR_MEAN + half.T @ residual, np.sqrt(np.maximum(variance, 1e-12))

    def residual(self) -> float:
        """The root mean square of what each trial's log(trial / price) is off by when the others predict it;
        infinite for fewer than three."""
        if len(self.subjects) < 3:
            return math.inf
        factor = _factor(self.subjects, self.scale)
        inverse = np.linalg.inv(factor)
        precision = inverse.T @ inverse
        left = precision @ (np.array(self.ratios) - PRIOR_MEAN) / np.diagonal(precision)
        return float(np.sqrt(np.square(left).mean()))


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
            half = np.linalg.solve(_factor(seen, 1.0), _covariance(pool, seen).T)
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


def _factor(subjects: Sequence[Subject], scale: float) -> Floats:
    covariance = _covariance(subjects, subjects) + NOISE * np.eye(len(subjects))
    return np.linalg.cholesky(scale * covariance)


def _likelihood(subjects: Sequence[Subject], ratios: Floats, scale: float) -> float:
    factor = _factor(subjects, scale)
    residual = np.linalg.solve(factor, ratios - PRIOR_MEAN)
    return -0.5 * float(residual @ residual) - float(np.log(np.diagonal(factor)).sum())
