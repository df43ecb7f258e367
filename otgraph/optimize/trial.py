"""A trial: cut a network, repair it quickly, and see what its outputs have become."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np

from otgraph.allocate.choice import Choice
from otgraph.calibrate.downhill import downhill
from otgraph.calibrate.metric import OutputMetric
from otgraph.calibrate.span_fit import SpanFit
from otgraph.calibrate.width import Width
from otgraph.data import Data
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.axes.legal import legalize
from otgraph.graph.graph import Graph
from otgraph.optimize.trial_cache import TrialCache
from otgraph.repair.least_squares import LeastSquaresOptions
from otgraph.repair.trial import TrialRepair
from otgraph.rewrite.collapse import collapse_spans
from otgraph.rewrite.cut import cut_channels
from otgraph.rewrite.reexpress import reexpress_dims
from otgraph.rewrite.rewriter import Rewriter

INPUTS = 24, 48
"""So many inputs, within these limits, repair a trial, and as many others judge it: fewer where one costs
more."""

EFFORT = 20e9
"""Multiply-accumulates that one run of a trial's inputs through the network may take."""

TRIAL_RIDGES = (3e-4, 3e-3, 0.03, 0.3, 3.0, math.inf)
"""How near a trial's repair may stay to what re-expression makes of the weights; at infinity nothing is
refitted. With few and correlated inputs a small ridge makes a mild cut worse than no repair at all
(EfficientNet-Lite0 on crops of photographs: up to twice the distance); with inputs that say more it is the
best by far (digits: a third of the distance)."""

EARNED = 0.85
"""A refit costs as much as several runs of the network: it has to leave less than this of the damage."""

MANY = 8
"""With so many times the inputs of a trial a refit is tried although trials found none worth while."""

TRUSTED = 0.8
"""A repair helps for certain that leaves at most this share of the damage on inputs it was not made on."""

FIRST = 3
"""Which of them is looked at first."""


class Trial:
    """Damage of choices for ``graph``: repaired on ``fit``, judged on ``held``, which the repair has not
    seen, in the units of ``metric``.

    All trials repair with one of ``TRIAL_RIDGES``: see ``settle``. ``fits``: the collapses to be tried, by
    name. ``saved`` keeps what was measured. ``macs``: multiply-accumulates of one input. ``made``: how many
    trials were run; ``cost``: multiply-accumulates that one takes, about; ``count``: inputs that repair one.
    """

    def __init__(
        self,
        graph: Graph,
        axes: AxisMap,
        widths: Mapping[str, Width],
        fit: Data,
        held: Data,
        saved: TrialCache,
        fits: Mapping[str, SpanFit] | None = None,
        macs: float = 0.0,
        metric: OutputMetric | None = None,
    ) -> None:
        self.graph = graph
        self.axes = axes
        self.widths = widths
        self.saved = saved
        self.fits = dict(fits or {})
        self.metric = metric
        self.made = 0
        self.count = min(max(int(EFFORT / 2 / max(macs, 1.0)), INPUTS[0]), INPUTS[1])
        self.cost = 2 * self.count * macs
        self._inputs = (fit, held.take(self.count, seed=0))  # the first might all be of one picture
        self._repair: TrialRepair | None = None
        self._ridge = TRIAL_RIDGES[FIRST]

    @property
    def judged(self) -> Data:
        """The inputs that trials are judged on."""
        return self._inputs[1]

    def settle(self, choices: Sequence[Choice]) -> float:
        """Choose the ridge that repairs ``choices`` best, by the mean logarithm of the damage, and use it
        from now on: none at all, unless one leaves less than ``EARNED`` of the damage."""

        def score(at: int) -> float:
            damages = [max(self._damage(choice, TRIAL_RIDGES[at]), 1e-12) for choice in choices]
            return sum(map(math.log, damages)) / len(damages)

        last = len(TRIAL_RIDGES) - 1
        at = downhill(score, FIRST, last)
        earned = score(at) < score(last) + math.log(EARNED)
        self._ridge = TRIAL_RIDGES[at] if earned else math.inf
        return self._ridge

    def ridge(self, inputs: int, choice: Choice | None = None) -> float:
        """The ridge for a repair on so many ``inputs``: of what holds back the chance of few, less is needed
        where there are more, if not in proportion, since inputs to come are of other kinds too.

        Infinite where a repair is not worth while: on few inputs, and of ``choice``, whose maps, which no
        re-expression reaches, may ask for one after all.
        """
        ridge = self._ridge
        if math.isinf(ridge) and choice is not None and choice.options:
            gentle = self._damage(choice, TRIAL_RIDGES[-2])
            ridge = TRIAL_RIDGES[-2] if gentle < EARNED * self._damage(choice, math.inf) else ridge
        if math.isinf(ridge):
            return ridge if inputs < MANY * self.count else TRIAL_RIDGES[-2]
        return ridge * math.sqrt(self.count / max(inputs, self.count))

    def damage(self, choice: Choice) -> float:
        """The damage of one choice."""
        return self._damage(choice, self._ridge)

    def trusts(self, choice: Choice) -> bool:
        """Whether a trial's repair of ``choice`` helps by so much that one on more inputs need not be
        judged."""
        if math.isinf(self._ridge):
            return False
        return self.damage(choice) <= TRUSTED * self._damage(choice, math.inf)

    def within(self, choices: Mapping[str, Choice], seconds: float) -> dict[str, float]:
        """The damages of as many of ``choices`` as so many seconds of CPU time suffice for, by name."""
        started = time.process_time()
        found: dict[str, float] = {}
        for name, choice in choices.items():
            if time.process_time() - started > seconds:
                break
            found[name] = self.damage(choice)
        return found

    def _damage(self, choice: Choice, ridge: float) -> float:
        key = choice.key({name: width.size for name, width in self.widths.items()})
        if not key:
            return 0.0
        key = f"{key} @{ridge:g}"
        known = self.saved.get(key)
        if known is None:
            known = self._measure(choice, ridge)
            self.saved.put(key, known)
        return known

    def _measure(self, choice: Choice, ridge: float) -> float:
        if self._repair is None:  # runs the original: not needed where everything is saved
            fit, judged = self._inputs
            replaced = {fit.collapse.span.branch or fit.collapse.span.exit for fit in self.fits.values()}
            self._repair = TrialRepair(
                self.graph,
                fit,
                LeastSquaresOptions.quick(inputs=self.count),
                judged=judged,
                extra=sorted(replaced),
            )
        self.made += 1
        reference, outputs = self._repair.outputs(self._carried_out(choice), ridge)
        metric = self.metric or OutputMetric.of(reference)
        return metric.damage(reference, outputs)

    def _carried_out(self, choice: Choice) -> Graph:
        masks: dict[str, np.ndarray[tuple[int], np.dtype[np.bool_]]] = {}
        for name, k in sorted(choice.widths.items()):
            if k < self.widths[name].size:
                masks[name] = np.zeros(self.widths[name].size, bool)
                masks[name][self.widths[name].curve.kept(k)] = True
        rewriter = Rewriter(self.graph.copy(), "trial")
        if masks:
            keep = legalize(self.axes, masks)
            readings = {name: width.readings for name, width in self.widths.items()}
            reexpress_dims(rewriter, self.axes, keep, readings)
            cut_channels(rewriter, self.axes, keep)
        if choice.options:
            collapse_spans(rewriter, [self.fits[name].collapse for name in choice.options], self.fits)
        return rewriter.finish()
