"""Convolutions: contracted over input channels within a group, written over output channels."""

from __future__ import annotations

from otgraph.graph.axes.call import Builder, Call, axes
from otgraph.graph.axes.rule import AxisRule


def convolution(call: Call) -> AxisRule:
    """``aten.convolution(x, w, b, stride, padding, dilation, transposed, output_padding, groups)``; positions
    that a kernel of one tap visits one by one go through."""
    spatial = call.args[0].dim() - 2
    transposed, groups = bool(call.argument(6, "transposed", False)), int(call.argument(8, "groups", 1))
    kernel = " ".join(axes("k", spatial, "!"))
    single = [_is_single(call, axis) for axis in range(spatial)]
    space = " ".join(f"h{axis}" + "!" * (not free) for axis, free in enumerate(single))
    out = " ".join(f"h{axis}" if free else f"y{axis}!" for axis, free in enumerate(single))
    weight = f"g*i o {kernel}" if transposed else f"g*o i {kernel}"
    bias = ", g*o" if len(call.operands) == 3 else ""
    text = f"n g*i {space}, {weight}{bias} -> n g*o {out}"
    channels = int(call.args[0].shape[1])
    sizes = {"g": groups, "i": channels // groups, "o": int(call.results[0].shape[1]) // groups}
    return call.rule(text, sizes=sizes, reduce=("i",), combine="product", added=(2,))


def _is_single(call: Call, axis: int) -> bool:
    """Whether a spatial axis has a kernel of one tap, without stride and padding."""
    stride, padding, extra = (list(call.args[k]) for k in (3, 4, 7))
    at = [given[axis if len(given) > 1 else 0] if given else 0 for given in (stride, padding, extra)]
    return call.args[1].shape[2 + axis] == 1 and at == [1, 0, 0]


RULES: dict[str, Builder] = {"convolution": convolution}
