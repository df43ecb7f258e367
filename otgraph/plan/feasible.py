"""Whether a model can be done all that a plan says: looked at before anything is edited."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from otgraph.calibrate.readers import find_readers
from otgraph.calibrate.span_fit import misfit
from otgraph.engines.catalog import ENGINES
from otgraph.errors import PlanError
from otgraph.graph.axes.analysis import analyze
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.axes.legal import legalize
from otgraph.graph.graph import Graph
from otgraph.graph.span import Collapse
from otgraph.plan.decision import DimDecision
from otgraph.rewrite.options import suggest
from otgraph.rewrite.region import find_region
from otgraph.rewrite.shapes import value_infos
from otgraph.transport.criteria.catalog import CRITERIA

if TYPE_CHECKING:
    from otgraph.plan.plan import Plan


def check_feasible(plan: Plan, graph: Graph) -> None:
    """Accept ``plan`` where each of its decisions can be carried out on ``graph``, the model it is for.

    Raises:
        PlanError: one cannot; names the field, its value, and why.
    """
    _check_named(plan.engine, ENGINES, f"{plan.origin}: engine")
    _check_named(plan.criterion, CRITERIA, f"{plan.origin}: criterion")
    if not plan.dims and not plan.depth:
        return
    axes = analyze(graph)
    for at, dim in enumerate(plan.dims):
        _check_dim(dim, axes, f"{plan.origin}: dims[{at}]")
    _check_readers(plan, graph, axes)
    _check_together(plan, axes)
    _check_depth(plan, graph, axes)


def _check_named(name: str, known: Mapping[str, object], where: str) -> None:
    if name not in known:
        raise PlanError(f"{where}: there is no {name!r}; {suggest(name, known)}")


def _check_dim(dim: DimDecision, axes: AxisMap, where: str) -> None:
    if dim.name not in axes.dims:
        cuttable = [each.name for each in axes.prunable()]
        raise PlanError(f"{where}.name: the model has no dim {dim.name!r}; {suggest(dim.name, cuttable)}")
    known = axes.dims[dim.name]
    if dim.size != known.size:
        raise PlanError(f"{where}.size: {dim.name} has {known.size} channels, not {dim.size}")
    if len(dim.kept) < dim.size and not known.prunable:
        raise PlanError(f"{where}.name: {dim.name} cannot be cut: it is blocked by {known.blocked}")


def _check_readers(plan: Plan, graph: Graph, axes: AxisMap) -> None:
    """Factors are for readers that there are, and no larger than weights can be."""
    readers = find_readers(graph, axes)
    for at, dim in enumerate(plan.dims):
        names = [reader.name for reader in readers.get(dim.name, ()) if reader.affine is not None]
        for reader, factors in dim.scales.items():
            where = f"{plan.origin}: dims[{at}].scales"
            if reader not in names:
                raise PlanError(f"{where}: {dim.name} is not read by {reader!r}; {suggest(reader, names)}")
            weight = graph.tensor(reader)
            most = torch.finfo(weight.dtype).max if weight.is_floating_point() else math.inf
            large = [factor for factor in factors if not abs(factor) <= most]
            if large:
                raise PlanError(f"{where}[{reader!r}]: a factor of {large[0]:g} is beyond what weights hold")


def _check_together(plan: Plan, axes: AxisMap) -> None:
    """Cut together, the dims leave something of every axis."""
    masks = {name: coupling.mask() for name, coupling in plan.couplings().items()}
    legal = legalize(axes, masks)
    for at, dim in enumerate(plan.dims):
        if dim.name in masks and not np.array_equal(masks[dim.name], legal[dim.name]):
            raise PlanError(
                f"{plan.origin}: dims[{at}].kept: {list(dim.kept)} leaves nothing of an axis that holds part"
                f" of {dim.name}; keep {int(np.flatnonzero(legal[dim.name] & ~masks[dim.name])[0])} too"
            )


def _check_depth(plan: Plan, graph: Graph, axes: AxisMap) -> None:
    if not plan.depth:
        return
    infos = value_infos(graph)
    names = [node.name for node in graph.module.graph.nodes]
    for at, action in enumerate(plan.depth):
        where, span = f"{plan.origin}: depth[{at}]", action.collapse.span
        for field, wanted in (("entry", (span.entry,)), ("nodes", span.nodes)):
            for name in wanted:
                if name not in names:
                    raise PlanError(
                        f"{where}.{field}: the model has no node {name!r}; {suggest(name, names)}"
                    )
        region = find_region(graph, span, infos)
        if isinstance(region, str):
            raise PlanError(f"{where}: {span.name} is no span of the model: {region}")
        if action.collapse.map == "identity" and region.before != region.after:
            ends = f"{list(region.before)} enter and {list(region.after)} leave"
            raise PlanError(f"{where}.map: {span.name} cannot become the identity: {ends}")
        _check_map(action.collapse, graph, axes, where)


def _check_map(collapse: Collapse, graph: Graph, axes: AxisMap, where: str) -> None:
    reason = misfit(graph, axes, collapse)
    if reason is not None:
        size = "×".join(map(str, collapse.kernel))
        map_ = f"{size} {collapse.map}" if size else collapse.map
        raise PlanError(
            f"{where}.map: {collapse.span.name} cannot become {map_} ({collapse.estimator}): {reason}"
        )
