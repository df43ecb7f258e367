"""The closed loop: allocate, build, measure, correct, until the clock (or the measured damage) agrees."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from otgraph.allocate.allocation import Allocation, minimise_damage, minimise_time
from otgraph.allocate.choice import Choice
from otgraph.allocate.problem import Problem
from otgraph.errors import UsageError
from otgraph.graph.graph import Graph
from otgraph.latency.protocol import Comparison
from otgraph.optimize.interaction import corrected, readings
from otgraph.optimize.settings import Settings
from otgraph.optimize.stopwatch import Stopwatch
from otgraph.optimize.time_line import TimeLine
from otgraph.optimize.trial import Trial

STEP = 1.25
"""By so much more than in proportion the next candidate may be faster than one that was too slow."""


@dataclass(frozen=True)
class Candidate:
    """An allocation, its measured ratio to the original's time, and the model of time after that
    measurement."""

    allocation: Allocation
    ratio: float
    model: TimeLine

    @property
    def cut(self) -> Choice:
        """What was allocated."""
        return self.allocation.choice


class Loop:
    """Searches the cuts of ``problem``.

    ``build`` makes the network of a cut without repairs (weights do not matter to the clock). ``residual``
    names the dims that one of the readings leaves whole.
    """

    def __init__(
        self,
        problem: Problem,
        trial: Trial,
        clock: Stopwatch,
        build: Callable[[Choice], Graph],
        residual: Collection[str],
        settings: Settings,
    ) -> None:
        self.problem = problem
        self.trial = trial
        self.clock = clock
        self.build = build
        self.residual = residual
        self.settings = settings
        self.base = problem.time(problem.full())
        self.start = 1.0
        self.vetoes: dict[str, Comparison] = {}

    def by_latency(self, target: float) -> Candidate:
        """The candidate of least damage whose measured ratio is within ``target``.

        The first allocation teaches the model of time; then other readings of the damages are tried whole,
        and the best of them is corrected by what its parts were seen to do within it. Merges that the clock
        does not reward are taken out, and what is left of the budget is given back.

        Raises:
            UsageError: the target is out of reach.
        """
        self.settings.progress("measuring what simplifying gains")
        simplified = self.clock.ratio(self.build(Choice({})))
        self.start = simplified.ratio if simplified.credible_gain else 1.0
        best = self._searched(target)
        while refused := self._refused(best.cut):
            self._drop(refused)
            best = self._searched(target)
        return self._given_back(best, target)

    def _searched(self, target: float) -> Candidate:
        best = self._within(target, self._line())
        damage = self.trial.damage(best.cut)
        problem, expected = self._best_reading(best, damage, target)
        for _ in range(self.settings.corrections):
            start = self._allocated(problem, best.model, target)
            found = corrected(
                problem, start, self.trial, expected, self.settings.trial_seconds, self.settings.progress
            )
            if found is None:
                break
            again = self.trial.damage(self._allocated(found, best.model, target))
            if again >= expected:
                break
            problem, expected = found, again
        if expected < damage:
            other = self._within(target, best.model, problem)
            measured = self.trial.damage(other.cut)
            if measured < damage and not _miss(other.ratio, target, self.settings.tolerance)[0]:
                best = other
        return best

    def by_damage(self, limit: float, measured: Callable[[Choice], float]) -> Candidate:
        """The candidate of least time whose damage is within ``limit``: what allocations are predicted to do
        is scaled by what they measure, built and repaired (``measured``, in the units of ``limit``).

        Raises:
            UsageError: none of the candidates stayed within it.
        """
        trust, fitting, model = 1.0, None, self._line()
        for number in range(1, self.settings.rounds + 1):
            allocation = minimise_time(self.problem, limit * trust)
            self.settings.progress(f"building and repairing candidate {number}")
            found = measured(allocation.choice)
            if found <= limit and (fitting is None or allocation.time < fitting.time):
                fitting = allocation
            step = min(max(limit / max(found, 1e-12), 0.25), 4.0)
            if 1.0 <= step <= 1.15:
                break
            trust *= step * (0.95 if step < 1 else 1.0)
        if fitting is None:
            raise UsageError(
                f"max-drop {self.settings.budget.value:g}: no candidate stayed within it on held-out inputs;"
                " allow more"
            )
        cut = fitting.choice
        if refused := self._refused(cut):
            self._drop(refused)
            return self.by_damage(limit, measured)
        return Candidate(fitting, self.clock.ratio(self.build(cut)).ratio, model)

    def _line(self) -> TimeLine:
        """From summed node times to latency, before a candidate was measured."""
        return TimeLine(self.base, slope=1.0, start=self.start)

    def _refused(self, cut: Choice) -> list[str]:
        """The collapses of ``cut`` that put something in the place of what they remove, and that the clock
        does not reward: without them, all else the same, the network is not credibly slower.

        A collapse that only deletes is not asked about.
        """
        whole: Graph | None = None
        for option in self.problem.options:
            if option.name not in cut.options or not option.adds or option.name in self.vetoes:
                continue
            whole = self.build(cut) if whole is None else whole
            self.settings.progress(f"does {option.name} pay?")
            others = tuple(name for name in cut.options if name != option.name)
            found = self.clock.between(self.build(Choice(cut.widths, others)), whole)
            self.vetoes[option.name] = found
        return [name for name in cut.options if name in self.vetoes and not self.vetoes[name].credible_gain]

    def _drop(self, names: Collection[str]) -> None:
        options = tuple(option for option in self.problem.options if option.name not in names)
        self.problem = replace(self.problem, options=options)

    def _given_back(self, best: Candidate, target: float) -> Candidate:
        """Widen what the clock does not reward: no sum of nodes predicts a network's time to the last
        percent.

        Dims are given one candidate width back, those first that it helps most, wherever the measured ratio
        stays within the budget.
        """
        started = time.process_time()
        current, refused, earlier = best, set[str](), [best]
        damage = self.trial.damage(best.cut)
        while True:
            names = [n for n in self._by_relief(current.cut.widths) if n not in refused]
            if not names or time.process_time() - started > self.settings.trial_seconds:
                return self._confirmed(earlier, target)
            name = names[0]
            wider = self._widened(current, name)
            less = self.trial.damage(wider.choice)
            if less >= damage:
                refused.add(name)
                continue
            self.settings.progress(f"giving {name} back some width")
            ratio = self.clock.ratio(self.build(wider.choice)).ratio
            if ratio <= max(target * (1 + self.settings.tolerance / 2), current.ratio):
                current, damage = replace(current, allocation=wider, ratio=ratio), less
                earlier.append(current)
            else:
                refused.add(name)

    def _confirmed(self, candidates: Sequence[Candidate], target: float) -> Candidate:
        """The last of ``candidates`` that is within the budget when it is measured once more: what was kept
        for its measurement owes some of it to luck."""
        for candidate in reversed(candidates[1:]):
            self.settings.progress("measuring once more")
            ratio = self.clock.ratio(self.build(candidate.cut)).ratio
            if ratio <= max(target * (1 + self.settings.tolerance / 2), candidates[0].ratio):
                return replace(candidate, ratio=ratio)
        return candidates[0]

    def _widened(self, current: Candidate, name: str) -> Allocation:
        """The allocation with one dim a candidate wider; nothing is proved of it."""
        old = current.allocation
        candidates = self._candidates(name)
        kept = old.choice.widths
        wider = replace(old.choice, widths={**kept, name: candidates[candidates.index(kept[name]) - 1]})
        return replace(old, choice=wider, time=self.problem.time(wider), objective=math.inf)

    def _candidates(self, name: str) -> tuple[int, ...]:
        return next(choice.widths for choice in self.problem.dims if choice.name == name)

    def _by_relief(self, widths: Mapping[str, int]) -> list[str]:
        """The dims that are cut, those first whose curve falls most with the next wider candidate."""
        relief: dict[str, float] = {}
        for choice in self.problem.dims:
            at = choice.widths.index(widths[choice.name])
            if at:
                relief[choice.name] = choice.damages[at] - choice.damages[at - 1]
        return sorted(relief, key=lambda name: -relief[name])

    def _best_reading(self, best: Candidate, damage: float, target: float) -> tuple[Problem, float]:
        found = (self.problem, damage)
        budget = best.model.budget_for(target) or 0.0
        for name, problem in readings(self.problem, self.residual).items():
            try:
                cut = minimise_damage(problem, budget).choice
            except UsageError:
                continue  # out of reach with these moves alone
            self.settings.progress(f"trying the {name} allocation whole")
            damage = self.trial.damage(cut)
            if damage < found[1]:
                found = (problem, damage)
        return found

    def _allocated(self, problem: Problem, model: TimeLine, target: float) -> Choice:
        budget = max(model.budget_for(target) or 0.0, _least(problem))
        return minimise_damage(problem, budget).choice

    def _within(self, target: float, model: TimeLine, problem: Problem | None = None) -> Candidate:
        """Each measurement corrects the line from summed node times to latency until the clock agrees."""
        tried: list[Candidate] = []
        for number in range(1, self.settings.rounds + 1):
            budget = self._bracketed(model.budget_for(target) or 0.0, tried, target)
            allocation = self._allocate(problem or self.problem, budget, model, target)
            if any(candidate.cut == allocation.choice for candidate in tried):
                break  # the corrected line asks for the same again
            self.settings.progress(f"measuring candidate {number}")
            ratio = self.clock.ratio(self.build(allocation.choice)).ratio
            model = model.corrected(allocation.time, ratio)
            tried.append(Candidate(allocation, ratio, model))
            if abs(ratio / target - 1) <= self.settings.tolerance:
                break
        return min(tried, key=lambda c: _miss(c.ratio, target, self.settings.tolerance))

    def _bracketed(self, budget: float, tried: Sequence[Candidate], target: float) -> float:
        """``budget``, held to what the measurements so far allow.

        One reading that is off can turn the line flat, and a flat line asks for everything to be cut. So the
        next candidate is at most ``STEP`` times faster than in proportion to the fastest that was too slow,
        and slower than the slowest that was fast enough.
        """
        slow = [c for c in tried if c.ratio > target * (1 + self.settings.tolerance)]
        fast = [c.allocation.time for c in tried if c not in slow]
        most = min((c.allocation.time for c in slow), default=self.base)
        if slow:
            nearest = min(slow, key=lambda c: c.allocation.time)
            budget = max(budget, nearest.allocation.time * target / nearest.ratio / STEP)
        if fast and budget <= max(fast):
            budget = (max(fast) + max(most, max(fast))) / 2
        return budget

    def _allocate(self, problem: Problem, budget: float, model: TimeLine, target: float) -> Allocation:
        least = _least(problem)
        if budget < least and model.points:
            budget = least  # the line was corrected downwards past what can be cut: go as far as possible
        if budget < least:
            raise UsageError(
                f"latency {target:.3g}x: out of reach; the smallest predicted with these dims, widths and"
                f" spans is {model.ratio(least):.3f}x; ask for that or more, or let more dims be cut"
            )
        return minimise_damage(problem, budget)


def _least(problem: Problem) -> float:
    """The least time of all."""
    return minimise_time(problem, math.inf).time


def _miss(ratio: float, target: float, tolerance: float) -> tuple[bool, float]:
    """Candidates within the budget come first, then the nearest."""
    return ratio > target * (1 + tolerance), abs(ratio / target - 1)
