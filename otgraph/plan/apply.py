"""Carrying out a plan: the model is checked, the data found, the pipeline run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from otgraph.data import Data
from otgraph.data_digest import CONSTANT, METADATA, Sketch
from otgraph.data_model import ModelData
from otgraph.errors import PassError, PipelineError, PlanError
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse
from otgraph.graph.specs import bind, input_specs
from otgraph.heap import kept_pages
from otgraph.plan.feasible import check_feasible
from otgraph.plan.fingerprint import check, fingerprint_graph
from otgraph.remark import Remark
from otgraph.rewrite.contract import Context, Pass
from otgraph.rewrite.manager import PassManager, Result
from otgraph.rewrite.options import option_names
from otgraph.rewrite.pipeline import parse_pipeline

if TYPE_CHECKING:
    from otgraph.plan.plan import Plan

REEXPRESSION = "reexpress-channels"
"""The pass that lets channels that stay take over what goes, by calibration inputs."""

REROUTING = "reroute-channels"
"""What does without them."""

_REPAIR = "repair-"
"""How the names of the passes begin that cannot do without calibration inputs."""


@kept_pages()
def carry_out(plan: Plan, graph: Graph, data: Data | None = None) -> Result:
    """Run the plan's pipeline on a copy of ``graph``.

    A pass that breaks its claim is undone and the rest goes on; a remark of kind *failure* names it.

    Raises:
        PlanError: the plan was made for another model; it says what cannot be done, or what its pipeline
            does not do; or the result computes values that are not finite.
        PipelineError: the plan's pipeline names a pass or an option that is not installed.
        DataError: the inputs do not fit the model.
    """
    check(plan.fingerprint, fingerprint_graph(graph), plan.origin)
    check_feasible(plan, graph)
    passes = _passes(plan)
    found, how = _find_data(plan, graph, data)
    bound = None if found is None else bind(found, graph)
    if bound is None:
        kept, remarks = _without_repairs(passes, how)
    else:
        few = plan.calibration is not None and 2 * len(bound) < plan.calibration.count
        kept, remarks = tuple(_judging(step) for step in passes) if few else passes, ()
    context = Context(
        data=bound, original=graph, couplings=plan.couplings(), collapses=plan.collapses(), seed=plan.seed
    )
    try:
        result = PassManager(kept, on_failure="undo").run(graph, context)
    except PipelineError as error:
        raise PipelineError(f"{plan.origin}: pipeline: {error}") from error
    except PassError as error:
        raise PlanError(f"{plan.origin}: {error}") from error
    _check_done(plan, result)
    return replace(
        result,
        graph=_noted(result.graph, plan, bound),
        remarks=(*remarks, *result.remarks, *_left(plan, result.graph)),
    )


def _passes(plan: Plan) -> tuple[Pass, ...]:
    try:
        return parse_pipeline(plan.pipeline)
    except PipelineError as error:
        raise PipelineError(f"{plan.origin}: {error}") from error


def _check_done(plan: Plan, result: Result) -> None:
    """A decision that no pass has carried out, nor said why not, is one that the pipeline lacks a pass for.

    Raises:
        PlanError: there is one.
    """
    if result.undone:
        return  # of which a remark tells
    cut = {name for record in result.records for name in record.cut}
    whole = [name for name in plan.couplings() if name not in cut and name not in result.spared]
    if whole:
        raise PlanError(
            f"{plan.origin}: pipeline: {plan.pipeline} leaves dim {whole[0]} whole, which dims says is to be"
            " cut; have prune-channels in it, before what edits the dim"
        )
    there, said = _names(result.graph), {remark.where for remark in result.remarks}
    for collapse in plan.collapses():
        if there & _that_go(collapse) and collapse.span.name not in said:
            raise PlanError(
                f"{plan.origin}: pipeline: {plan.pipeline} leaves {collapse.span.name} as it is, which depth"
                " says goes; have collapse-spans and linearize-activations in it"
            )


def _names(graph: Graph) -> set[str]:
    return {node.name for node in graph.module.graph.nodes}


def _noted(graph: Graph, plan: Plan, data: ModelData | None) -> Graph:
    """``graph``, which carries into its file on which samples it was fitted, or chosen at least, and how many
    of the channels that were chosen from these samples never moved."""
    named = None if plan.calibration is None else plan.calibration.sketch()
    sketch = named if data is None else Sketch.of(data)
    said = {} if sketch is None else {METADATA: str(sketch)}
    cut = [dim for dim in plan.dims if len(dim.kept) < dim.size and dim.constant]
    if cut:
        said[CONSTANT] = f"{sum(dim.constant or 0 for dim in cut)} of {sum(dim.size for dim in cut)}"
    return replace(graph, metadata={**graph.metadata, **said}) if said else graph


def _find_data(plan: Plan, graph: Graph, data: Data | None) -> tuple[Data | None, str]:
    """The inputs to repair with, or None and the reason why there are none."""
    for given in (data, plan.data):
        if given is not None:
            return given, ""
    if plan.calibration is None:
        return None, "the plan names no calibration data"
    return plan.calibration.find(plan.seed, input_specs(graph))


def _left(plan: Plan, graph: Graph) -> tuple[Remark, ...]:
    """One remark per span that the passes have left whole."""
    there = _names(graph)
    return tuple(
        Remark(
            "missed", "plan", collapse.span.name, "is still there; the remarks of the passes say why, if any"
        )
        for collapse in plan.collapses()
        if there & _that_go(collapse)
    )


def _that_go(collapse: Collapse) -> set[str]:
    """The nodes of which none is left when the span has collapsed."""
    span = collapse.span
    stays = {span.exit} if span.branch is not None and collapse.map != "identity" else set[str]()
    return set(span.nodes) - stays


def _without_repairs(passes: tuple[Pass, ...], why: str) -> tuple[tuple[Pass, ...], tuple[Remark, ...]]:
    """The passes that need no inputs: channels are re-routed one by one, by the plan's own factors, where all
    that stay would have taken over."""
    left_out = [step for step in passes if step.name.startswith(_REPAIR) or step.name == REEXPRESSION]
    remarks = tuple(
        Remark("missed", "plan", step.name, f"left out: {why}; give the calibration inputs to repair")
        for step in left_out
    )
    kept = [step for step in passes if step not in left_out or step.name == REEXPRESSION]
    if any(step.name == REEXPRESSION for step in kept):
        text = [REROUTING if step.name == REEXPRESSION else str(step) for step in kept]
        return parse_pipeline(",".join(text)), remarks
    return tuple(kept), remarks


def _judging(step: Pass) -> Pass:
    """``step``, which judges for itself how much of a repair to take: what was settled on many inputs need
    not hold for few."""
    return replace(cast("Any", step), strength=0.0) if "strength" in option_names(type(step)) else step
