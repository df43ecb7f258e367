"""What activations do to their channels: the best affine map in their place, and how often they are off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx
from torch.fx.node import map_arg

from otgraph.calibrate.batches import Batch
from otgraph.calibrate.observe import observe
from otgraph.graph.affine import Affine, read_affine, read_weight
from otgraph.graph.axes.axis_map import AxisMap
from otgraph.graph.graph import Graph
from otgraph.graph.pointwise import is_affine
from otgraph.graph.span import Span
from otgraph.graph.span_site import channel_axis, shape_of
from otgraph.transport.rounding import rounding_share

Vector = npt.NDArray[np.float64]

FLAT = 0.05
"""A local slope below this is *off*, one nearer than this to 1 is *on*; all others are *curved*."""


@dataclass(frozen=True, eq=False)
class ActivationStatistics:
    """One activation y = f(z), per channel, over all inputs and positions; each field (C,) but as said.

    ``slope`` and ``intercept``: the affine map nearest to f in the mean square, Cov(f(z), z)/Var(z) and
    E f(z) − slope E z. ``variance``: of y. ``unexplained``: the part of it that the affine map leaves.
    ``energy``: what the readers of y make of it, Σ of their squared weights of the channel (1 where no
    reader has weights). ``occupancy`` (C, 3): the shares of positions where f is off (its local slope is
    about 0: the dead half of a rectifier, and the upper end of one that saturates, as ReLU6), curved
    (between, or steeper than 1), and on (slope about 1). ``entropy``: of these three, in bits.
    """

    span: Span
    count: int
    slope: Vector
    intercept: Vector
    variance: Vector
    unexplained: Vector
    energy: Vector
    occupancy: Vector
    entropy: Vector

    def __deepcopy__(self, memo: dict[int, Any]) -> ActivationStatistics:
        return self  # a value; copies of a graph share it

    @property
    def cost(self) -> float:
        """The share of what readers make of y that the affine map loses: 0 where f is affine, at most 1."""
        whole = float(self.energy @ self.variance)
        return float(self.energy @ self.unexplained) / whole if whole > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Means over the channels, as plain JSON values."""
        off, curved, on = (float(v) for v in self.occupancy.mean(0))
        return {
            "activation": self.span.name,
            "channels": len(self.slope),
            "cost": self.cost,
            "slope": float(self.slope.mean()),
            "off": off,
            "curved": curved,
            "on": on,
            "entropy": float(self.entropy.mean()),
        }


def collect_activations(
    graph: Graph, axes: AxisMap, batches: Sequence[Batch], spans: Sequence[Span]
) -> dict[str, ActivationStatistics]:
    """The statistics of the activations ``spans`` (of ``activation_nodes``) by the spans' names.

    Counts are added up over all positions and batches, channel by channel; nothing is averaged per batch.
    """
    sums = {span.name: _Sums(graph, span, channel_axis(axes, span.entry) or 1) for span in spans}
    by_entry: dict[str, list[_Sums]] = {}
    for found in sums.values():
        by_entry.setdefault(found.span.entry, []).append(found)

    def look(name: str, value: torch.Tensor) -> None:
        for found in by_entry[name]:
            found.add(value)

    for batch in batches:
        observe(graph, batch.inputs, by_entry.keys(), look)
    return {
        name: found.value(reading_energy(graph, axes, found.span.exit))
        for name, found in sums.items()
        if found.count
    }


def reading_energy(graph: Graph, axes: AxisMap, name: str) -> Vector:
    """Σ over the readers of the value ``name`` of their squared weights, per channel: (C,).

    Followed through nodes that are affine and keep the number of channels. Ones where none has weights.
    """
    shape, axis = shape_of(axes, name), channel_axis(axes, name)
    assert shape is not None and axis is not None
    channels = shape[axis]
    program = {node.name: node for node in graph.module.graph.nodes}
    total = np.zeros(channels)
    stack, seen = [program[name]], {program[name]}
    while stack:
        here = stack.pop()
        for user in here.users:
            affine = read_affine(graph, user)
            if affine is not None and affine.data is here:
                energy = _column_energy(graph, affine)
                total += energy if len(energy) == channels else 0.0
            elif user not in seen and _passes(axes, user, here, channels):
                seen.add(user)
                stack.append(user)
    return total if total.any() else np.ones(channels)


