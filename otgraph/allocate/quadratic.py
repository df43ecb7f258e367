"""Least damage where candidates act on each other's: linear programs at the incumbent, and local search.

With vectors of its candidates the damage of a choice is ``Σ d_c + w (|Σ v_c|² − Σ |v_c|²)``. Taken in parts
(a share of each candidate) the same is ``Σ (d_c − w |v_c|²) x_c + w |Σ v_c x_c|²``: convex, equal to the
damage for whole choices, so its tangent anywhere is a lower bound of it everywhere. Each tangent is a problem
without interaction: its solution is the next candidate, its bound a bound of the whole, and the point of the
next tangent lies between (Frank and Wolfe, 1956). Every candidate is then improved by exact local search.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from otgraph.allocate.choice import Choice
from otgraph.allocate.cp_sat import Limits, Solution, solve_damage
from otgraph.allocate.interaction import Interaction, Key
from otgraph.allocate.problem import TOLERANCE, Problem, raised

Vector = npt.NDArray[np.float64]

ROUNDS = 3
"""Tangents that are solved."""

EFFORT = 0.5
"""CP-SAT's deterministic seconds for each: near the incumbent most is decided."""

SWAPS = 24
"""Of each sort, moves that save time and moves that undo damage, so many are looked at in pairs."""

MOVES = 40
"""Local search stops after so many."""

LEAST = 1e-6
"""What a move must gain, of the whole."""


@dataclass(frozen=True, eq=False)
class Tangent:
    """The damage's tangent at a point: ``constant``, and a figure for each candidate of the dims and each
    option, of any sign. ``state``: ``Σ v_c x_c`` at the point."""

    problem: Problem
    interaction: Interaction
    state: Vector

    @staticmethod
    def at(problem: Problem, choice: Choice) -> Tangent:
        """The tangent at a choice. Raises ``ValueError`` where there is no interaction."""
        if problem.interaction is None:
            raise ValueError("a problem without interaction has no tangent but itself")
        return Tangent(problem, problem.interaction, _state(problem, problem.interaction, choice))

    def toward(self, choice: Choice, share: float) -> Tangent:
        """The tangent at a point that lies ``share`` of the way to ``choice``."""
        there = _state(self.problem, self.interaction, choice)
        return replace(self, state=(1 - share) * self.state + share * there)

    @property
    def constant(self) -> float:
        """What no candidate changes."""
        return -self.interaction.weight * float(self.state @ self.state)

    def of(self, key: Key, damage: float) -> float:
        """The figure of a candidate that does ``damage`` alone."""
        vector = self.interaction.vectors.get(key)
        if vector is None:
            return damage
        weight = self.interaction.weight
        return damage - weight * float(vector @ vector) + 2 * weight * float(self.state @ vector)

    @property
    def options(self) -> Mapping[str, float]:
        """The figures of the options."""
        return {option.name: self.of(option.name, option.damage) for option in self.problem.options}

    def linear(self) -> tuple[Problem, float]:
        """A problem without interaction, and what is to be added to its damage to have the tangent's, or
        less than that.

        Its damages must not be negative. Exactly one of the widths of a dim and of the options that absorb
        it is chosen, so a dim's figures and those options' are raised together; an option's that is negative
        still counts nothing, and is lost to the bound.
        """
        problem, lost = self.problem, 0.0
        lifts: dict[str, float] = {}
        dims = list(problem.dims)
        for at, dim in enumerate(dims):
            figures = [self.of((dim.name, k), d) for k, d in zip(dim.widths, dim.damages, strict=True)]
            lifts[dim.name] = max(-min(figures), 0.0)
            dims[at] = replace(dim, damages=tuple(f + lifts[dim.name] for f in figures))
        options = list(problem.options)
        for at, option in enumerate(options):
            figure = self.of(option.name, option.damage) + sum(lifts[name] for name in option.absorbs)
            lost += min(figure, 0.0)
            options[at] = replace(option, damage=max(figure, 0.0))
        plain = replace(problem, dims=tuple(dims), options=tuple(options), interaction=None)
        return plain, self.constant - sum(lifts.values()) + lost


