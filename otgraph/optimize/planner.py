"""Deciding: widths and collapses together, under a fraction, a measured latency, or a limit on the damage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import onnxruntime
import torch

from otgraph.allocate.choice import Choice
from otgraph.allocate.cost import evaluate
from otgraph.allocate.problem import DimOptions, Problem
from otgraph.data import Data
from otgraph.graph.axes.analysis import analyse
from otgraph.graph.graph import Graph
from otgraph.optimize.depth import DepthCandidate, find_candidates, try_candidates
from otgraph.optimize.fusing import FusionClock, judged, with_apart
from otgraph.optimize.loop import Candidate, Loop
from otgraph.optimize.saved import Saved
from otgraph.optimize.sensitivity import measure_sensitivities
from otgraph.optimize.settings import Settings
from otgraph.optimize.stopwatch import Stopwatch
from otgraph.optimize.study import Study, study
from otgraph.optimize.task import with_task
from otgraph.optimize.trial import Trial
from otgraph.plan.calibration import CalibrationReference, data_digest
from otgraph.plan.decision import DepthAction, DimDecision, Predictions
from otgraph.plan.fingerprint import fingerprint_graph
from otgraph.plan.plan import Plan
from otgraph.pricing.elementwise import batch_size
from otgraph.pricing.macs import macs_terms
from otgraph.pricing.timing import node_times
from otgraph.pricing.widths import candidate_widths
from otgraph.remark import Remark
from otgraph.rewrite.catalogue import load_pipelines
from otgraph.rewrite.collapse import describe
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.pipeline import parse_pipeline


def make_plan(graph: Graph, data: Data, settings: Settings) -> Plan:
    """Decide what to keep of every dim of ``graph`` and which spans collapse; nothing is edited.

    Raises:
        UsageError: the budget is out of reach, or no dim may be cut. DataError: the data do not fit.
        EngineMissing: a latency was asked for and the engine is not there.
    """
    found = study(graph, data, settings)
    if settings.budget.kind == "keep":
        return _Writer(found, settings, {}).plan(Choice(_by_fraction(found, settings)), Predictions())
    with Stopwatch(found.graph, found.held, settings.engine, settings.threads, settings.seed) as clock:
        return _decide(found, settings, clock)


def _decide(found: Study, settings: Settings, clock: Stopwatch) -> Plan:
    settings.progress("measuring the original")
    original_ms = clock.original().ms
    widths = {
        name: candidate_widths(width.size, settings.multiple, limit=settings.candidates)
        for name, width in found.widths.items()
    }
    nodes, fixed = node_times(found.graph, found.axes, clock.engine, original_ms, settings.timing, widths)
    collapses: Sequence[DepthCandidate] = ()
    said: tuple[Remark, ...] = ()
    if settings.moves != "width":
        collapses, said = find_candidates(found, clock.engine, nodes, fixed, settings, widths)
    fits = {candidate.name: candidate.fit for candidate in collapses}
    saved = Saved(settings.cache, *_what_trials_depend_on(found, settings))
    macs = evaluate(found.macs, {name: width.size for name, width in found.widths.items()}) / batch_size(
        found.graph
    )
    trial = Trial(found.graph, found.axes, found.widths, found.fit, found.held, saved, fits, macs)
    settings.progress("choosing the ridge of trials")
    ridge = trial.settle(_probes(found, collapses))
    settings.progress(f"trials repair with a ridge of {ridge:g}")
    options = try_candidates(trial, collapses, settings.trial_seconds, settings)
    problem = Problem(
        dims=_dims(trial, widths, settings),
        nodes=nodes,
        options=options,
        constant=evaluate(fixed, {}),
    )
    writer = _Writer(found, settings, {key: str(value) for key, value in clock.engine.describe().items()})
    writer.candidates = {candidate.name: candidate for candidate in collapses}
    residual = {dim.name for dim in found.axes.prunable() if dim.residual}
    loop = Loop(problem, trial, clock, writer.build, residual, settings)
    if settings.budget.kind == "damage":
        limit = settings.budget.value if found.classifier else settings.budget.value**2
        best = loop.by_damage(limit, lambda cut: found.damage(writer.applied(cut)))
        damage = best.allocation.damage
    else:
        ratio = settings.budget.kind == "ratio"
        best = loop.by_latency(settings.budget.value if ratio else settings.budget.value / original_ms)
        damage = trial.damage(best.cut)
    judge = writer.judge_fusions(best.cut, clock)
    if writer.apart:
        best = replace(best, ratio=clock.ratio(writer.build(best.cut)).ratio)
    plan = writer.finish(best, loop, damage)
    return replace(plan, remarks=(*found.remarks, *said, *writer.verdicts(loop), *judge.verdicts()))


def _probes(found: Study, collapses: Sequence[DepthCandidate]) -> list[Choice]:
    """A few cuts of either sort; the width is in the middle, where a trial has half of the network to run."""
    names = list(found.widths)
    middle = names[len(names) // 2 :][:1]
    cuts = [Choice({name: max(1, round(found.widths[name].size * 0.75))}) for name in middle]
    return [*cuts, *(Choice({}, (candidate.name,)) for candidate in collapses[:2])]


def _dims(trial: Trial, widths: Mapping[str, tuple[int, ...]], settings: Settings) -> tuple[DimOptions, ...]:
    tried = measure_sensitivities(trial, settings.trial_seconds, settings.progress)
    return tuple(
        DimOptions(name, candidates, tuple(float(tried[name].damage[k]) for k in candidates))
        for name, candidates in widths.items()
    )


def _what_trials_depend_on(found: Study, settings: Settings) -> tuple[str, ...]:
    return (
        fingerprint_graph(found.graph).digest,
        data_digest(found.fit),
        data_digest(found.held),
        settings.criterion,
        str(settings.seed),
        torch.__version__,
        "7",  # raised whenever a trial is made in another way
    )


def _by_fraction(found: Study, settings: Settings) -> dict[str, int]:
    share = settings.budget.value
    return {name: max(1, round(width.size * share)) for name, width in found.widths.items()}


class _Writer:
    """Makes the network of a cut, and the plan."""

    def __init__(self, found: Study, settings: Settings, device: Mapping[str, str]) -> None:
        self.found = found
        self.settings = settings
        self.device = device
        self.candidates: dict[str, DepthCandidate] = {}
        self.apart: tuple[str, ...] = ()

    def build(self, cut: Choice) -> Graph:
        """The network of ``cut`` without repairs and with blank maps: numbers do not matter to the clock."""
        steps = parse_pipeline(with_apart(load_pipelines()["trial"], self.apart))
        return PassManager(steps, on_failure="undo").run(self.found.graph, self._context(cut)).graph

    def judge_fusions(self, cut: Choice, clock: Stopwatch) -> FusionClock:
        """Time each fusion that changes the shape of what it leaves; plans keep those apart from now on that
        are not credibly faster."""
        steps, progress = load_pipelines()["trial"], self.settings.progress
        judge = judged(
            self.found.graph, self._context(cut), steps, lambda graph: clock.fusions(graph, progress)
        )
        self.apart = judge.apart()
        return judge

    def _context(self, cut: Choice) -> Context:
        return Context(
            couplings=self.found.couplings(cut.widths),
            collapses=tuple(self.candidates[name].fit.collapse for name in cut.options),
            seed=self.settings.seed,
        )

    def applied(self, cut: Choice) -> Graph:
        """The network of ``cut`` as its plan makes it, repaired on the inputs that trials are fitted on."""
        return self.plan(cut, Predictions()).apply(self.found.graph, self.found.fit)

    def plan(
        self, cut: Choice, predictions: Predictions, depth: tuple[DepthAction, ...] | None = None
    ) -> Plan:
        """The plan that carries out ``cut``."""
        found, settings = self.found, self.settings
        settings.progress("certifying the selection")
        couplings = found.couplings(cut.widths, certified=True)
        pipeline = load_pipelines().get(settings.pipeline, settings.pipeline)
        if depth is None:
            depth = tuple(DepthAction(self.candidates[name].fit.collapse) for name in cut.options)
        return Plan(
            model=found.graph.name,
            fingerprint=fingerprint_graph(found.graph),
            budget=settings.budget,
            pipeline=with_apart(with_task(pipeline, settings.task), self.apart),
            dims=tuple(DimDecision.of(name, coupling) for name, coupling in couplings.items()),
            depth=depth,
            predictions=replace(predictions, macs_ratio=self._macs_ratio(cut)),
            engine=settings.engine,
            device=self.device,
            criterion=settings.criterion,
            seed=settings.seed,
            calibration=CalibrationReference.of(found.data),
            created_by={"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
            data=found.data,
        )

    def finish(self, best: Candidate, loop: Loop, damage: float) -> Plan:
        """The plan of the candidate that was settled on, with what was predicted and measured of it.

        ``damage``: in additive units.
        """
        allocation, problem = best.allocation, loop.problem
        known = math.isfinite(allocation.objective)
        predictions = Predictions(
            time_ratio=best.ratio,
            damage=math.sqrt(damage),
            bound=allocation.bound if known else None,
            gap=allocation.gap if known else None,
        )
        plan = self.plan(best.cut, predictions, tuple(self._action(name, loop) for name in best.cut.options))
        alone = {c.name: dict(zip(c.widths, c.damages, strict=True)) for c in problem.dims}
        dims = tuple(replace(d, damage=math.sqrt(alone[d.name].get(len(d.kept), 0.0))) for d in plan.dims)
        return replace(plan, dims=dims)

    def _action(self, name: str, loop: Loop) -> DepthAction:
        """The decision on one span: the damage it does alone, and its time before and after."""
        candidate = self.candidates[name]
        damage = next(option.damage for option in loop.problem.options if option.name == name)
        old, new = candidate.old_ms, candidate.new_ms
        measured = loop.vetoes.get(name)
        if measured is not None:
            old, new = measured.a_ms, measured.b_ms
        return DepthAction(candidate.fit.collapse, math.sqrt(damage), old, new)

    def verdicts(self, loop: Loop) -> Iterator[Remark]:
        """What the clock said of each merge that was built."""
        for name, found in loop.vetoes.items():
            collapse = self.candidates[name].fit.collapse
            text = f"{describe(collapse)}: {found.a_ms:.4g} → {found.b_ms:.4g} ms, all else the same"
            text += "" if found.credible_gain else ", which is no credible gain; the span stays"
            yield Remark(
                "applied" if found.credible_gain else "missed",
                "veto",
                collapse.span.name,
                text,
                {"old_ms": found.a_ms, "new_ms": found.b_ms, "low": found.low, "high": found.high},
            )

    def _macs_ratio(self, cut: Choice) -> float:
        if not cut.options:
            kept = {name: cut.widths.get(name, width.size) for name, width in self.found.widths.items()}
            couplings = self.found.couplings(cut.widths)
            kept |= {name: len(coupling.kept) for name, coupling in couplings.items()}
            return evaluate(self.found.macs, kept) / self._macs()
        return _macs(self.build(cut)) / self._macs()

    def _macs(self) -> float:
        full = {name: width.size for name, width in self.found.widths.items()}
        return evaluate(self.found.macs, full)


def _macs(graph: Graph) -> float:
    """Multiply-accumulates of ``graph`` on its example."""
    axes = analyse(graph)
    shapes = {
        name: tuple(axis.size for axis in results[0]) for name, results in axes.values.items() if results
    }
    full = {dim.name: dim.size for dim in axes.dims.values()}
    return sum(evaluate(cost.terms, full) for cost in macs_terms(graph, axes, shapes))
