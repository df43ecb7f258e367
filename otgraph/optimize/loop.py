"""The closed loop: allocate, build, measure, correct, until the clock (or the measured damage) agrees."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

from otgraph.allocate.allocation import Allocation, minimize_damage, minimize_time
from otgraph.allocate.choice import Choice
from otgraph.allocate.problem import TOLERANCE, DimOptions, Problem
from otgraph.errors import UsageError
from otgraph.graph.graph import Graph
from otgraph.latency.protocol import Comparison
from otgraph.optimize.clock import Clock
from otgraph.optimize.settings import Settings
from otgraph.optimize.time_line import TimeLine

CONFIRMED = 3
"""So often the result may be measured in full, each time moved nearer to the budget."""

STEP = 1.25
"""By so much more than in proportion the next candidate may be faster than one that was too slow."""


@dataclass(frozen=True)
class Workbench:
    """What the loop works with. ``build`` makes the network of a choice without repairs (weights do not
    matter to the clock); ``tried``: the damage of a choice, cut and repaired, in the problem's units;
    ``learned``: takes note of a choice that was tried whole, and gives the problem to look at next, by its
    number; ``wholes``: how many choices may be tried whole."""

    build: Callable[[Choice], Graph]
    clock: Clock
    tried: Callable[[Choice], float]
    learned: Callable[[Choice, float, int], Problem]
    wholes: int
    settings: Settings


@dataclass(frozen=True)
class Measured:
    """An allocation and its measured ratio to the original's time."""

    allocation: Allocation
    ratio: float

    @property
    def choice(self) -> Choice:
        """What was allocated."""
        return self.allocation.choice


@dataclass(frozen=True)
class State:
    """What the loop knows: the problem, the line from summed node times to latency, and what the clock said
    of collapses that put something in the place of what they remove, by name."""

    problem: Problem
    line: TimeLine
    vetoes: Mapping[str, Comparison] = field(default_factory=dict[str, Comparison])

    @cached_property
    def least(self) -> float:
        """The least time that nodes can take together."""
        return minimize_time(self.problem, math.inf).time

    @staticmethod
    def of(problem: Problem, start: float = 1.0) -> State:
        """Before anything is measured. ``start``: the ratio of the simplified original."""
        base = problem.time(problem.full())
        return State(problem, TimeLine(base, slope=1.0, start=start) if base > 0 else TimeLine(1.0))

    def without(self, names: Collection[str]) -> State:
        """The problem without these options."""
        options = tuple(option for option in self.problem.options if option.name not in names)
        return replace(self, problem=replace(self.problem, options=options))

    @property
    def refused(self) -> frozenset[str]:
        """The collapses that the clock does not reward."""
        return frozenset(name for name, found in self.vetoes.items() if not found.credible_gain)


@dataclass(frozen=True)
class Outcome:
    """The choice that was settled on, and the damage that it did when it was tried whole."""

    state: State
    best: Measured
    damage: float


def by_latency(problem: Problem, target: float, bench: Workbench) -> Outcome:
    """The choice of least damage whose measured ratio is within ``target``.

    The first allocation teaches the line from node times to latency. Its choice is tried whole; where other
    readings of the damages choose otherwise, those are tried too, and the best one stays. Merges that the
    clock does not reward are taken out.

    Raises:
        UsageError: the target is out of reach.
    """
    bench.settings.progress("measuring what simplifying gains")
    simplified = bench.clock.ratio(bench.build(Choice()), quick=True)
    state = State.of(problem, simplified.ratio if simplified.credible_gain else 1.0)
    state, best = _rewarded(state, target, bench)
    damage = bench.tried(best.choice)
    for rival in _searched(state, best, damage, bench):
        other, measured = _clocked(state, rival, target, bench)
        if measured is not None:
            state, best, damage = other, measured, rival.damage
            break
        state = replace(state, vetoes=other.vetoes)
    best, damage = _confirmed(state, best, damage, target, bench)
    return Outcome(state, best, damage)


