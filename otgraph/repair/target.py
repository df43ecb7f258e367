"""What a repaired node should produce: the original's output, or what mends the stream it adds to."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import fx

from otgraph.calibrate.rows import gathered
from otgraph.graph.affine import Affine, BatchNorm, norm_of, read_affine
from otgraph.graph.graph import Graph, op_name
from otgraph.graph.notes import FITTED_ON, Kept, is_stand_in, kept_of, original_name
from otgraph.graph.pointwise import ADDITIONS
from otgraph.repair.frontier import Execution


class TargetMode(enum.Enum):
    """Which target the least squares aim at."""

    OUTPUT = "output"
    """The original's output of the same node."""
    STREAM = "stream"
    """Where the node's output is added to a value that is already computed (at most through a batch norm):
    the original's sum minus that value, so that the drift of the residual stream is corrected too. Else as
    OUTPUT."""


At = Callable[[int, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Target:
    """Wanted outputs: ``at(batch, positions)`` has shape (N, out, p), like ``gathered``. ``importance``
    (out,) weighs squared errors. ``shape``: of the wanted output of the first batch."""

    at: At
    importance: torch.Tensor
    mode: TargetMode
    shape: tuple[int, ...]


class Pair(Protocol):
    """The new network as far as it is executed, and the original's values by node name."""

    @property
    def new(self) -> Execution:
        """The new network."""
        ...

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of the original's value for the first batch; None where there is none."""

    def pick(self, name: str, total: int, width: int, batch: int) -> torch.Tensor:
        """Which of ``total`` output positions to use of the layer ``name`` of ``width`` columns."""
        ...

    def sample(self, name: str, batch: int, axis: int, at: torch.Tensor) -> torch.Tensor:
        """The original's value as ``gathered`` takes it."""
        ...


@dataclass(frozen=True)
class Addition:
    """``node`` adds ``skip`` to the output of an affine node, after ``norm`` if that is not None."""

    node: fx.Node
    skip: fx.Node
    norm: BatchNorm | None


def fitted_input(original: Graph, affine: Affine) -> str | None:
    """The node of the original on whose value the weights of ``affine`` were made: what it read there, or the
    entry of the span that it stands for. None where that is not known."""
    if is_stand_in(affine.output):
        return FITTED_ON.of(affine.output)
    there = next((n for n in original.module.graph.nodes if n.name == affine.node.name), None)
    found = None if there is None else read_affine(original, there)
    return None if found is None else found.data.name


def restrict(value: torch.Tensor, kept: Kept) -> torch.Tensor:
    """The kept positions of an original value."""
    for axis, index in kept.items():
        value = value.index_select(axis, torch.as_tensor(np.asarray(index, np.int64)))
    return value


def addition_of(graph: Graph, node: fx.Node) -> Addition | None:
    """The addition that alone reads ``node``, directly or through its batch norm."""
    norm = norm_of(graph, node)
    last = node if norm is None else norm.node
    if len(last.users) != 1:
        return None
    user = next(iter(last.users))
    operands: Sequence[Any] = user.args[:2]
    if op_name(user) not in ADDITIONS or len(user.args) != 2 or user.kwargs or operands[0] is operands[1]:
        return None
    skip = operands[1] if operands[0] is last else operands[0]
    if not isinstance(skip, fx.Node) or skip.op == "get_attr":
        return None
    return Addition(user, skip, norm)


def find_target(pair: Pair, affine: Affine, mode: TargetMode) -> Target | None:
    """The target of ``affine``, a node of the new network; None where the original has no such node."""
    wanted = _wanted(pair, affine.output, affine.axis)
    if wanted is None:
        return None
    shape, plain = wanted
    norm = norm_of(pair.new.graph, affine.output)
    gain = _gain(pair.new, norm, shape[affine.axis])
    if mode is TargetMode.STREAM:
        mended = _stream(pair, affine, gain, shape, plain)
        if mended is not None:
            return Target(mended, gain.square(), TargetMode.STREAM, shape)
    return Target(plain, gain.square(), TargetMode.OUTPUT, shape)


def _wanted(pair: Pair, node: fx.Node, axis: int) -> tuple[tuple[int, ...], At] | None:
    """What the original gives at ``node``, as far as it is left: the shape, and the values by position."""
    name = original_name(node)
    shape = pair.shape(name)
    if shape is None or len(shape) < 2:
        return None
    kept = {a % len(shape): index for a, index in kept_of(node).items()}
    channels = kept.pop(axis % len(shape), None)
    if kept:
        return None  # positions themselves were cut: the sampled ones are not the same
    if channels is None:
        return shape, lambda index, at: pair.sample(name, index, axis, at)
    chosen = torch.as_tensor(np.asarray(channels, np.int64))
    left = list(shape)
    left[axis] = len(chosen)
    return tuple(left), lambda index, at: pair.sample(name, index, axis, at).index_select(1, chosen)


def _gain(execution: Execution, norm: BatchNorm | None, channels: int) -> torch.Tensor:
    """What the batch norm multiplies each channel by (ones without one), shape (channels,), float64."""
    if norm is None:
        return torch.ones(channels, dtype=torch.float64)
    weight = torch.ones(channels) if norm.weight is None else execution.tensor(norm.weight)
    return weight.double() / (execution.tensor(norm.var).double() + norm.eps).sqrt()


def _stream(pair: Pair, affine: Affine, gain: torch.Tensor, shape: tuple[int, ...], plain: At) -> At | None:
    added = addition_of(pair.new.graph, affine.output)
    if added is None or added.skip.name not in pair.new.values:
        return None
    wanted, skips = _wanted(pair, added.node, affine.axis), pair.new.values[added.skip.name]
    if wanted is None or not wanted[0] == tuple(skips[0].shape) == shape:
        return None
    sums = wanted[1]
    shift = _shift(pair.new, added.norm, gain).view(-1, 1)
    gain = gain.view(-1, 1)
    live = gain.abs() > _DEAD * gain.abs().max()  # a channel the norm silences cannot mend anything
    inverse = torch.where(live, 1 / gain, torch.zeros_like(gain))

    def at(index: int, positions: torch.Tensor) -> torch.Tensor:
        skip = gathered(skips[index], affine.axis, positions)
        mended = (sums(index, positions).double() - skip.double() - shift) * inverse
        return torch.where(live, mended, plain(index, positions).double())

    return at


def _shift(execution: Execution, norm: BatchNorm | None, gain: torch.Tensor) -> torch.Tensor:
    """What the batch norm adds to ``gain`` times its input, shape (channels,)."""
    if norm is None:
        return torch.zeros_like(gain)
    bias = torch.zeros_like(gain) if norm.bias is None else execution.tensor(norm.bias).double()
    return bias - execution.tensor(norm.mean).double() * gain


_DEAD = 1e-4
