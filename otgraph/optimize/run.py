"""All of it: plan, apply, measure, and say whether anything was gained."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from otgraph.audit.compare import audit, compare_outputs
from otgraph.audit.fidelity import Fidelity, Source, pooled
from otgraph.audit.generalization import Generalization
from otgraph.audit.metric import load_metric
from otgraph.audit.report import Audit
from otgraph.calibrate.feeds import fixed_batch
from otgraph.data_digest import Sketch
from otgraph.data_model import ModelData
from otgraph.engines.catalog import get_engine
from otgraph.graph.graph import Graph
from otgraph.heap import give_back, kept_pages
from otgraph.optimize.exports import Exports
from otgraph.optimize.graph_network import GraphNetwork
from otgraph.optimize.planner import make_plan
from otgraph.optimize.settings import Settings
from otgraph.optimize.task import decided
from otgraph.optimize.verdict import Parts, divide
from otgraph.plan.calibration import CalibrationReference
from otgraph.plan.plan import Plan
from otgraph.remark import Remark


@dataclass(frozen=True)
class Cost:
    """Seconds the optimization took, the audit not counted."""

    cpu_seconds: float
    wall_seconds: float


@dataclass(frozen=True)
class Optimized:
    """``graph``: the faster network, ``plan``: what was decided, ``audit``: what was measured, and on which
    inputs (``audit.generalization``). ``credible``: the interval of the measured ratio clears 1, or where
    layers were asked for, which may pay elsewhere only, there are fewer; where not, keep the original."""

    graph: Graph
    plan: Plan
    audit: Audit
    remarks: tuple[Remark, ...]
    cost: Cost
    credible: bool
    missed: str | None = None


@kept_pages()
def optimize(
    graph: Graph,
    data: ModelData,
    settings: Settings,
    *,
    evaluation: ModelData | None = None,
    metric: str | None = None,
    names: tuple[str, str | None] | None = None,
) -> Optimized:
    """Make ``graph`` faster within the budget of ``settings``, and audit the result.

    The figures are those on ``evaluation`` where it is given, and on the share of ``data`` that was kept from
    calibration, prices, trials and repair; where ``data`` are few, on all of them in turn, by refits that
    leave some out. ``graph`` is untouched. ``names``: for the audit, where ``graph`` was read from, and where
    the result goes if it is credible (None for nowhere); by default the model's name. Raises as
    ``make_plan``, ``Plan.apply`` and ``audit`` do.
    """
    started = (time.process_time(), time.perf_counter())
    _check_choices(settings, metric)
    settings = decided(graph, data, settings)
    foreign = evaluation is not None and Sketch.of(data).seen(evaluation) == 0
    parts = divide(data, settings.verdict, batch=fixed_batch(graph) or 1, in_turn=not foreign)
    with Exports() as exports:
        plan = _noted(make_plan(graph, parts.fit, settings, exports=exports), data, parts)
        give_back()
        return _carried_out(graph, plan, parts, data, evaluation, settings, metric, started, exports, names)


def _carried_out(
    graph: Graph,
    plan: Plan,
    parts: Parts,
    data: ModelData,
    evaluation: ModelData | None,
    settings: Settings,
    metric: str | None,
    started: tuple[float, float],
    exports: Exports,
    names: tuple[str, str | None] | None,
) -> Optimized:
    """Apply ``plan``, measure what it made, and say what came of it."""
    settings.progress("applying the plan")
    result = plan.apply_with_records(graph)
    measured, handed = result.graph, result.graph
    if settings.refit and parts.unseen is not None:
        settings.progress("refitting on all inputs")
        plan = replace(plan, data=data, calibration=CalibrationReference.of(data))
        handed = plan.apply(graph)
    spent = Cost(time.process_time() - started[0], time.perf_counter() - started[1])
    settings.progress("auditing")
    judge = _Judge(graph, plan, parts, settings, metric, exports)
    found = judge.audit(measured, evaluation, spent)
    found = _named(found, graph.name, names, written=_credible(plan, found))
    remarks = (*graph.remarks, *plan.remarks, *result.remarks, *_advice(graph, found))
    return Optimized(
        graph=replace(handed, remarks=remarks),
        plan=plan,
        audit=found,
        remarks=remarks,
        cost=spent,
        credible=_credible(plan, found),
        missed=_missed(plan, found),
    )


def _check_choices(settings: Settings, metric: str | None) -> None:
    """What would fail at the end, after all the work, fails now."""
    get_engine(settings.engine)
    if metric is not None:
        load_metric(metric)


def _noted(plan: Plan, data: ModelData, parts: Parts) -> Plan:
    """``plan``, which tells which of the user's inputs it was made with."""
    if parts.unseen is None or plan.calibration is None:
        return plan
    return replace(plan, calibration=plan.calibration.within(len(data), parts.stretches))


def _advice(graph: Graph, found: Audit) -> tuple[Remark, ...]:
    gap = found.generalization
    if gap is None or gap.ratio is None or not gap.advice:
        return ()
    figures = {"fitted": gap.fitted.drift, "unseen": gap.unseen.drift, "ratio": gap.ratio}
    return (Remark("analysis", "generalization", graph.name, gap.advice, figures),)


