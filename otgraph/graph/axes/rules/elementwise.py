"""Element-wise operators: axes of all operands are the same, where they are not broadcast."""

from __future__ import annotations

import torch
from torch._ops import OpOverload

from otgraph.graph.axes.call import Builder, Call, axes, text_of
from otgraph.graph.axes.rule import AxisRule


def pointwise(call: Call) -> AxisRule:
    """Any element-wise operator, with NumPy broadcasting."""
    rank = max((r.dim() for r in call.results), default=0)
    names = axes("a", rank)
    operands = [names[rank - t.dim() :] if t.dim() else [] for t in call.operands]
    return call.rule(text_of(operands, [names[rank - r.dim() :] for r in call.results]), combine="numeric")


def is_pointwise(func: OpOverload) -> bool:
    """Whether an operator that has no rule of its own is element-wise: PyTorch says so itself by a tag."""
    return torch.Tag.pointwise in func.tags


RULES: dict[str, Builder] = dict.fromkeys(
    ["clone", "detach", "_to_copy", "lift_fresh", "lift_fresh_copy", "alias", "contiguous", "copy_", "copy"]
    + ["hardtanh", "hardtanh_", "hardswish", "hardswish_", "hardsigmoid", "hardsigmoid_", "fill_", "zero_"]
    + [
        "fill",
        "dropout",
        "native_dropout",
        "leaky_relu",
        "leaky_relu_",
        "elu",
        "elu_",
        "mish",
        "mish_",
    ]
    + ["zeros_like", "ones_like", "full_like", "empty_like", "celu", "softplus", "_prelu_kernel", "where"],
    pointwise,
)
