"""The options of least damage that leave so many layers on the longest path.

Widths shorten no path, so they stay whole. A Boolean per option and a potential per node that can change: the
longest path is at most L where every node's depth is at least that of what it reads and its own layers.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from ortools.sat.python import cp_model

from otgraph.allocate.choice import Choice
from otgraph.allocate.cp_sat import Limits, Status
from otgraph.allocate.layers import LayerGraph
from otgraph.allocate.linear_form import total
from otgraph.allocate.problem import Problem
from otgraph.allocate.quadratic import Tangent
from otgraph.errors import UsageError

UNITS = 10**7


@dataclass(frozen=True)
class Layered:
    """The choice, a proven lower bound of the damage, and whether they meet."""

    choice: Choice
    bound: float
    status: Status


def fewest_layers(problem: Problem, limits: Limits) -> int:
    """How few layers any choice leaves on the longest path."""
    graph = _graph(problem)
    model, taken, depth = _model(problem, graph)
    longest = model.new_int_var(0, graph.longest(), "longest")
    for each in depth:
        model.add(longest >= each)
    model.minimize(longest)
    solver = _solver(limits)
    solver.solve(model)
    chosen = [
        option for option, pick in zip(problem.options, taken, strict=True) if solver.boolean_value(pick)
    ]
    return graph.longest(chosen)


def least_damage_within(problem: Problem, layers: int, limits: Limits, rounds: int = 4) -> Layered:
    """The options of least damage with at most ``layers`` on the longest path.

    With an interaction the damage is convex in the choice as far as that may be in parts, so its tangent at
    any point is a lower bound, and what minimises the tangent is the next candidate (Frank and Wolfe, 1956).

    Raises:
        UsageError: so few are out of reach; the message has how few are not.
    """
    graph = _graph(problem)
    if graph.longest() <= layers:
        return Layered(problem.full(), 0.0, "optimal")
    least = fewest_layers(problem, limits)
    if least > layers:
        raise UsageError(
            f"layers {layers}: out of reach; the smallest with these spans is {least}; ask for that or more"
        )
    alone = [option.damage for option in problem.options]
    best, bound, status = _solved(problem, graph, layers, alone, limits)
    if problem.interaction is None:
        return Layered(best, max(bound, 0.0), status)
    tangent, bound = Tangent.at(problem, best), 0.0
    for number in range(rounds):
        figures = [tangent.options[option.name] for option in problem.options]
        found, proven, _ = _solved(problem, graph, layers, figures, limits)
        bound = max(bound, proven + tangent.constant)
        if problem.damage(found) < problem.damage(best):
            best = found
        tangent = tangent.toward(found, 2 / (number + 3))
    damage = problem.damage(best)
    return Layered(best, min(bound, damage), "optimal" if bound >= damage * (1 - 1e-6) else "feasible")


def _graph(problem: Problem) -> LayerGraph:
    if problem.layers is None:
        raise ValueError("the problem does not say how its nodes read each other")
    return problem.layers


def _solved(
    problem: Problem, graph: LayerGraph, layers: int, figures: list[float], limits: Limits
) -> tuple[Choice, float, Status]:
    """The least sum of ``figures`` (one per option, of any sign), a bound of it, and the status."""
    model, taken, depth = _model(problem, graph)
    for each in depth:
        model.add(each <= layers)
    unit = max((abs(figure) for figure in figures), default=1.0) / UNITS or 1.0
    scaled = [round(figure / unit) for figure in figures]
    model.minimize(total(figure * pick for figure, pick in zip(scaled, taken, strict=True)))
    solver = _solver(limits)
    outcome = solver.solve(model)
    chosen = [o.name for o, pick in zip(problem.options, taken, strict=True) if solver.boolean_value(pick)]
    rounding = unit * len(figures)
    proven: Status = "optimal" if outcome == cp_model.OPTIMAL else "feasible"
    full = problem.full()
    return Choice(full.widths, tuple(chosen)), solver.best_objective_bound * unit - rounding, proven


def _model(
    problem: Problem, graph: LayerGraph
) -> tuple[cp_model.CpModel, list[cp_model.IntVar], list[cp_model.IntVar]]:
    model = cp_model.CpModel()
    taken = [model.new_bool_var(option.name) for option in problem.options]
    for one, other in itertools.combinations(range(len(taken)), 2):
        if other in problem.exclusions[one]:
            model.add_at_most_one(taken[one], taken[other])
    most = graph.longest() + sum(sum(each.values()) for each in graph.adds.values())
    depth: list[cp_model.IntVar] = []
    for node in graph.nodes:
        gone = [pick for o, pick in zip(problem.options, taken, strict=True) if node.name in o.removes]
        came = [
            graph.adds[o.name][node.name] * pick
            for o, pick in zip(problem.options, taken, strict=True)
            if graph.adds.get(o.name, {}).get(node.name)
        ]
        here = model.new_int_var(0, most, node.name)
        own = node.layers * (1 - total(gone)) if node.layers else 0
        for source in node.sources or (None,):
            before = 0 if source is None else depth[source]
            model.add(here >= before + own + total(came))
        depth.append(here)
    return model, taken, depth


def _solver(limits: Limits) -> cp_model.CpSolver:
    solver = cp_model.CpSolver()
    solver.parameters.random_seed = limits.seed
    solver.parameters.num_workers = 1
    solver.parameters.max_deterministic_time = limits.effort
    solver.parameters.max_time_in_seconds = limits.seconds
    return solver
