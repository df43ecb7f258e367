"""A trial: cut a network, repair it quickly, and see what its outputs have become."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from otgraph.allocate.choice import Choice
from otgraph.calibrate.span_fit import SpanFit
from otgraph.calibrate.width import Width
from otgraph.data import Data
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.axes.legal import legalise
from otgraph.graph.graph import Graph
from otgraph.optimize.saved import Saved
from otgraph.repair.least_squares import LeastSquaresOptions
from otgraph.repair.trial import TrialRepair
from otgraph.rewrite.collapse import collapse_spans
from otgraph.rewrite.cut import cut_channels
from otgraph.rewrite.rewriter import Rewriter

INPUTS = 24, 48
"""So many inputs, within these limits, repair a trial, and as many others judge it: fewer where one costs
more."""

EFFORT = 20e9
"""Multiply-accumulates that one run of a trial's inputs through the network may take."""

RIDGES = (0.03, 0.3, 3.0, 30.0)
"""How near a trial's repair may stay to the old weights. With few and correlated inputs a small ridge makes a
mild cut worse than no repair at all (EfficientNet-Lite0 on crops of photographs: up to twice the distance);
with inputs that say more it is the best by far (digits: a third of the distance)."""


class Trial:
    """Damage of cuts of ``graph``: repaired on ``fit``, judged on ``held``, which the repair has not seen.

    Damage is the squared relative L2 distance of the outputs, for classifiers too: independent errors add up
    in it, and on the few inputs of a trial it is far steadier than KL, which hangs on the one or two inputs
    that are nearly undecided. All trials repair with one of ``RIDGES``: see ``settle``. ``fits`` are the
    collapses that can be tried, by name. ``saved`` keeps what was measured. ``macs``: multiply-accumulates of
    one input.
    """

    def __init__(
        self,
        graph: Graph,
        axes: AxisMap,
        widths: Mapping[str, Width],
        fit: Data,
        held: Data,
        saved: Saved,
        fits: Mapping[str, SpanFit] | None = None,
        macs: float = 0.0,
    ) -> None:
        self.graph = graph
        self.axes = axes
        self.widths = widths
        self.saved = saved
        self.fits = dict(fits or {})
        self._count = min(max(int(EFFORT / 2 / max(macs, 1.0)), INPUTS[0]), INPUTS[1])
        self._inputs = (fit, held.take(self._count))
        self._repair: TrialRepair | None = None
        self._ridge = RIDGES[0]

    def settle(self, cuts: Sequence[Choice]) -> float:
        """Choose the ridge that repairs ``cuts`` best, by the mean logarithm of the damage, and use it from
        now on."""
        tried = {ridge: [self._damage(cut, ridge) for cut in cuts] for ridge in RIDGES}
        scores = {r: sum(math.log(max(d, 1e-12)) for d in damages) for r, damages in tried.items()}
        self._ridge = min(RIDGES, key=lambda ridge: scores[ridge])
        return self._ridge

    def damage(self, cut: Choice) -> float:
        """The damage of one cut."""
        return self._damage(cut, self._ridge)

    def _damage(self, cut: Choice, ridge: float) -> float:
        key = cut.key({name: width.size for name, width in self.widths.items()})
        if not key:
            return 0.0
        key = f"{key} @{ridge:g}"
        known = self.saved.get(key)
        if known is None:
            known = self._measure(cut, ridge)
            self.saved.put(key, known)
        return known

    def _measure(self, cut: Choice, ridge: float) -> float:
        if self._repair is None:  # runs the original: not needed where everything is saved
            fit, judged = self._inputs
            replaced = {fit.collapse.span.branch or fit.collapse.span.exit for fit in self.fits.values()}
            self._repair = TrialRepair(
                self.graph,
                fit,
                LeastSquaresOptions.quick(inputs=self._count),
                judged=judged,
                extra=sorted(replaced),
            )
        found = self._repair.damage(self._carried_out(cut), ridge)
        return found.relative_l2**2

    def _carried_out(self, cut: Choice) -> Graph:
        masks: dict[str, np.ndarray[tuple[int], np.dtype[np.bool_]]] = {}
        for name, k in sorted(cut.widths.items()):
            if k < self.widths[name].size:
                masks[name] = np.zeros(self.widths[name].size, bool)
                masks[name][self.widths[name].curve.kept(k)] = True
        rewriter = Rewriter(self.graph.copy(), "trial")
        if masks:
            cut_channels(rewriter, self.axes, legalise(self.axes, masks))
        if cut.options:
            collapse_spans(rewriter, [self.fits[name].collapse for name in cut.options], self.fits)
        return rewriter.finish()


def additive(damage: float, *, classifier: bool) -> float:
    """A divergence in the unit in which damages add up."""
    return damage if classifier else damage * damage
