"""A budget in layers: what the longest path of a graph is made of, and how much of it collapses take away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from otgraph.allocate.layers import LayerGraph, LayerNode
from otgraph.allocate.problem import Problem
from otgraph.graph.depth import is_product
from otgraph.graph.graph import Graph
from otgraph.graph.regions import Flow
from otgraph.optimize.proposals import Proposal


def with_layers(problem: Problem, graph: Graph, proposals: Sequence[Proposal]) -> Problem:
    """``problem`` that knows the paths of ``graph``; what a collapse brings stands at its end."""
    flow = Flow.of(graph)
    place = {node: at for at, node in enumerate(flow.order)}
    nodes = tuple(
        LayerNode(node.name, tuple(place[source] for source in flow.preds[node]), int(is_product(node)))
        for node in flow.order
    )
    adds = {proposal.name: {proposal.end: proposal.added} for proposal in proposals if proposal.added}
    return replace(problem, layers=LayerGraph(nodes, adds))
