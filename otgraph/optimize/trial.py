"""A trial: cut a network to some widths, repair it quickly, and see what its outputs have become."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from otgraph.calibrate.width import Width
from otgraph.data import Data
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.axes.legal import legalise
from otgraph.graph.graph import Graph
from otgraph.optimize.saved import Saved
from otgraph.repair.least_squares import LeastSquaresOptions
from otgraph.repair.trial import TrialRepair
from otgraph.rewrite.cut import cut_channels
from otgraph.rewrite.rewriter import Rewriter

FIT, JUDGE = 48, 64
"""At most so many inputs repair a trial, and judge it."""


class Trial:
    """Damage of cuts of ``graph``: repaired on ``fit``, judged on ``held``, which the repair has not seen.

    Damage is the squared relative L2 distance of the outputs, for classifiers too: independent errors add up
    in it, and on the few inputs of a trial it is far steadier than KL, which hangs on the one or two inputs
    that are nearly undecided. ``saved`` keeps what was measured.
    """

    def __init__(
        self, graph: Graph, axes: AxisMap, widths: Mapping[str, Width], fit: Data, held: Data, saved: Saved
    ) -> None:
        self.graph = graph
        self.axes = axes
        self.widths = widths
        self.saved = saved
        self._inputs = (fit, held.take(JUDGE))
        self._repair: TrialRepair | None = None

    def damage(self, kept: Mapping[str, int]) -> float:
        """The damage of keeping so many channels of each dim named; the others stay whole."""
        cut = {name: k for name, k in sorted(kept.items()) if k < self.widths[name].size}
        if not cut:
            return 0.0
        key = " ".join(f"{name}:{k}" for name, k in cut.items())
        known = self.saved.get(key)
        if known is None:
            known = self._measure(cut)
            self.saved.put(key, known)
        return known

    def _measure(self, cut: Mapping[str, int]) -> float:
        if self._repair is None:  # runs the original: not needed where everything is saved
            fit, judged = self._inputs
            self._repair = TrialRepair(self.graph, fit, LeastSquaresOptions.quick(inputs=FIT), judged=judged)
        masks: dict[str, np.ndarray[tuple[int], np.dtype[np.bool_]]] = {}
        for name, k in cut.items():
            masks[name] = np.zeros(self.widths[name].size, bool)
            masks[name][self.widths[name].curve.kept(k)] = True
        rewriter = Rewriter(self.graph.copy(), "trial")
        cut_channels(rewriter, self.axes, legalise(self.axes, masks))
        found = self._repair.damage(rewriter.finish())
        return found.relative_l2**2


def additive(damage: float, *, classifier: bool) -> float:
    """A divergence in the unit in which damages add up."""
    return damage if classifier else damage * damage