def _passes(axes: AxisMap, user: fx.Node, source: fx.Node, channels: int) -> bool:
    shape, axis = shape_of(axes, user.name), channel_axis(axes, user.name)
    same = shape is not None and axis is not None and shape[axis] == channels
    return same and is_affine(user, frozenset((source,)))


def _column_energy(graph: Graph, affine: Affine) -> Vector:
    weight, groups = read_weight(graph, affine).double(), affine.window.groups
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return grouped.square().sum((1, 3)).reshape(-1).numpy()


class _Sums:
    """Sums per channel of z, y, z², zy, y² in float64 (products as well: those of a channel that is constant
    round alike, which would pass for variance), and counts of the three states."""

    def __init__(self, graph: Graph, span: Span, axis: int) -> None:
        self.span = span
        self.count = 0
        self._axis = axis
        self._apply = _Function(graph, span)
        self._totals: torch.Tensor | None = None
        self._states: torch.Tensor | None = None

    def add(self, value: torch.Tensor) -> None:
        y, slope = self._apply(value)
        z, y, slope = (v.movedim(self._axis, 0).reshape(v.shape[self._axis], -1) for v in (value, y, slope))
        z, y = z.double(), y.double()
        totals = torch.stack([v.sum(1) for v in (z, y, z * z, z * y, y * y)])
        off, on = slope.abs() < FLAT, (slope - 1).abs() < FLAT
        states = torch.stack([off.sum(1), (~off & ~on).sum(1), on.sum(1)], dim=1)
        self._totals = totals if self._totals is None else self._totals + totals
        self._states = states if self._states is None else self._states + states
        self.count += z.shape[1]

    def value(self, energy: Vector) -> ActivationStatistics:
        assert self._totals is not None and self._states is not None
        z, y, zz, zy, yy = (total / self.count for total in self._totals)
        var_z, var_y, joint = (zz - z * z).clamp_min(0), (yy - y * y).clamp_min(0), zy - z * y
        live = var_z > rounding_share() * zz
        slope = torch.where(live, joint / torch.where(live, var_z, torch.ones_like(var_z)), 0.0)
        left = (var_y - slope * joint).clamp_min(0)
        shares = self._states.double() / self.count
        entropy = -(shares * shares.clamp_min(1e-300).log2()).sum(1)
        return ActivationStatistics(
            self.span,
            self.count,
            slope.numpy(),
            (y - slope * z).numpy(),
            var_y.numpy(),
            left.numpy(),
            energy,
            shares.numpy(),
            entropy.clamp_min(0).numpy(),
        )


class _Function:
    """The nodes of an activation as a function of its entry, with the derivative."""

    def __init__(self, graph: Graph, span: Span) -> None:
        self._graph = graph
        self._program = {node.name: node for node in graph.module.graph.nodes}
        self._span = span

    def __call__(self, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """f(value) and f'(value), both of its shape."""
        with torch.enable_grad():
            z = value.detach().clone().requires_grad_()
            known: dict[fx.Node, Any] = {self._program[self._span.entry]: z}
            y = self._evaluate(self._program[self._span.exit], known)
            (slope,) = torch.autograd.grad(y.sum(), z, allow_unused=True)
        return y.detach(), torch.zeros_like(y) if slope is None else slope

    def _evaluate(self, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
        if node not in known:
            if node.op == "get_attr":
                known[node] = self._graph.tensor(str(node.target)).detach()
            else:
                args = map_arg(node.args, lambda source: self._evaluate(source, known))
                kwargs = map_arg(node.kwargs, lambda source: self._evaluate(source, known))
                known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return known[node]
