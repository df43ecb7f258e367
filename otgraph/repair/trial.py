"""``TrialRepair``: a cheap least-squares repair for judging many cuts of one network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from otgraph.calibrate.divergence import Divergence, output_divergence
from otgraph.data import Data
from otgraph.graph.affine import affine_nodes, read_weight
from otgraph.graph.graph import Graph
from otgraph.repair.batches import split_batches
from otgraph.repair.checkpoints import Checkpoints
from otgraph.repair.fitter import Fitter
from otgraph.repair.frontier import Memory, Program
from otgraph.repair.least_squares import LeastSquaresOptions
from otgraph.repair.lockstep import outputs_of, same_nodes
from otgraph.repair.rows import Sampling, gathered
from otgraph.repair.target import addition_of


class TrialRepair:
    """Repairs cut versions of ``original`` one after the other, each for one pass of the cut network at most.

    What does not depend on the cut is computed once and held: the original's outputs at sampled positions
    of every layer and addition, which are the targets, and as many of its other values as ``hold`` bytes
    allow (the smallest), from which the changed part of a cut network is entered. Every layer is fitted with
    the one ridge of ``options`` (``LeastSquaresOptions.quick``), so nothing is held out; ``judged`` are other
    inputs, carried along without being fitted, on which ``damage`` is measured.

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
        hold: int = 768 << 20,
    ) -> None:
        self.options = options or LeastSquaresOptions.quick()
        self.original = original
        batches = split_batches(original, data, 1, limit=self.options.inputs, seed=self.options.seed)
        others = [] if judged is None else split_batches(original, judged, 1)
        self._batches = [batch.inputs for batch in (*batches, *others)]
        self._fitted = len(batches)
        samples = sum(len(batch.inputs[0]) for batch in batches)
        self._targets = _Targets(original, self._fitted, samples, self.options.sampling)
        self._values = Checkpoints(original, self._batches, hold, self._targets.visit)

    def repair(self, new: Graph) -> Mapping[str, torch.Tensor]:
        """Tensor name → new value for a cut version of the original; neither graph is edited."""
        return self._walk(new, judge=False).overrides

    def damage(self, new: Graph) -> Divergence:
        """How far ``new``, once repaired, is from the original on the ``judged`` inputs.

        Without any it is measured on those that it is fitted on, which flatters it."""
        outputs = outputs_of(self._walk(new, judge=True))
        first = self._fitted if self._fitted < len(self._batches) else 0
        return output_divergence(self._values.outputs[first:], outputs[first:])

    def _walk(self, new: Graph, *, judge: bool) -> Program:
        used = self._batches if judge else self._batches[: self._fitted]
        program = Program(new, used, Memory(self.options.memory))
        same = same_nodes(new, self.original)
        self._enter(program, same)
        views = {view.node.name: view for view in affine_nodes(new)}
        fitter = Fitter(
            pair=_TrialPair(program, self._targets),
            same=same,
            views=views,
            held_out=[index >= self._fitted for index in range(len(used))],
            ridges=(),
            mode=self.options.target,
            max_width=self.options.max_width,
            fixed=dict.fromkeys(views, self.options.ridges[0]),
            precision=self.options.precision,
        )
        last = max((i for i, node in enumerate(new.module.graph.nodes) if node.name in views), default=-1)
        with torch.no_grad():
            for number, node in enumerate(new.module.graph.nodes):
                if node.op == "get_attr" or node.name in same:
                    continue
                if number > last and not judge:
                    break
                fitter.before(node)
                if judge or number < last:
                    program.step(node)
        return program

    def _enter(self, program: Program, same: frozenset[str]) -> None:
        """Give ``program`` the original's values where its changed part begins."""
        executed = {name for name in same if program.nodes[name].op != "get_attr"}
        border = [
            name for name in executed if any(user.name not in same for user in program.nodes[name].users)
        ]
        values = self._values.values(border, len(program.batches))
        program.begin_with(executed, values)


@dataclass(frozen=True)
class _TrialPair:
    """The new network, and the original as its sampled values."""

    new: Program
    targets: _Targets

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self.targets.shapes.get(name)

    def pick(self, name: str, total: int, width: int, batch: int) -> torch.Tensor:
        return self.targets.picks[name, batch]

    def sample(self, name: str, batch: int, axis: int, at: torch.Tensor) -> torch.Tensor:
        return self.targets.found[name, batch]


class _Targets:
    """The original's values where layers are fitted, at the positions that a trial samples."""

    def __init__(self, original: Graph, batches: int, samples: int, sampling: Sampling) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.found: dict[tuple[str, int], torch.Tensor] = {}
        self.picks: dict[tuple[str, int], torch.Tensor] = {}
        self._batches = batches
        self._places: dict[str, tuple[int, int]] = {}
        for view in affine_nodes(original):
            width = read_weight(original, view)[0].numel()
            place = view.axis, sampling.count(width, samples)
            self._places[view.output.name] = place
            added = addition_of(original, view.output)
            if added is not None:
                self._places[added.node.name] = place

    def visit(self, node: fx.Node, batch: int, value: Any) -> None:
        """Sample one value of the original."""
        place = self._places.get(node.name)
        if place is None or not isinstance(value, torch.Tensor):
            return
        axis, count = place
        if batch == 0:
            self.shapes[node.name] = tuple(value.shape)
        if batch < self._batches:
            total = value[0].numel() // max(value.shape[axis], 1)
            at = Sampling.pick(total, count, batch)
            self.picks[node.name, batch] = at
            self.found[node.name, batch] = gathered(value, axis, at).clone()