def _confirmed(
    state: State, best: Measured, damage: float, target: float, bench: Workbench
) -> tuple[Measured, float]:
    """``best`` measured in full; and, where that is off the budget, the least harmful within it of what the
    corrected line asks for instead, with no other collapses: what was kept for a quick measurement owes some
    of it to luck."""
    tolerance = bench.settings.tolerance
    others = {option.name for option in state.problem.options} - set(best.choice.options)
    state = state.without(others)
    tried: list[tuple[Measured, float]] = []
    for number in range(CONFIRMED):
        bench.settings.progress("measuring in full")
        best = replace(best, ratio=bench.clock.ratio(bench.build(best.choice)).ratio)
        tried.append((best, damage))
        if abs(best.ratio / target - 1) <= tolerance or number == CONFIRMED - 1:
            break
        spent = best.allocation.time * target / best.ratio
        if spent < state.least:
            break
        allocation = minimize_damage(state.problem, spent)
        if any(
            _key(state.problem, each.choice) == _key(state.problem, allocation.choice) for each, _ in tried
        ):
            break
        best, damage = Measured(allocation, math.inf), bench.tried(allocation.choice)
    within = [(measured, did) for measured, did in tried if measured.ratio <= target * (1 + tolerance)]
    if within:
        return min(within, key=lambda each: each[1])
    return min(tried, key=lambda each: each[0].ratio)


@dataclass(frozen=True)
class Rival:
    """What was tried whole and the damage that it did; ``problem``: whose damages ask for it."""

    problem: Problem
    allocation: Allocation
    damage: float


def _searched(state: State, best: Measured, damage: float, bench: Workbench) -> list[Rival]:
    """Choices that take no more time than ``best`` and did less than ``damage`` when tried whole, the best
    first.

    Each is allocated by the damages as the trials so far leave them: as expected or as they may well be
    (Thompson sampling), with and without interactions, so that what trials of single candidates leave open is
    decided by wholes. A turn that would ask for what was tried goes to a neighbor of the best so far.
    """
    seen, latest, at = {_key(state.problem, best.choice)}, best.choice, damage
    found = [Rival(state.problem, best.allocation, damage)]
    for number in range(bench.wholes):
        problem = bench.learned(latest, at, number)
        problem = replace(state, problem=problem).without(state.refused).problem
        if number < len(SORTS):
            problem = SORTS[number](problem)
        try:
            allocation = minimize_damage(problem, best.allocation.time)
        except UsageError:
            continue  # out of reach with these moves alone
        if _key(problem, allocation.choice) in seen:
            start = min(found, key=_harm).allocation.choice
            nearest = _exchanged(problem, start, best.allocation.time, seen)
            if nearest is None:
                continue
            allocation = _instead(problem, allocation, nearest)
        seen.add(_key(problem, allocation.choice))
        bench.settings.progress(f"trying another allocation whole ({number + 1} of {bench.wholes})")
        latest, at = allocation.choice, bench.tried(allocation.choice)
        found.append(Rival(problem, allocation, at))
    return sorted((rival for rival in found if rival.damage < damage), key=_harm)


def _instead(problem: Problem, allocation: Allocation, choice: Choice) -> Allocation:
    """``choice`` in the place of what was allocated, with the same bound."""
    time, damage = problem.time(choice), problem.damage(choice)
    return replace(allocation, choice=choice, time=time, damage=damage, objective=damage)


def _harm(rival: Rival) -> float:
    return rival.damage


def _clocked(state: State, rival: Rival, target: float, bench: Workbench) -> tuple[State, Measured | None]:
    """``rival`` as the clock sees it; None where it is over the budget or a collapse of it does not pay."""
    problem, choice, time = rival.problem, rival.allocation.choice, rival.allocation.time
    bench.settings.progress("measuring the best of what was tried")
    ratio = bench.clock.ratio(bench.build(choice), quick=True).ratio
    state = replace(state, problem=problem, line=state.line.corrected(time, ratio))
    state = _asked(state, choice, bench)
    if state.refused & set(choice.options) or ratio > target * (1 + bench.settings.tolerance):
        return state, None
    return state, Measured(rival.allocation, ratio)


