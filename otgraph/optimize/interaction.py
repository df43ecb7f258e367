"""Cuts do not add up: the damages of an allocation are corrected by trials of the whole of it.

Every dim of a composed cut is given one candidate width back, one dim at a time; how much the measured damage
falls, against how much it was predicted to, says by how much this dim's curve is wrong where it matters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np

from otgraph.optimize.trial import Trial
from otgraph.plan.problem import Choice, Problem

EVEN = 4
"""The power of a share in the *even* reading: high enough that the largest shares decide."""

RANGE = 16.0
"""A curve is scaled by at most this much, up or down, relative to the typical correction."""


def variants(problem: Problem, residual: Collection[str]) -> dict[str, Problem]:
    """Other readings of the same curves, since damages of many cuts neither just add up nor all interact.

    *additive*: as it is. *coherent*: errors of different dims point the same way, so their sizes (roots) add
    up. *even*: deep cuts interact most, so every dim gives up a like share.
    """
    coherent = [replace(c, damages=tuple(math.sqrt(d) for d in c.damages)) for c in problem.choices]
    even = [
        replace(c, damages=tuple((1 - w / c.widths[0]) ** EVEN for w in c.widths)) for c in problem.choices
    ]
    inner = [
        replace(c, widths=c.widths[:1], damages=c.damages[:1]) if c.name in residual else c
        for c in problem.choices
    ]
    return {
        "additive": problem,
        "inner": replace(problem, choices=tuple(inner)),
        "coherent": replace(problem, choices=tuple(coherent)),
        "even": replace(problem, choices=tuple(even)),
    }


def corrected(
    problem: Problem,
    widths: Mapping[str, int],
    trial: Trial,
    whole: float,
    seconds: float,
    progress: Callable[[str], None],
) -> Problem | None:
    """``problem`` with each dim's damages scaled by what it does within the cut to ``widths``.

    ``whole``: the measured damage of that cut. None when the trials would take more than ``seconds`` of CPU
    time.
    """
    ratios: dict[str, float] = {}
    started = time.process_time()
    cut = [choice for choice in problem.choices if widths[choice.name] < choice.widths[0]]
    for number, choice in enumerate(cut, 1):
        if time.process_time() - started > seconds:
            return None
        progress(f"correcting {choice.name} within the whole ({number}/{len(cut)})")
        ratios[choice.name] = _ratio(choice, widths, trial, whole)
    if not ratios:
        return None
    typical = float(np.median(list(ratios.values())))
    choices = tuple(_scaled(choice, ratios.get(choice.name, typical), typical) for choice in problem.choices)
    return replace(problem, choices=choices)


def _ratio(choice: Choice, widths: Mapping[str, int], trial: Trial, whole: float) -> float:
    at = choice.widths.index(widths[choice.name])
    wider = choice.widths[at - 1]
    predicted = choice.damages[at] - choice.damages[at - 1]
    measured = whole - trial.damage({**widths, choice.name: wider})
    return max(measured, 0.0) / max(predicted, 1e-12)


def _scaled(choice: Choice, ratio: float, typical: float) -> Choice:
    bounded = min(max(ratio, typical / RANGE), typical * RANGE) if typical > 0 else 1.0
    return replace(choice, damages=tuple(damage * bounded for damage in choice.damages))
