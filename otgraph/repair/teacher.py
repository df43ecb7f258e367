"""``Teacher``: what a repair needs of the original network, computed once however often it is walked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from otgraph.calibrate.feeds import Feed
from otgraph.calibrate.rows import Sampling, gathered
from otgraph.graph.affine import affine_nodes, read_weight
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.pointwise import ADDITIONS
from otgraph.repair.checkpoints import Checkpoints
from otgraph.repair.frontier import Execution
from otgraph.repair.memory import add_storages
from otgraph.repair.target import addition_of


class Teacher:
    """The original's outputs, and its values at sampled positions of every layer and addition: the targets.

    The original runs batch by batch, so this costs no memory but the samples. Of the first ``fitted`` batches
    targets are taken, the others only have outputs. ``hold``: bytes of other values to keep, from which the
    changed part of a cut network is entered; without them the unchanged part is computed again. ``extra``:
    other nodes that are targets, because nodes of the new network stand for them. ``judged``: the batches
    whose outputs are kept; all by default.
    """

    def __init__(
        self,
        original: Graph,
        batches: Sequence[Feed],
        fitted: int,
        sampling: Sampling,
        hold: int = 0,
        extra: Collection[str] = (),
        judged: Collection[int] | None = None,
    ) -> None:
        self.original = original
        self.batches = batches
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._fitted = fitted
        self._sampling = sampling
        self._inputs = sum(len(batch[0]) for batch in batches[:fitted])
        self._extra = _with_sums(original, extra)
        self._samples: dict[tuple[str, int, int, int], torch.Tensor] = {}  # by node, batch, axis, positions
        self._places = _places(original, sampling, self._inputs)
        self._values = Checkpoints(original, batches, hold, self._visit, judged)
        self._fixed: dict[int, int] = {}  # nothing is added from here on
        add_storages(list(self._samples.values()), self._fixed)
        self._values.storages(self._fixed)

    @property
    def outputs(self) -> list[tuple[torch.Tensor, ...]]:
        """One tuple per batch; an empty one for those that are not judged."""
        return self._values.outputs

    def storages(self, held: dict[int, int]) -> None:
        """Add to ``held`` the address and bytes of each storage in memory: samples, outputs, held values."""
        held.update(self._fixed)

    def pick(self, name: str, total: int, batch: int) -> torch.Tensor:
        """Which of ``total`` positions were sampled for the layer ``name``."""
        return Sampling.pick(total, self._places[name][0][1], batch)

    def sample(self, name: str, batch: int, axis: int, positions: int) -> torch.Tensor:
        """The value of a node at that many positions, as ``gathered`` takes it."""
        return self._samples[name, batch, axis % len(self.shapes[name]), positions]

    def enter(self, execution: Execution, same: frozenset[str], batches: Sequence[int] | None = None) -> None:
        """Give ``execution``, a changed version, the original's values where its changed part begins.

        ``batches``: those that the execution runs over, by number; the first ones by default.
        """
        executed = {name for name in same if execution.nodes[name].op != "get_attr"}
        border = [
            name for name in executed if any(user.name not in same for user in execution.nodes[name].users)
        ]
        execution.begin_with(executed, self._values.values(border, batches or range(len(execution.batches))))

    def _visit(self, node: fx.Node, batch: int, value: Any) -> None:
        if not isinstance(value, torch.Tensor) or value.dim() < 2:
            return
        if node.name in self._extra and node.name not in self.shapes:
            self._places[node.name] = self._wider(self._places.get(node.name, []), value)
        places = self._places.get(node.name)
        if places is None:
            return
        self.shapes.setdefault(node.name, tuple(value.shape))
        if batch >= self._fitted:
            return
        for axis, count in places:
            total = value[0].numel() // max(value.shape[axis], 1)
            at = Sampling.pick(total, count, batch)
            key = node.name, batch, axis % value.dim(), len(at)
            if key not in self._samples:
                self._samples[key] = gathered(value, axis, at).clone()

    def _wider(self, places: list[tuple[int, int]], value: torch.Tensor) -> list[tuple[int, int]]:
        """``places`` and those of a stand-in, which may be a convolution of nine taps over axis 1 or a
        product over the last axis: nothing says yet which, so both are sampled, as often as the wider
        needs."""
        taps = 9 if value.dim() > 3 else 1
        count = self._sampling.count(taps * max(value.shape[1], value.shape[-1]), self._inputs)
        counts = dict.fromkeys([*(known for _, known in places), count])
        return [(axis, each) for each in counts for axis in (1, -1)]


@dataclass(frozen=True)
class Taught:
    """A execution and the teacher of its targets (a ``Pair``)."""

    new: Execution
    teacher: Teacher

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of the original's value for the first batch; None where it has no such layer or addition."""
        return self.teacher.shapes.get(name)

    def pick(self, name: str, total: int, width: int, batch: int) -> torch.Tensor:
        """The positions that the teacher sampled."""
        return self.teacher.pick(name, total, batch)

    def sample(self, name: str, batch: int, axis: int, at: torch.Tensor) -> torch.Tensor:
        """What the teacher sampled there."""
        return self.teacher.sample(name, batch, axis, len(at))


def _places(original: Graph, sampling: Sampling, samples: int) -> dict[str, list[tuple[int, int]]]:
    """Node → channel axis and positions of each input, for layers and the additions that follow them."""
    places: dict[str, list[tuple[int, int]]] = {}
    for view in affine_nodes(original):
        place = view.axis, sampling.count(read_weight(original, view)[0].numel(), samples)
        places.setdefault(view.output.name, []).insert(0, place)  # its own comes first
        added = addition_of(original, view.output)
        if added is not None:
            places.setdefault(added.node.name, []).append(place)
    return places


def _with_sums(original: Graph, extra: Collection[str]) -> frozenset[str]:
    """``extra`` and the additions that read them, whose sums are what mends a residual stream."""
    nodes = [node for node in original.module.graph.nodes if node.name in extra]
    sums = {user.name for node in nodes for user in node.users if op_name(user) in ADDITIONS}
    return frozenset(extra) | sums
