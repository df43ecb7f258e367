"""All of it: plan, apply, measure, and say whether anything was gained."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from otgraph.audit.classify import check_task
from otgraph.audit.compare import audit
from otgraph.audit.metric import load_metric
from otgraph.audit.report import Audit
from otgraph.data_model import ModelData
from otgraph.engines.catalogue import get_engine
from otgraph.graph.graph import Graph
from otgraph.optimize.planner import make_plan
from otgraph.optimize.settings import Settings
from otgraph.plan.plan import Plan
from otgraph.remark import Remark


@dataclass(frozen=True)
class Cost:
    """Seconds the optimisation took, the audit not counted."""

    cpu_seconds: float
    wall_seconds: float


@dataclass(frozen=True)
class Optimized:
    """``graph``: the faster network, ``plan``: what was decided, ``audit``: what was measured. ``credible``:
    the interval of the measured ratio clears 1; where it does not, keep the original."""

    graph: Graph
    plan: Plan
    audit: Audit
    remarks: tuple[Remark, ...]
    cost: Cost
    credible: bool
    missed: str | None = None


def optimize(
    graph: Graph,
    data: ModelData,
    settings: Settings,
    *,
    evaluation: ModelData | None = None,
    metric: str | None = None,
) -> Optimized:
    """Make ``graph`` faster within the budget of ``settings``, and audit the result on ``evaluation``.

    ``graph`` is untouched. Raises as ``make_plan``, ``Plan.apply`` and ``audit`` do.
    """
    started = (time.process_time(), time.perf_counter())
    _check_choices(settings, metric)
    evaluation = evaluation or data
    plan = make_plan(graph, data, settings)
    settings.progress("applying the plan")
    result = plan.apply_with_records(graph)
    spent = Cost(time.process_time() - started[0], time.perf_counter() - started[1])
    settings.progress("auditing")
    found = audit_graphs(graph, result.graph, evaluation, settings, spent, metric)
    remarks = (*graph.remarks, *plan.remarks, *result.remarks)
    small = replace(result.graph, remarks=remarks)
    return Optimized(
        graph=small,
        plan=plan,
        audit=found,
        remarks=remarks,
        cost=spent,
        credible=found.latency.credible_gain,
        missed=_missed(plan, found),
    )


def _check_choices(settings: Settings, metric: str | None) -> None:
    """What would fail at the end, after all the work, fails now."""
    get_engine(settings.engine)
    check_task(settings.task)
    if metric is not None:
        load_metric(metric)


def audit_graphs(
    a: Graph,
    b: Graph,
    data: ModelData,
    settings: Settings,
    spent: Cost | None = None,
    metric: str | None = None,
) -> Audit:
    """The audit of two graphs, by way of the ONNX files they are written to."""
    optimisation: Mapping[str, object] | None = None
    if spent is not None:
        optimisation = {**vars(spent), "source": "otgraph optimize"}
    with tempfile.TemporaryDirectory(prefix="otgraph-") as folder:
        paths = (Path(folder) / "original.onnx", Path(folder) / "optimized.onnx")
        for graph, path in zip((a, b), paths, strict=True):
            graph.save(path)
        found = audit(
            *paths,
            data,
            engine=settings.engine,
            threads=settings.threads,
            optimisation=optimisation,
            metric=metric,
            task=settings.task,
            seed=settings.seed,
        )
    return replace(
        found,
        a=replace(found.a, path=f"{a.name}.onnx"),
        b=replace(found.b, path=f"{a.name}.optimized.onnx"),
    )


def _missed(plan: Plan, found: Audit) -> str | None:
    """How a stated budget was missed, or None: a latency by more than a twentieth, a damage at all."""
    latency = found.latency
    wanted = plan.budget.ratio(latency.a_ms)
    if wanted is not None and latency.low > wanted * 1.05:
        interval = f"[{latency.low:.3f}, {latency.high:.3f}]"
        return f"{plan.budget} was asked for, {latency.ratio:.3f}x {interval} measured"
    if plan.budget.kind == "damage" and found.fidelity.drift > plan.budget.value:
        return f"{plan.budget} was asked for, {found.fidelity.drift_name} {found.fidelity.drift:.4g} measured"
    return None