def least_damage(problem: Problem, budget: float, start: Choice, limits: Limits) -> Solution:
    """Least damage with time at most ``budget``, never worse than ``start``, which keeps it."""
    best, bound = _searched(problem, budget, start), 0.0
    tangent = Tangent.at(problem, best)
    short = replace(limits, effort=min(EFFORT, limits.effort))
    for number in range(ROUNDS):
        plain, shift = tangent.linear()
        found = solve_damage(plain, budget, best, short)
        bound = max(bound, found.bound + shift)
        candidate = _searched(problem, budget, found.choice)
        if problem.damage(candidate) < problem.damage(best):
            best = candidate
        tangent = tangent.toward(found.choice, 2 / (number + 3))
    damage = problem.damage(best)
    return Solution(best, min(bound, damage), "optimal" if bound >= damage * (1 - TOLERANCE) else "feasible")


def _state(problem: Problem, interaction: Interaction, choice: Choice) -> Vector:
    vectors = [interaction.vectors[key] for key in problem.parts(choice) if key in interaction.vectors]
    return np.sum(vectors, axis=0) if vectors else np.zeros(interaction.samples)


def _searched(problem: Problem, budget: float, start: Choice) -> Choice:
    """Local search from ``start``: the best single move that fits, else the best exchange of one that saves
    time for one that undoes damage, until none is left."""
    best, damage = start, problem.damage(start)
    most = max(raised(budget, TOLERANCE), problem.time(start))
    for _ in range(MOVES):
        moves = [(choice, problem.damage(choice), problem.time(choice)) for choice in _moves(problem, best)]
        fits = [(d, choice) for choice, d, t in moves if t <= most]
        found = min(fits, key=lambda each: each[0], default=None)
        if found is None or found[0] >= damage * (1 - LEAST):
            found = _exchange(problem, best, damage, most, moves)
        if found is None or found[0] >= damage * (1 - LEAST):
            return best
        damage, best = found
    return best


def _exchange(
    problem: Problem, best: Choice, damage: float, most: float, moves: list[tuple[Choice, float, float]]
) -> tuple[float, Choice] | None:
    """The best pair of moves: one that undoes damage and takes too long, one that saves time."""
    now = problem.time(best)
    undoing = sorted((d, at) for at, (_, d, _t) in enumerate(moves) if d < damage)[:SWAPS]
    saving = sorted(
        ((d - damage) / (now - t), at) for at, (_, d, t) in enumerate(moves) if t < now and d >= damage
    )[:SWAPS]
    found: tuple[float, Choice] | None = None
    for _, one in undoing:
        for _, other in saving:
            if moves[one][2] + moves[other][2] - now > most * 1.02:
                continue  # times nearly add up
            both = _joined(best, moves[one][0], moves[other][0])
            if both is None:
                continue
            try:
                time, harm = problem.time(both), problem.damage(both)
            except ValueError:
                continue  # options that exclude each other
            if time <= most and harm < (damage if found is None else found[0]):
                found = harm, both
    return found


def _joined(base: Choice, one: Choice, other: Choice) -> Choice | None:
    """Both changes of ``base``; None where they change the same."""
    widths = dict(base.widths)
    for name, k in base.widths.items():
        changed = [each.widths[name] for each in (one, other) if each.widths[name] != k]
        if len(changed) == 2:
            return None
        widths[name] = changed[0] if changed else k
    options = set(base.options)
    flips = [set(each.options) ^ options for each in (one, other)]
    return None if flips[0] & flips[1] else Choice(widths, tuple(options ^ flips[0] ^ flips[1]))


def _moves(problem: Problem, choice: Choice) -> Iterator[Choice]:
    """Every change of one dim by one or two candidates, and of one option; an option gives up those that it
    excludes."""
    levels = problem.levels(choice)
    absorbed = {name for option in problem.chosen(choice.options) for name in option.absorbs}
    for dim, level in zip(problem.dims, levels, strict=True):
        for step in (-2, -1, 1, 2):
            if dim.name not in absorbed and 0 <= level + step < len(dim.widths):
                yield Choice({**choice.widths, dim.name: dim.widths[level + step]}, choice.options)
    for at, option in enumerate(problem.options):
        if option.name in choice.options:
            left = tuple(name for name in choice.options if name != option.name)
            yield Choice(choice.widths, left)
            continue
        excluded = {problem.options[other].name for other in problem.exclusions[at]}
        kept = tuple(name for name in choice.options if name not in excluded)
        widths = {**choice.widths, **{d.name: d.widths[0] for d in problem.dims if d.name in option.absorbs}}
        yield Choice(widths, (*kept, option.name))