def _width(problem: Problem) -> Problem:
    return replace(problem, options=())


def _depth(problem: Problem) -> Problem:
    dims = tuple(replace(dim, widths=dim.widths[:1], damages=dim.damages[:1]) for dim in problem.dims)
    return replace(problem, dims=dims) if problem.options else problem


SORTS = (_width, _depth, _width)
"""What is tried first: each sort of moves alone, widths once more by what was learnt, so that both together
are seldom worse than either."""


def _exchanged(problem: Problem, choice: Choice, most: float, seen: Collection[str]) -> Choice | None:
    """The choice of least damage that takes a step of width from one dim and gives one to another, within the
    time ``most``, and was not tried; None where there is none."""
    if not set(choice.options) <= problem.position.keys():
        return None  # the clock has refused one of its merges since
    chosen = [option for option in problem.options if option.name in choice.options]
    absorbed = {name for option in chosen for name in option.absorbs}
    free = [dim for dim in problem.dims if dim.name not in absorbed]
    wider, narrower = ({dim.name: _step(dim, choice, way) for dim in free} for way in (-1, 1))
    moved = [
        Choice({**choice.widths, one: more, other: less}, choice.options)
        for (one, more), (other, less) in product(wider.items(), narrower.items())
        if one != other and more is not None and less is not None
    ]
    within = [each for each in moved if problem.time(each) <= most * (1 + TOLERANCE)]
    untried = [each for each in within if _key(problem, each) not in seen]
    return min(untried, key=problem.damage, default=None)


def _step(dim: DimOptions, choice: Choice, way: int) -> int | None:
    """The next width of ``dim``: the wider one for -1, the narrower one for 1."""
    if choice.widths[dim.name] not in dim.widths:
        return None
    at = dim.widths.index(choice.widths[dim.name]) + way
    return dim.widths[at] if 0 <= at < len(dim.widths) else None


def _rewarded(state: State, target: float, bench: Workbench) -> tuple[State, Measured]:
    """``_within``, again without each merge that the clock does not reward."""
    while True:
        state, best = _within(state, target, bench)
        state = _asked(state, best.choice, bench)
        refused = state.refused & set(best.choice.options)
        if not refused:
            return state, best
        state = state.without(refused)


def _within(state: State, target: float, bench: Workbench) -> tuple[State, Measured]:
    """Each measurement corrects the line from summed node times to latency until the clock agrees."""
    tried: list[Measured] = []
    tolerance = bench.settings.tolerance
    for number in range(1, bench.settings.rounds + 1):
        allocation = _allocate(state, _bracketed(state, tried, target, tolerance), target)
        if any(_key(state.problem, each.choice) == _key(state.problem, allocation.choice) for each in tried):
            break  # the corrected line asks for the same again
        bench.settings.progress(f"measuring candidate {number}")
        ratio = bench.clock.ratio(bench.build(allocation.choice), quick=True).ratio
        state = replace(state, line=state.line.corrected(allocation.time, ratio))
        tried.append(Measured(allocation, ratio))
        if abs(ratio / target - 1) <= tolerance / 2:
            break
    return state, min(tried, key=lambda each: _miss(each.ratio, target, tolerance))


def _bracketed(state: State, tried: Sequence[Measured], target: float, tolerance: float) -> float:
    """What nodes may take together, held to what the measurements so far allow.

    One reading that is off can turn the line flat, and a flat line asks for everything to be cut. So the next
    candidate is at most ``STEP`` times faster than in proportion to the fastest that was too slow, and slower
    than the slowest that was fast enough.
    """
    budget = state.line.budget_for(target) or 0.0
    slow = [each for each in tried if each.ratio > target * (1 + tolerance)]
    fast = [each.allocation.time for each in tried if each not in slow]
    most = min((each.allocation.time for each in slow), default=state.line.base)
    if slow:
        nearest = min(slow, key=lambda each: each.allocation.time)
        budget = max(budget, nearest.allocation.time * target / nearest.ratio / STEP)
    if fast and budget <= max(fast):
        budget = (max(fast) + max(most, max(fast))) / 2
    return budget


