"""Cuts do not add up: other readings of the same figures, and their correction by trials of the whole.

Every part of a composed cut is taken back by one step, one part at a time; how much the measured damage
falls, against how much it was predicted to, says by how much this part's figures are wrong where it matters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from otgraph.allocate.choice import Choice
from otgraph.allocate.problem import DimOptions, Option, Problem
from otgraph.optimize.trial import Trial

EVEN = 4
"""The power of a share in the *even* reading: high enough that the largest shares decide."""

RANGE = 16.0
"""Figures are scaled by at most this much, up or down, relative to the typical correction."""


def readings(problem: Problem, residual: Collection[str]) -> dict[str, Problem]:
    """Other readings of the same figures, since damages of many cuts neither just add up nor all interact.

    *additive*: as it is. *coherent*: errors of different parts point the same way, so their sizes (roots) add
    up. *inner*: the dims in ``residual`` stay whole. *even*: deep cuts interact most, so every dim gives up a
    like share and no span collapses. *width* and *depth*: one of the two alone, coherent too; the joint
    allocation is thereby never worse than either, as far as trials of the whole can tell.
    """
    found = {"additive": problem, "coherent": _coherent(problem)}
    if problem.dims:
        found["inner"] = _whole(problem, residual)
        found["even"] = replace(problem, dims=_even(problem), options=())
    if problem.options and problem.dims:
        width, depth = replace(problem, options=()), _whole(problem, {c.name for c in problem.dims})
        found |= {"width": width, "width, coherent": _coherent(width)}
        found |= {"depth": depth, "depth, coherent": _coherent(depth)}
        found["inner, coherent"] = _coherent(found["inner"])
    return found


def _coherent(problem: Problem) -> Problem:
    choices = [replace(c, damages=tuple(math.sqrt(d) for d in c.damages)) for c in problem.dims]
    options = [replace(option, damage=math.sqrt(option.damage)) for option in problem.options]
    return replace(problem, dims=tuple(choices), options=tuple(options))


def _even(problem: Problem) -> tuple[DimOptions, ...]:
    return tuple(
        replace(c, damages=tuple((1 - w / c.widths[0]) ** EVEN for w in c.widths)) for c in problem.dims
    )


def _whole(problem: Problem, names: Collection[str]) -> Problem:
    """The dims called ``names`` have no choice but to stay whole."""
    choices = [
        replace(c, widths=c.widths[:1], damages=c.damages[:1]) if c.name in names else c for c in problem.dims
    ]
    return replace(problem, dims=tuple(choices))


def corrected(
    problem: Problem,
    cut: Choice,
    trial: Trial,
    whole: float,
    seconds: float,
    progress: Callable[[str], None],
) -> Problem | None:
    """``problem`` with the damages of each part of ``cut`` scaled by what that part does within the whole.

    ``whole``: the measured damage of ``cut``. None when the trials would take more than ``seconds`` of CPU
    time.
    """
    ratios: dict[str, float] = {}
    started = time.process_time()
    parts = _parts(problem, cut)
    for number, (name, less, predicted) in enumerate(parts, 1):
        if time.process_time() - started > seconds:
            return None
        progress(f"correcting {name} within the whole ({number}/{len(parts)})")
        ratios[name] = max(whole - trial.damage(less), 0.0) / max(predicted, 1e-12)
    if not ratios:
        return None
    typical = float(np.median(list(ratios.values())))
    choices = [_scaled(choice, ratios.get(choice.name, typical), typical) for choice in problem.dims]
    options = [_scaled_option(o, ratios.get(o.name, typical), typical) for o in problem.options]
    return replace(problem, dims=tuple(choices), options=tuple(options))


def _parts(problem: Problem, cut: Choice) -> list[tuple[str, Choice, float]]:
    """Each part of ``cut``: its name, the cut with one step less of it, and by how much that is predicted to
    help."""
    parts: list[tuple[str, Choice, float]] = []
    for choice in problem.dims:
        at = choice.widths.index(cut.widths[choice.name])
        if at:
            less = Choice({**cut.widths, choice.name: choice.widths[at - 1]}, cut.options)
            parts.append((choice.name, less, choice.damages[at] - choice.damages[at - 1]))
    for option in problem.options:
        if option.name in cut.options:
            others = tuple(name for name in cut.options if name != option.name)
            parts.append((option.name, Choice(cut.widths, others), option.damage))
    return parts


def _bounded(ratio: float, typical: float) -> float:
    return min(max(ratio, typical / RANGE), typical * RANGE) if typical > 0 else 1.0


def _scaled(choice: DimOptions, ratio: float, typical: float) -> DimOptions:
    return replace(choice, damages=tuple(d * _bounded(ratio, typical) for d in choice.damages))


def _scaled_option(option: Option, ratio: float, typical: float) -> Option:
    return replace(option, damage=option.damage * _bounded(ratio, typical))