@dataclass(frozen=True)
class _Judge:
    """Audits networks by way of the ONNX files they are written to."""

    graph: Graph
    plan: Plan
    parts: Parts
    settings: Settings
    metric: str | None
    exports: Exports

    def audit(self, small: Graph, evaluation: ModelData | None, spent: Cost) -> Audit:
        """``small`` against the original: on ``evaluation`` where given, else on what it has not seen; and
        what it does on the inputs it was fitted on beside what it does on others."""
        shown = evaluation or self.parts.unseen
        a, b = self.exports.path_of(self.graph), self.exports.path_of(small)
        found = self._measured(a, b, shown or self.parts.fit, spent)
        if shown is None:
            fitted = replace(found.fidelity, source="fitted")
        else:
            fitted = self._fidelity(a, b, self.parts.fit, "fitted")
        unseen = self._unseen(a, b, found, evaluation)
        refitted = self.settings.refit and self.parts.unseen is not None
        gap = unseen and Generalization(
            fitted, unseen, len(self.parts.folds), "refitted" if refitted else "measured"
        )
        return replace(
            found,
            fidelity=found.fidelity if evaluation is not None else unseen or fitted,
            generalization=gap,
        )

    def _unseen(self, a: Path, b: Path, found: Audit, evaluation: ModelData | None) -> Fidelity | None:
        """The figures on inputs that nothing was fitted on; None where there are none."""
        if self.parts.unseen is not None:
            if evaluation is None:
                return replace(found.fidelity, source="held-out")
            return self._fidelity(a, b, self.parts.unseen, "held-out")
        if self.parts.folds:
            return self._refits()
        return None if evaluation is None or found.fitted_samples else found.fidelity

    def _measured(self, a: Path, b: Path, data: ModelData, spent: Cost) -> Audit:
        optimization: Mapping[str, object] = {**vars(spent), "source": "otgraph optimize"}
        settings = self.settings
        return audit(
            a,
            b,
            data,
            engine=settings.engine,
            threads=settings.threads,
            optimization=optimization,
            metric=self.metric,
            task=settings.reading or settings.task,
            seed=settings.seed,
        )

    def _refits(self) -> Fidelity:
        """The figures of the plan carried out once for each fold, repaired without it and judged on it."""
        original = GraphNetwork(self.graph)
        metric = None if self.metric is None else load_metric(self.metric)
        pairs: list[tuple[GraphNetwork, GraphNetwork, ModelData]] = []
        for at, (rest, fold) in enumerate(self.parts.folds):
            self.settings.progress(f"repairing without fold {at + 1} of {len(self.parts.folds)}")
            pairs.append((original, GraphNetwork(self.plan.apply(self.graph, rest)), fold))
        found = pooled(pairs, metric, self.metric or "", self.settings.reading, self.settings.seed)
        return replace(found, source="cross-fitted")

    def _fidelity(self, a: Path, b: Path, data: ModelData, source: Source) -> Fidelity:
        settings = self.settings
        found = compare_outputs(
            a,
            b,
            data,
            settings.reading,
            engine=settings.engine,
            threads=settings.threads,
            metric=self.metric,
            seed=settings.seed,
        )
        return replace(found, source=source)


def _named(found: Audit, model: str, names: tuple[str, str | None] | None, *, written: bool) -> Audit:
    """With what the two are called: files only where there are such files."""
    source, output = names or (model, None)
    unsaved = f"{model}, optimized" + ("" if output is None else " (not written)")
    b = output if output is not None and written else unsaved
    return replace(found, a=replace(found.a, path=source), b=replace(found.b, path=b))


def _credible(plan: Plan, found: Audit) -> bool:
    before, after = found.a.structure.compute_depth, found.b.structure.compute_depth
    if plan.budget.kind == "layers" and before is not None and after is not None:
        return after < before
    return found.latency.credible_gain


def _missed(plan: Plan, found: Audit) -> str | None:
    """How a stated budget was missed, or None: a latency by more than a twentieth, layers at all, a damage
    beyond what chance explains."""
    latency = found.latency
    before, after = found.a.structure.compute_depth, found.b.structure.compute_depth
    allowed = None if before is None else plan.budget.layers(before)
    if allowed is not None and (after is None or after > allowed):
        counted = "an unknown number" if after is None else after
        return f"{plan.budget} was asked for ({allowed} of {before} on the longest path), {counted} counted"
    wanted = plan.budget.ratio(latency.a_ms)
    if wanted is not None and latency.low > wanted * 1.05:
        interval = f"[{latency.low:.3f}, {latency.high:.3f}]"
        return f"{plan.budget} was asked for, {latency.ratio:.3f}x {interval} measured"
    drift, interval = found.fidelity.drift, found.fidelity.drift_interval
    if plan.budget.kind == "damage" and (interval[0] if interval else drift) > plan.budget.value:
        between = f" [{interval[0]:.4g}, {interval[1]:.4g}]" if interval else ""
        return f"{plan.budget} was asked for, {found.fidelity.drift_name} {drift:.4g}{between} measured"
    return None
