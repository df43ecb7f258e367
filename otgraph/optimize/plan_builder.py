"""Makes the network of a choice, and the plan that carries it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnxruntime
import torch

from otgraph.allocate.choice import Choice
from otgraph.allocate.cost import evaluate
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.graph import Graph
from otgraph.optimize.clock import Clock
from otgraph.optimize.fusing import FusionClock, judged, with_apart
from otgraph.optimize.proposals import Proposal
from otgraph.optimize.settings import Settings
from otgraph.optimize.study import Study
from otgraph.optimize.task import with_ridge, with_task
from otgraph.plan.calibration import CalibrationReference
from otgraph.plan.decision import DepthAction, DimDecision, Predictions
from otgraph.plan.fingerprint import fingerprint_graph
from otgraph.plan.plan import Plan
from otgraph.pricing.macs import macs_terms
from otgraph.rewrite.catalog import load_pipelines
from otgraph.rewrite.contract import Context
from otgraph.rewrite.manager import PassManager
from otgraph.rewrite.pipeline import parse_pipeline


@dataclass(frozen=True, eq=False)
class PlanBuilder:
    """``device``: what the engine says of itself. ``proposals``: the collapses that choices name. ``apart``:
    fusions that are not made. ``ridge``: what repairs that choose none are told to use; ``trusted``: and to
    carry out in full."""

    found: Study
    settings: Settings
    device: Mapping[str, str]
    proposals: Mapping[str, Proposal] = field(default_factory=dict[str, Proposal])
    apart: tuple[str, ...] = ()
    ridge: float | None = None
    trusted: bool = False

    def build(self, choice: Choice) -> Graph:
        """The network of ``choice`` without repairs and with blank maps: numbers do not matter to the
        clock."""
        steps = parse_pipeline(with_apart(load_pipelines()["trial"], self.apart))
        return (
            PassManager(steps, on_failure="undo", checked=False)
            .run(self.found.graph, self._context(choice))
            .graph
        )

    def judge_fusions(self, choice: Choice, clock: Clock) -> FusionClock:
        """Time each fusion that changes the shape of what it leaves; those are kept apart that are not
        credibly faster."""
        steps, progress = load_pipelines()["trial"], self.settings.progress
        return judged(
            self.found.graph, self._context(choice), steps, lambda graph: clock.fusions(graph, progress)
        )

    def _context(self, choice: Choice) -> Context:
        return Context(
            couplings=self.found.couplings(choice.widths),
            collapses=tuple(self.proposals[name].collapse for name in choice.options),
            seed=self.settings.seed,
            axes=self.found.axes,
        )

    def applied(self, choice: Choice) -> Graph:
        """The network of ``choice`` as its plan makes it, repaired on the inputs that trials are fitted
        on."""
        return self.plan(choice, Predictions()).apply(self.found.graph, self.found.fit)

    def plan(
        self, choice: Choice, predictions: Predictions, depth: tuple[DepthAction, ...] | None = None
    ) -> Plan:
        """The plan that carries out ``choice``."""
        found, settings = self.found, self.settings
        settings.progress("certifying the selection")
        couplings = found.couplings(choice.widths, certified=True)
        pipeline = load_pipelines().get(settings.pipeline, settings.pipeline)
        if depth is None:
            depth = tuple(DepthAction(self.proposals[name].collapse) for name in choice.options)
        return Plan(
            model=found.graph.name,
            fingerprint=fingerprint_graph(found.graph),
            budget=settings.budget,
            pipeline=with_apart(
                with_ridge(with_task(pipeline, settings.task), self.ridge, trusted=self.trusted), self.apart
            ),
            dims=tuple(
                DimDecision.of(name, coupling, constant=found.widths[name].constant)
                for name, coupling in couplings.items()
            ),
            depth=depth,
            predictions=replace(predictions, macs_ratio=self._macs_ratio(choice)),
            engine=settings.engine,
            device=self.device,
            criterion=settings.criterion,
            seed=settings.seed,
            calibration=CalibrationReference.of(found.data),
            created_by={"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
            data=found.data,
        )

    def _macs_ratio(self, choice: Choice) -> float:
        full = {name: width.size for name, width in self.found.widths.items()}
        whole = evaluate(self.found.macs, full)
        if not whole:
            return 1.0  # nothing that is counted, nothing that is cut of it
        if choice.options:
            return _macs(self.build(choice)) / whole
        couplings = self.found.couplings(choice.widths)
        kept = {**full, **choice.widths, **{name: len(c.kept) for name, c in couplings.items()}}
        return evaluate(self.found.macs, kept) / whole


def _macs(graph: Graph) -> float:
    """Multiply-accumulates of ``graph`` on its example."""
    axes = analyze(graph)
    shapes = {
        name: tuple(axis.size for axis in results[0]) for name, results in axes.values.items() if results
    }
    full = {dim.name: dim.size for dim in axes.dims.values()}
    return sum(evaluate(cost.terms, full) for cost in macs_terms(graph, axes, shapes))
