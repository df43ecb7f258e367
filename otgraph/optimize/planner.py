"""Deciding: one width per dim, under a fraction, a measured latency, or a limit on the damage."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnxruntime
import torch

from otgraph.data import Data
from otgraph.errors import UsageError
from otgraph.graph.graph import Graph
from otgraph.latency.model import AffineModel
from otgraph.optimize.interaction import corrected, variants
from otgraph.optimize.saved import Saved
from otgraph.optimize.sensitivity import Sensitivity, measure_sensitivities
from otgraph.optimize.settings import Settings
from otgraph.optimize.stopwatch import Stopwatch
from otgraph.optimize.study import Study, study
from otgraph.optimize.task import with_task
from otgraph.optimize.timing import time_terms
from otgraph.optimize.trial import Trial
from otgraph.plan.allocation import Allocation, Choice, Problem, minimise_damage, minimise_time
from otgraph.plan.calibration import CalibrationReference, data_digest
from otgraph.plan.candidates import candidate_widths
from otgraph.plan.decision import DimDecision, Predictions
from otgraph.plan.fingerprint import fingerprint_graph
from otgraph.plan.plan import Plan
from otgraph.plan.terms import Polynomial, evaluate
from otgraph.rewrite.catalogue import load_pipelines
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.pipeline import parse_pipeline


def make_plan(graph: Graph, data: Data, settings: Settings) -> Plan:
    """Decide what to keep of every dim of ``graph``; nothing is edited.

    Raises:
        UsageError: the budget is out of reach, or no dim may be cut. DataError: the data do not fit.
        EngineMissing: a latency was asked for and the engine is not there.
    """
    found = study(graph, data, settings)
    if settings.budget.kind == "keep":
        return _plan(found, settings, _by_fraction(found, settings), Predictions(), {})
    saved = Saved(settings.cache, *_what_trials_depend_on(found, settings))
    trial = Trial(found.graph, found.axes, found.widths, found.fit, found.held, saved)
    tried = measure_sensitivities(trial, settings.trial_seconds, settings.progress)
    with Stopwatch(found.graph, found.held, settings.engine, settings.threads, settings.seed) as clock:
        planner = _Planner(found, settings, tried, trial, clock)
        return planner.by_damage() if settings.budget.kind == "damage" else planner.by_latency()


def _what_trials_depend_on(found: Study, settings: Settings) -> tuple[str, ...]:
    return (
        fingerprint_graph(found.graph).digest,
        data_digest(found.fit),
        data_digest(found.held),
        settings.criterion,
        str(settings.seed),
        torch.__version__,
        "3",  # raised whenever a trial is made in another way
    )


@dataclass(frozen=True)
class _Candidate:
    allocation: Allocation
    ratio: float
    model: AffineModel


class _Planner:
    """Allocates, builds, measures and corrects, until the clock (or the measured damage) agrees."""

    def __init__(
        self,
        found: Study,
        settings: Settings,
        sensitivities: Mapping[str, Sensitivity],
        trial: Trial,
        clock: Stopwatch,
    ) -> None:
        self.found = found
        self.settings = settings
        self.trial = trial
        self.clock = clock
        settings.progress("measuring the original")
        self.original_ms = clock.original().ms
        terms = time_terms(found.graph, found.axes, clock.engine, self.original_ms, settings)
        self.problem = _problem(found, settings, sensitivities, terms)
        self.base = self.problem.time(self.problem.full())

    def by_latency(self) -> Plan:
        """Least damage within the latency. The first allocation teaches the model of time; then allocations
        are tried whole, and the best of them is corrected by what its parts were seen to do within it."""
        target = self._target()
        best = self._within(target, AffineModel(1.0, self.base, slope=1.0))
        damage = self.trial.damage(best.allocation.widths)
        problem, expected = self._best_reading(best, damage, target)
        for _ in range(self.settings.corrections):
            start = self._widths(problem, best.model, target)
            found = corrected(
                problem, start, self.trial, expected, self.settings.trial_seconds, self.settings.progress
            )
            if found is None:
                break
            again = self._tried(found, best.model, target)
            if again >= expected:
                break
            problem, expected = found, again
        if expected < damage:
            other = self._within(target, best.model, problem)
            found_damage = self.trial.damage(other.allocation.widths)
            if found_damage < damage and not _miss(other.ratio, target, self.settings.tolerance)[0]:
                best, damage = other, found_damage
        best = self._given_back(best, target)
        return self._finish(best, best.ratio, self.trial.damage(best.allocation.widths))

    def _given_back(self, best: _Candidate, target: float) -> _Candidate:
        """Widen what the clock does not reward: the time of narrow layers goes in steps that no smooth model
        has.

        Dims are given one candidate width back, those first that it helps most, wherever the measured ratio
        stays within the budget.
        """
        started = time.process_time()
        current, refused = best, set[str]()
        while True:
            names = [n for n in self._by_relief(current.allocation.widths) if n not in refused]
            if not names or time.process_time() - started > self.settings.trial_seconds:
                return current
            name = names[0]
            wider = self._widened(current, name)
            self.settings.progress(f"giving {name} back some width")
            ratio = self.clock.ratio(self._build(wider.widths)).ratio
            fits = ratio <= target * (1 + self.settings.tolerance / 2)
            if fits and self.trial.damage(wider.widths) < self.trial.damage(current.allocation.widths):
                current = replace(current, allocation=wider, ratio=ratio)
            else:
                refused.add(name)

    def _widened(self, current: _Candidate, name: str) -> Allocation:
        """The allocation with one dim a candidate wider; nothing is proved of it."""
        old = current.allocation.widths
        candidates = next(choice.widths for choice in self.problem.choices if choice.name == name)
        widths = {**old, name: candidates[candidates.index(old[name]) - 1]}
        spent = self.problem.time_at(widths)
        return replace(current.allocation, widths=widths, time=spent, objective=math.inf)

    def _by_relief(self, widths: Mapping[str, int]) -> list[str]:
        """The dims that are cut, those first whose curve falls most with the next wider candidate."""
        relief: dict[str, float] = {}
        for choice in self.problem.choices:
            at = choice.widths.index(widths[choice.name])
            if at:
                relief[choice.name] = choice.damages[at] - choice.damages[at - 1]
        return sorted(relief, key=lambda name: -relief[name])

    def _best_reading(self, best: _Candidate, damage: float, target: float) -> tuple[Problem, float]:
        found = (self.problem, damage)
        residual = {dim.name for dim in self.found.axes.prunable() if dim.residual}
        budget = best.model.macs_for(target) or 0.0
        for name, problem in variants(self.problem, residual).items():
            if problem.time(problem.least()) > budget:
                continue
            self.settings.progress(f"trying the {name} allocation whole")
            damage = self._tried(problem, best.model, target)
            if damage < found[1]:
                found = (problem, damage)
        return found

    def _tried(self, problem: Problem, model: AffineModel, target: float) -> float:
        """The damage of the allocation of ``problem``, tried whole."""
        return self.trial.damage(self._widths(problem, model, target))

    def _widths(self, problem: Problem, model: AffineModel, target: float) -> dict[str, int]:
        budget = max(model.macs_for(target) or 0.0, problem.time(problem.least()))
        return dict(minimise_damage(problem, budget).widths)

    def _within(self, target: float, model: AffineModel, problem: Problem | None = None) -> _Candidate:
        """Each measurement corrects the line from summed node times to latency until the clock agrees."""
        tried: list[_Candidate] = []
        for number in range(1, self.settings.rounds + 1):
            budget = model.macs_for(target) or 0.0
            allocation = self._allocate(problem or self.problem, budget, model, target)
            if any(dict(c.allocation.widths) == dict(allocation.widths) for c in tried):
                break  # the corrected line asks for the same widths again
            self.settings.progress(f"measuring candidate {number}")
            ratio = self.clock.ratio(self._build(allocation.widths)).ratio
            model = model.corrected(allocation.time, ratio)
            tried.append(_Candidate(allocation, ratio, model))
            if abs(ratio / target - 1) <= self.settings.tolerance:
                break
        return min(tried, key=lambda c: _miss(c.ratio, target, self.settings.tolerance))

    def by_damage(self) -> Plan:
        """Least time within the damage: predicted damage is scaled by what repaired candidates measure."""
        limit = self.settings.budget.value
        limit = limit if self.found.classifier else limit * limit
        trust, fitting, model = 1.0, None, AffineModel(1.0, self.base, slope=1.0)
        for number in range(1, self.settings.rounds + 1):
            allocation = minimise_time(self.problem, limit * trust)
            self.settings.progress(f"building and repairing candidate {number}")
            plan = self._finish(_Candidate(allocation, model.ratio(allocation.time), model), None)
            measured = self.found.damage(plan.apply(self.found.graph, self.found.fit))
            if measured <= limit and (fitting is None or allocation.time < fitting[0].time):
                fitting = (allocation, plan)
            step = min(max(limit / max(measured, 1e-12), 0.25), 4.0)
            if 1.0 <= step <= 1.15:
                break
            trust *= step * (0.95 if step < 1 else 1.0)
        if fitting is None:
            raise UsageError(
                f"max-drop {self.settings.budget.value:g}: no candidate stayed within it on held-out inputs;"
                " allow more"
            )
        ratio = self.clock.ratio(self._build(fitting[0].widths)).ratio
        return self._finish(_Candidate(fitting[0], ratio, model), ratio)

    def _target(self) -> float:
        if self.settings.budget.kind == "ratio":
            return self.settings.budget.value
        return self.settings.budget.value / self.original_ms

    def _allocate(self, problem: Problem, budget: float, model: AffineModel, target: float) -> Allocation:
        least = problem.time(problem.least())
        if budget < least and model.points:
            budget = least  # the line was corrected downwards past what can be cut: go as far as possible
        if budget < least:
            raise UsageError(
                f"latency {target:.3g}x: out of reach; the smallest predicted with these dims and widths is"
                f" {model.ratio(least):.3f}x; ask for that or more, or let more dims be cut"
            )
        return minimise_damage(problem, budget)

    def _build(self, widths: Mapping[str, int]) -> Graph:
        """The cut network without repairs: weights do not matter to the clock."""
        steps = parse_pipeline(load_pipelines()["trial"])
        context = Context(couplings=self.found.couplings(widths), seed=self.settings.seed)
        return PassManager(steps).run(self.found.graph, context).graph

    def _finish(self, best: _Candidate, measured: float | None, whole: float | None = None) -> Plan:
        allocation = best.allocation
        damage = math.sqrt(allocation.damage if whole is None else whole)
        predictions = Predictions(
            time_ratio=best.model.ratio(allocation.time) if measured is None else measured,
            damage=damage,
            bound=allocation.bound if math.isfinite(allocation.objective) else None,
            gap=allocation.gap if math.isfinite(allocation.objective) else None,
        )
        device = {key: str(value) for key, value in self.clock.engine.describe().items()}
        plan = _plan(self.found, self.settings, dict(allocation.widths), predictions, device)
        predicted = {c.name: dict(zip(c.widths, c.damages, strict=True)) for c in self.problem.choices}
        dims = tuple(
            replace(d, damage=math.sqrt(predicted[d.name].get(len(d.kept), 0.0)))
            if d.name in predicted
            else d
            for d in plan.dims
        )
        return replace(plan, dims=dims)


def _miss(ratio: float, target: float, tolerance: float) -> tuple[bool, float]:
    """Candidates within the budget come first, then the nearest."""
    return ratio > target * (1 + tolerance), abs(ratio / target - 1)


def _problem(
    found: Study, settings: Settings, sensitivities: Mapping[str, Sensitivity], terms: Polynomial
) -> Problem:
    choices: list[Choice] = []
    for name, width in found.widths.items():
        widths = candidate_widths(width.size, settings.multiple, limit=settings.candidates)
        damage = sensitivities[name].damage
        choices.append(Choice(name, widths, tuple(float(damage[k]) for k in widths)))
    return Problem(tuple(choices), terms=terms)


def _by_fraction(found: Study, settings: Settings) -> dict[str, int]:
    share = settings.budget.value
    return {name: max(1, round(width.size * share)) for name, width in found.widths.items()}


def _plan(
    found: Study,
    settings: Settings,
    widths: Mapping[str, int],
    predictions: Predictions,
    device: Mapping[str, str | int | float | bool | None],
) -> Plan:
    settings.progress("certifying the selection")
    couplings = found.couplings(widths, certified=True)
    if predictions.macs_ratio is None:
        kept = {
            name: len(couplings[name].kept) if name in couplings else w.size
            for name, w in found.widths.items()
        }
        full = {name: width.size for name, width in found.widths.items()}
        predictions = replace(predictions, macs_ratio=evaluate(found.macs, kept) / evaluate(found.macs, full))
    return Plan(
        model=found.graph.name,
        fingerprint=fingerprint_graph(found.graph),
        budget=settings.budget,
        pipeline=with_task(load_pipelines().get(settings.pipeline, settings.pipeline), settings.task),
        dims=tuple(DimDecision.of(name, coupling) for name, coupling in couplings.items()),
        predictions=predictions,
        engine=settings.engine,
        device=device,
        criterion=settings.criterion,
        seed=settings.seed,
        calibration=CalibrationReference.of(found.data),
        created_by={"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
        data=found.data,
    )
