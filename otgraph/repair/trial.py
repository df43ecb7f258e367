"""``TrialRepair``: a cheap least-squares repair for judging many cuts of one network."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch

from otgraph.calibrate.batches import split_batches
from otgraph.calibrate.divergence import Divergence, output_divergence
from otgraph.data import Data
from otgraph.graph.graph import Graph
from otgraph.repair.fitter import Fitter
from otgraph.repair.frontier import Execution
from otgraph.repair.least_squares import LeastSquaresOptions, walk
from otgraph.repair.lockstep import outputs_of, same_nodes
from otgraph.repair.memory import UNLIMITED, Memory
from otgraph.repair.teacher import Teacher


class TrialRepair:
    """Repairs cut versions of ``original`` one after the other, each for one pass of the cut network at most.

    What does not depend on the cut is computed once and held: the original's outputs at sampled positions
    of every layer and addition, which are the targets, and as many of its other values as ``hold`` bytes
    allow (the smallest), from which the changed part of a cut network is entered. Every layer is fitted with
    the one ridge of ``options`` (``LeastSquaresOptions.quick``), so nothing is held out; ``judged`` are other
    inputs, carried along without being fitted, on which ``damage`` is measured. ``extra``: nodes besides the
    layers that cut versions will have stand-ins for (the branches and exits of spans that may collapse).

    Raises:
        DataError: the data do not fit the model, or hold no complete batch.
    """

    def __init__(
        self,
        original: Graph,
        data: Data,
        options: LeastSquaresOptions | None = None,
        *,
        judged: Data | None = None,
        hold: int = 384 << 20,
        extra: Collection[str] = (),
    ) -> None:
        self.options = options or LeastSquaresOptions.quick()
        batches = split_batches(original, data, 1, limit=self.options.inputs, seed=self.options.seed)
        others = [] if judged is None else split_batches(original, judged, 1)
        self._fitted = len(batches)
        inputs = [batch.inputs for batch in (*batches, *others)]
        self._judged = range(self._fitted if others else 0, len(inputs))
        self._teacher = Teacher(
            original, inputs, self._fitted, self.options.sampling, hold, extra, self._judged
        )

    def repair(self, new: Graph) -> Mapping[str, torch.Tensor]:
        """Tensor name → new value for a cut version of the original; neither graph is edited."""
        used = range(self._fitted)
        return self._walk(new, len(used), whole=False).pair.new.overrides

    def damage(self, new: Graph, ridge: float | None = None) -> Divergence:
        """How far ``new``, once repaired, is from the original on the ``judged`` inputs.

        Without any it is measured on those that it is fitted on, which flatters it. ``ridge``: another one
        than that of ``options``; an infinite one refits nothing.
        """
        return output_divergence(*self.outputs(new, ridge))

    def outputs(
        self, new: Graph, ridge: float | None = None
    ) -> tuple[list[tuple[torch.Tensor, ...]], list[tuple[torch.Tensor, ...]]]:
        """The original's outputs on the ``judged`` inputs, and those of ``new`` once repaired, by batch.

        With an infinite ``ridge`` only those inputs are run, from where the networks part.
        """
        reference = self._teacher.outputs
        if ridge == math.inf:
            execution = Execution(new, [self._teacher.batches[i] for i in self._judged], Memory(UNLIMITED))
            self._teacher.enter(execution, same_nodes(new, self._teacher.original), self._judged)
            with torch.no_grad():
                return [reference[i] for i in self._judged], outputs_of(execution)
        walked = self._walk(new, len(reference), whole=True, ridge=ridge).pair.new
        return [reference[i] for i in self._judged], outputs_of(walked, self._judged)

    def _walk(self, new: Graph, batches: int, *, whole: bool, ridge: float | None = None) -> Fitter:
        held_out = [index >= self._fitted for index in range(batches)]
        return walk(
            new,
            self._teacher,
            held_out,
            self.options,
            Memory(self.options.memory),
            fixed=self.options.ridges[0] if ridge is None else ridge,
            whole=whole,
        )