def _allocate(state: State, budget: float, target: float) -> Allocation:
    least = state.least
    if budget < least and state.line.points:
        budget = least  # the line was corrected downwards past what can be cut: go as far as possible
    if budget < least:
        raise UsageError(
            f"latency {target:.3g}x: out of reach; the smallest predicted with these dims, widths and"
            f" spans is {state.line.ratio(least):.3f}x; ask for that or more, or let more dims be cut"
        )
    return minimize_damage(state.problem, budget)


def _asked(state: State, choice: Choice, bench: Workbench) -> State:
    """With the clock's word on every collapse of ``choice`` that puts something in the place of what it
    removes: without it, all else the same, the network has to be credibly slower.

    A collapse that only deletes is not asked about.
    """
    whole: Graph | None = None
    vetoes = dict(state.vetoes)
    for option in state.problem.options:
        if option.name not in choice.options or not option.adds or option.name in vetoes:
            continue
        whole = bench.build(choice) if whole is None else whole
        bench.settings.progress(f"does {option.name} pay?")
        others = tuple(name for name in choice.options if name != option.name)
        vetoes[option.name] = bench.clock.between(bench.build(Choice(choice.widths, others)), whole)
    return replace(state, vetoes=vetoes)


def by_damage(
    problem: Problem, limit: float, bench: Workbench, measured: Callable[[Choice], float]
) -> Outcome:
    """The choice of least time whose damage is within ``limit``: what allocations are predicted to do is
    scaled by what they measure, built and repaired (``measured``, in the units of ``limit``).

    Raises:
        UsageError: none stayed within it.
    """
    trust, state = 1.0, State.of(problem)
    while True:
        fitting: tuple[Allocation, float] | None = None
        for number in range(1, bench.settings.rounds + 1):
            allocation = minimize_time(state.problem, limit * trust)
            bench.settings.progress(f"building and repairing candidate {number}")
            found = measured(allocation.choice)
            if found <= limit and (fitting is None or allocation.time < fitting[0].time):
                fitting = allocation, found
            step = min(max(limit / max(found, 1e-12), 0.25), 4.0)
            if 1.0 <= step <= 1.15:
                break
            trust *= step * (0.95 if step < 1 else 1.0)
        if fitting is None:
            raise UsageError(
                f"max-drop {bench.settings.budget.value:g}: no candidate stayed within it on held-out"
                " inputs; allow more"
            )
        allocation, damage = fitting
        state = _asked(state, allocation.choice, bench)
        refused = state.refused & set(allocation.choice.options)
        if not refused:
            ratio = bench.clock.ratio(bench.build(allocation.choice)).ratio
            return Outcome(state, Measured(allocation, ratio), damage)
        state = state.without(refused)


def by_layers(problem: Problem, layers: int, bench: Workbench) -> Outcome:
    """The choice of least damage with at most so many compute layers on the longest path.

    Raises:
        UsageError: so few are out of reach.
    """
    state = State.of(problem)
    allocation = minimize_damage(problem, layers=layers)
    damage = bench.tried(allocation.choice)
    seen, latest, at = {_key(problem, allocation.choice)}, allocation.choice, damage
    for number in range(bench.wholes):
        other = bench.learned(latest, at, number)
        found = minimize_damage(other, layers=layers)
        if _key(problem, found.choice) in seen:
            continue
        seen.add(_key(problem, found.choice))
        latest, at = found.choice, bench.tried(found.choice)
        if at < damage:
            allocation, damage = found, at
    bench.settings.progress("measuring the result")
    ratio = bench.clock.ratio(bench.build(allocation.choice)).ratio
    return Outcome(state, Measured(allocation, ratio), damage)


def _key(problem: Problem, choice: Choice) -> str:
    return choice.key({dim.name: dim.widths[0] for dim in problem.dims})


def _miss(ratio: float, target: float, tolerance: float) -> tuple[bool, float]:
    """Candidates within the budget come first, then the nearest."""
    return ratio > target * (1 + tolerance), abs(ratio / target - 1)
