"""Quantizers in the axis analysis: integers that stand for numbers keep the axes of these.

A number zero becomes exactly the zero point, whatever the scale, and that becomes zero again, where it is the
same zero point: a channel that vanishes does so behind a quantizer too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx
from torch.utils._python_dispatch import _pop_mode_temporarily  # pyright: ignore[reportPrivateUsage]

from otgraph.graph.axes.call import Call, axes, text_of
from otgraph.graph.axes.rule import AxisRule, make_rule
from otgraph.graph.axes.tracker import Integers, Tracked, Tracker
from otgraph.graph.graph import label, op_name
from otgraph.graph.quantized import QUANTIZE, parameters


def apply_quantizer(
    tracker: Tracker, node: fx.Node, operands: Sequence[torch.Tensor | None], result: torch.Tensor
) -> None:
    """Let ``tracker`` know what the quantizer ``node`` made of ``operands``: a tensor, the scale and, where
    there is one, the zero point."""
    x, scale, zero = [*operands, None][:3]
    assert x is not None and scale is not None
    given = tuple(each for each in (x, scale, zero) if each is not None)
    records = [_record(tracker, tensor) for tensor in given]
    _, _, axis, block_size = parameters(node)
    axis %= max(x.dim(), 1)
    quantizes = op_name(node) == QUANTIZE
    stored = not any(tracker.tracked(each).computed for each in given[1:])
    source = node.args[0]
    at_rest = isinstance(source, fx.Node) and source.op == "get_attr"  # dequantized by one zero point alone
    exact = stored and (quantizes or at_rest or _reads_back(records[0], zero, axis))
    rule = _rule(op_name(node), given, axis, block_size, exact=exact)
    call = Call(torch.ops.aten.detach.default, given, {}, given, (result,))
    (record,) = tracker.relate(call, rule, records)
    if quantizes:
        why = f"integers of {label(node)} that not DequantizeLinear alone reads"
        record.integers = Integers(why, tuple(record.axes), True, zero, axis)
    tracker.register(result, record)


def _record(tracker: Tracker, tensor: torch.Tensor) -> Tracked:
    known = tracker.tracked(tensor)
    return known if known.integers is not None and known.integers.steps else tracker.read(tensor)


def _rule(
    name: str, operands: Sequence[torch.Tensor], axis: int, block_size: int, *, exact: bool
) -> AxisRule:
    """The result has the axes of the first operand; scales and zero points have that along which they lie,
    unless they are one each, or one per block: what blocks run over cannot be cut."""
    x, *scales = operands
    names = axes("a", x.dim())
    if block_size:
        names[axis] += "!"
    sides = [names]
    for scale in scales:
        if scale.numel() == 1:
            sides.append(["1"] * scale.dim())
        elif block_size:
            sides.append([f"s{axis}!" if i == axis else each for i, each in enumerate(names)])
        else:
            sides.append([names[axis]])
    shapes = [tuple(tensor.shape) for tensor in operands]
    combine = "product" if exact else "always"
    return make_rule(name, text_of(sides, [names]), shapes, shapes[:1], combine=combine, times=(0,))


def _reads_back(record: Tracked, zero: torch.Tensor | None, axis: int) -> bool:
    """Whether computed integers are dequantized by the zero point that they were made with."""
    integers = record.integers
    if integers is None or not integers.steps:
        return False
    return _same_zero(integers.zero, zero) and (_count(zero) == 1 or integers.axis == axis)


def _same_zero(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    with _pop_mode_temporarily():
        first, second = (None if z is None else z.to(torch.int32).flatten() for z in (a, b))
        if first is None or second is None:
            return not any(bool(z.any()) for z in (first, second) if z is not None)
        return torch.equal(first, second)


def _count(zero: torch.Tensor | None) -> int:
    return 1 if zero is None else zero.numel()
