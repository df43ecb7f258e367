"""What a plan tells a pass to do to the widths of the graph as it is now."""

from __future__ import annotations

from typing import Any

from otgraph.errors import PipelineError
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.rewrite.contract import Context
from otgraph.rewrite.options import changed_options
from otgraph.rewrite.rewriter import Rewriter
from otgraph.transport.coupling import Coupling


def planned_couplings(rewriter: Rewriter, context: Context, axes: AxisMap) -> dict[str, Coupling]:
    """The couplings of the plan whose dims are there with the channels that it means; of the others a remark
    says what became of them. ``axes``: those of the graph as it is now."""
    found: dict[str, Coupling] = {}
    for name, coupling in context.couplings.items():
        if name not in axes.dims:
            rewriter.remark("missed", name, "no such dim in this graph")
        elif axes.dims[name].size != coupling.size:
            was = f"the plan is for {coupling.size} channels, of which {axes.dims[name].size} are left"
            rewriter.remark("missed", name, was)
        else:
            found[name] = coupling
    return found


def refuse_choices(step: Any, *names: str) -> None:
    """Refuse options of a pass that choose what a plan has chosen already: they would have no effect.

    Raises:
        PipelineError: one of ``names`` differs from its default.
    """
    given = [name for name in changed_options(step) if name in names]
    if given:
        raise PipelineError(
            f"{step}: option '{given[0]}' chooses where there is no plan, and here is one; leave it out"
        )
