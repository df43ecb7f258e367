"""What a repaired node should produce: the original's output, or what mends the stream it adds to."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from otgraph.graph.affine import Affine, BatchNorm, read_batch_norm
from otgraph.graph.graph import op_name
from otgraph.repair.frontier import Program
from otgraph.repair.lockstep import Lockstep

Kept = Mapping[int, np.ndarray]
"""Axis → the positions of the original's axis that are left, in order."""


class TargetMode(enum.Enum):
    """Which target the least squares aim at."""

    OUTPUT = "output"
    """The original's output of the same node."""
    STREAM = "stream"
    """Where the node's output is added to a value that is already computed (at most through a batch norm):
    the original's sum minus that value, so that the drift of the residual stream is corrected too. Else as
    OUTPUT."""


@dataclass(frozen=True, eq=False)
class Target:
    """Wanted outputs: ``at(batch)`` has the shape of the node's output. ``importance`` (out,) weighs
    squared errors."""

    at: Callable[[int], torch.Tensor]
    importance: torch.Tensor
    mode: TargetMode


@dataclass(frozen=True)
class Addition:
    """``node`` adds ``skip`` to the output of an affine node, after ``norm`` if that is not None."""

    node: fx.Node
    skip: fx.Node
    norm: BatchNorm | None


def kept_of(node: fx.Node) -> Kept:
    """What ``prune-channels`` noted on a call node: per axis that lost positions those that are left."""
    return (node.meta.get("otgraph") or {}).get("kept") or {}


def restrict(value: torch.Tensor, kept: Kept) -> torch.Tensor:
    """The kept positions of an original value."""
    for axis, index in kept.items():
        value = value.index_select(axis, torch.as_tensor(np.asarray(index, np.int64)))
    return value


def following_norm(program: Program, node: fx.Node) -> BatchNorm | None:
    """The batch norm that alone reads ``node``, its statistics its own, if there is one."""
    if len(node.users) != 1:
        return None
    norm = read_batch_norm(program.graph, next(iter(node.users)))
    return norm if norm is not None and norm.data is node else None


def following_addition(program: Program, node: fx.Node) -> Addition | None:
    """The addition that alone reads ``node``, directly or through its batch norm."""
    norm = following_norm(program, node)
    last = node if norm is None else norm.node
    if len(last.users) != 1:
        return None
    user = next(iter(last.users))
    operands: Sequence[Any] = user.args[:2]
    if op_name(user) not in _ADDITIONS or len(user.args) != 2 or user.kwargs or operands[0] is operands[1]:
        return None
    skip = operands[1] if operands[0] is last else operands[0]
    if not isinstance(skip, fx.Node) or skip.op == "get_attr":
        return None
    return Addition(user, skip, norm)


def find_target(pair: Lockstep, affine: Affine, mode: TargetMode) -> Target | None:
    """The target of ``affine``, a node of the new network; None where the original has no such node."""
    wanted = pair.reference(affine.output.name)
    if wanted is None:
        return None
    kept = kept_of(affine.output)
    norm = following_norm(pair.new, affine.output)
    gain = _gain(pair.new, norm, restrict(wanted[0], kept).shape[affine.axis])
    if mode is TargetMode.STREAM:
        mended = _stream(pair, affine, gain, lambda index: restrict(wanted[index], kept))
        if mended is not None:
            return Target(mended, gain.square(), TargetMode.STREAM)
    return Target(lambda index: restrict(wanted[index], kept), gain.square(), TargetMode.OUTPUT)


def _gain(program: Program, norm: BatchNorm | None, channels: int) -> torch.Tensor:
    """What the batch norm multiplies each channel by (ones without one), shape (channels,), float64."""
    if norm is None:
        return torch.ones(channels, dtype=torch.float64)
    weight = torch.ones(channels) if norm.weight is None else program.tensor(norm.weight)
    return weight.double() / (program.tensor(norm.var).double() + norm.eps).sqrt()


def _stream(
    pair: Lockstep, affine: Affine, gain: torch.Tensor, plain: Callable[[int], torch.Tensor]
) -> Callable[[int], torch.Tensor] | None:
    added = following_addition(pair.new, affine.output)
    if added is None or added.skip.name not in pair.new.values:
        return None
    sums, skips = pair.reference(added.node.name), pair.new.values[added.skip.name]
    if sums is None:
        return None
    kept = kept_of(added.node)
    first = plain(0)
    if not restrict(sums[0], kept).shape == skips[0].shape == first.shape:
        return None
    shape = [1] * first.dim()
    shape[affine.axis] = -1
    shift = _shift(pair.new, added.norm, gain).view(shape)
    gain = gain.view(shape)
    live = gain.abs() > _DEAD * gain.abs().max()  # a channel the norm silences cannot mend anything
    inverse = torch.where(live, 1 / gain, torch.zeros_like(gain))

    def at(index: int) -> torch.Tensor:
        mended = (restrict(sums[index], kept).double() - skips[index].double() - shift) * inverse
        return torch.where(live, mended, plain(index).double())

    return at


def _shift(program: Program, norm: BatchNorm | None, gain: torch.Tensor) -> torch.Tensor:
    """What the batch norm adds to ``gain`` times its input, shape (channels,)."""
    if norm is None:
        return torch.zeros_like(gain)
    bias = torch.zeros_like(gain) if norm.bias is None else program.tensor(norm.bias).double()
    return bias - program.tensor(norm.mean).double() * gain


_ADDITIONS = ("aten.add", "aten.add_", "onnx.Add")
_DEAD = 1e-4
