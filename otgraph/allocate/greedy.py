"""A good allocation at once, by steepest ratio: the start of the exact search, and what it may never fall
behind."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from otgraph.allocate.choice import Choice
from otgraph.allocate.problem import Caps, Problem, raised
from otgraph.allocate.walk import Walk

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
_SLACK = 1e-12
_LEAST_GAIN = 1e-10
"""What a move to a wider dim or another option must change, of the whole; else rounding could make a loop."""


def least_damage_start(problem: Problem, budget: float) -> Choice:
    """A choice whose time is at most ``budget``, if the walk gets there (``meet_budget``), which it always
    does in a plain problem whose least widths meet the budget."""
    walk = Walk(problem)
    meet_budget(walk, Caps(budget))
    return walk.choice()


def meet_budget(walk: Walk, caps: Caps) -> None:
    """Go to a time within ``caps``, if that is reached: the moves that save most time per damage until it is
    met, then the moves back that fit. No move makes the longest path longer than may be."""
    while walk.time > raised(caps.time, _SLACK) and _down(walk, np.inf, caps.layers):
        pass
    while _up(walk, raised(caps.time, _SLACK), caps.layers):
        pass


def least_time_start(problem: Problem, limit: float) -> Choice:
    """A choice whose damage is at most ``limit``, if the walk gets there: the moves that save most time per
    damage, as long as one fits."""
    walk = Walk(problem)
    meet_limit(walk, limit)
    return walk.choice()


def meet_limit(walk: Walk, limit: float, layers: int | None = None) -> None:
    """Go to a damage of at most ``limit``, if that is reached, and then to where no move that saves time
    keeps it; no move makes the longest path longer than ``layers``."""
    while walk.damage > raised(limit, _SLACK) and _up(walk, np.inf, layers):
        pass
    while _down(walk, raised(limit, _SLACK), layers):
        pass


def _down(walk: Walk, limit: float, layers: int | None = None) -> bool:
    """Take the move that saves most time per damage, of those that keep the damage at most ``limit`` and the
    longest path at most ``layers``."""
    least, damage = _LEAST_GAIN * abs(walk.time), walk.damage
    saved, harm = walk.saved_by_dims(), walk.harm_of_dims()
    narrower = walk.widths < walk.widths[walk.rows, walk.at][:, None]
    fits = np.isfinite(harm) & ((saved > least) | ((saved > 0) & narrower)) & (damage + harm <= limit)
    gains = np.where(fits, saved / np.maximum(harm, 1e-100), -np.inf)
    saved, harm = walk.saved_by_options(), walk.harm_of_options()
    fits = np.isfinite(harm) & (saved > least) & (damage + harm <= limit) & short_enough(walk, layers)
    return _move(walk, gains, np.where(fits, saved / np.maximum(harm, 1e-100), -np.inf))


def _up(walk: Walk, budget: float, layers: int | None = None) -> bool:
    """Take the move that undoes most damage among those that keep the time at most ``budget`` and the longest
    path at most ``layers``."""
    least, time = _LEAST_GAIN * walk.damage, walk.time
    harm = walk.harm_of_dims()
    gains = np.where((harm < 0) & (time - walk.saved_by_dims() <= budget), -harm, -np.inf)
    harm = walk.harm_of_options()
    fits = (harm < -least) & (time - walk.saved_by_options() <= budget) & short_enough(walk, layers)
    return _move(walk, gains, np.where(fits, -harm, -np.inf))


def short_enough(walk: Walk, layers: int | None) -> Booleans:
    """Which moves of an option leave at most ``layers`` on the longest path, shape (options,); where there
    are more now, those that add none."""
    if layers is None:
        return np.ones(len(walk.harms), np.bool_)
    return walk.layers_by_options() <= max(layers, walk.layers())


def _move(walk: Walk, dims: Floats, options: Floats) -> bool:
    """Make the move of most gain, a dim's before an option's; False when there is none."""
    best = float(max(dims.max(initial=-np.inf), options.max(initial=-np.inf)))
    if not np.isfinite(best):
        return False
    if dims.max(initial=-np.inf) == best:
        row, level = np.unravel_index(int(dims.argmax()), dims.shape)
        walk.move_dim(int(row), int(level))
    else:
        walk.move_option(int(options.argmax()))
    return True
