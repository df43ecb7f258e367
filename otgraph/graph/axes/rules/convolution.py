"""Convolutions: contracted over input channels within a group, written over output channels."""

from __future__ import annotations

from otgraph.graph.axes.call import Builder, Call, axes
from otgraph.graph.axes.rule import AxisRule


def convolution(call: Call) -> AxisRule:
    """``aten.convolution(x, w, b, stride, padding, dilation, transposed, output_padding, groups)``."""
    spatial = call.args[0].dim() - 2
    transposed, groups = bool(call.argument(6, "transposed", False)), int(call.argument(8, "groups", 1))
    space, kernel, out = (" ".join(axes(p, spatial, "!")) for p in ("h", "k", "y"))
    weight = f"g*i o {kernel}" if transposed else f"g*o i {kernel}"
    bias = ", g*o" if len(call.operands) == 3 else ""
    text = f"n g*i {space}, {weight}{bias} -> n g*o {out}"
    channels = int(call.args[0].shape[1])
    sizes = {"g": groups, "i": channels // groups, "o": int(call.results[0].shape[1]) // groups}
    return call.rule(text, sizes=sizes, reduce=("i",), combine="product", added=(2,))


RULES: dict[str, Builder] = {"convolution": convolution}
