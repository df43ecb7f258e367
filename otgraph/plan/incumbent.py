"""A good allocation at once, by steepest ratio: the start of the exact search, and what it may never fall
behind."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from otgraph.plan.problem import Levels, Problem, raised

Floats = npt.NDArray[np.float64]
_SLACK = 1e-12


def least_damage_start(problem: Problem, budget: float) -> Levels:
    """Levels whose time is at most ``budget``, which the least levels must meet: the steps that save most
    time per
    damage until it is met, then the steps back that fit."""
    walk = _Walk(problem)
    while walk.time > raised(budget, _SLACK) and walk.step_down(np.inf):
        pass
    while walk.step_up(raised(budget, _SLACK)):
        pass
    return walk.levels()


def least_time_start(problem: Problem, limit: float) -> Levels:
    """Levels whose damage is at most ``limit``: the steps that save most time per damage, as long as one
    fits."""
    walk = _Walk(problem)
    while walk.step_down(raised(limit, _SLACK)):
        pass
    return walk.levels()


class _Walk:
    """A point that moves one dim at a time, with the effect of every possible move in one table."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        count, most = len(problem.choices), max((len(c.widths) for c in problem.choices), default=0)
        self.widths = np.ones((count, most))
        self.damages = np.full((count, most), np.inf)
        for i, choice in enumerate(problem.choices):
            self.widths[i, : len(choice.widths)] = choice.widths
            self.damages[i, : len(choice.damages)] = choice.damages
        self.at = np.array([int(np.argmin(c.damages)) for c in problem.choices], np.int64)
        self.rows = np.arange(count)
        self.coefficients = np.array([term.coefficient for term in problem.varying])
        powers = range(int(problem.exponents.max(initial=0)) + 1)
        self.members = [(power, (problem.exponents == power).astype(np.float64)) for power in powers]

    def levels(self) -> Levels:
        """Where the walk stands."""
        return tuple(int(level) for level in self.at)

    @property
    def time(self) -> float:
        return self.problem.time(self.levels())

    @property
    def damage(self) -> float:
        return self.problem.damage(self.levels())

    def times(self) -> Floats:
        """The time after moving one dim to one candidate, shape (dims, candidates)."""
        now = self.widths[self.rows, self.at]
        values = self.coefficients * np.exp(self.problem.exponents @ np.log(now))
        ratio = self.widths / now[:, None]
        moved = np.zeros_like(ratio)
        for power, member in self.members:
            moved += (values @ member)[:, None] * ratio**power
        return moved + self.problem.fixed

    def step_down(self, limit: float) -> bool:
        """Take the move that saves most time per damage, of those that keep the damage at most ``limit``."""
        saved = self.time - self.times()
        harm = self.damages - self.damages[self.rows, self.at][:, None]
        fits = (self.widths < self.widths[self.rows, self.at][:, None]) & np.isfinite(harm)
        fits &= (self.damage + harm <= limit) & (saved > 0)
        return self._move(np.where(fits, saved / np.maximum(harm, 1e-100), -np.inf))

    def step_up(self, budget: float) -> bool:
        """Take the move that undoes most damage among those that keep the time at most ``budget``."""
        harm = self.damages - self.damages[self.rows, self.at][:, None]
        fits = (harm < 0) & (self.times() <= budget)
        return self._move(np.where(fits, -harm, -np.inf))

    def _move(self, gains: Floats) -> bool:
        if not gains.size or not np.isfinite(gains.max()):
            return False
        row, level = np.unravel_index(int(gains.argmax()), gains.shape)
        self.at[row] = level
        return True
