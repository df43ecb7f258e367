"""Which operators act on each element by itself, and which of those are affine in it."""

from __future__ import annotations

from torch import fx

from otgraph.graph.graph import op_name

AFFINE = frozenset(
    {f"aten.{name}" for name in ("add", "sub", "rsub", "mul", "div", "neg", "clone", "alias", "dropout")}
    | {f"aten.{name}" for name in ("contiguous", "detach", "_to_copy", "to", "lift_fresh_copy")}
    | {f"onnx.{name}" for name in ("Add", "Sub", "Mul", "Div", "Neg", "Identity", "Dropout")}
)
"""Affine where at most one operand is data (a division: the numerator)."""

ADDITIONS = ("aten.add", "aten.add_", "onnx.Add")
"""The sum of two values."""

CURVED = frozenset(
    {f"aten.{name}" for name in ("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "silu")}
    | {f"aten.{name}" for name in ("gelu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "elu", "selu")}
    | {f"aten.{name}" for name in ("celu", "leaky_relu", "prelu", "softplus", "mish", "erf", "exp", "log")}
    | {f"aten.{name}" for name in ("sqrt", "rsqrt", "abs", "pow", "square", "reciprocal", "threshold")}
    | {
        f"aten.{name}"
        for name in ("maximum", "minimum", "log_sigmoid", "softsign", "hardshrink", "sin", "cos")
    }
    | {f"onnx.{name}" for name in ("Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu")}
    | {f"onnx.{name}" for name in ("Selu", "Celu", "LeakyRelu", "PRelu", "Softplus", "Mish", "Gelu", "Erf")}
    | {f"onnx.{name}" for name in ("Exp", "Log", "Sqrt", "Abs", "Pow", "Reciprocal", "ThresholdedRelu")}
    | {f"onnx.{name}" for name in ("Softsign", "Swish", "Max", "Min", "Sin", "Cos", "Sign")}
)
"""Never affine, whatever the operands."""

MOVES = frozenset(
    {f"aten.{name}" for name in ("view", "reshape", "_unsafe_view", "transpose", "permute", "flatten", "pad")}
    | {f"aten.{name}" for name in ("unsqueeze", "squeeze", "select", "slice", "constant_pad_nd", "expand")}
    | {f"aten.{name}" for name in ("t", "roll", "cat", "split", "chunk", "avg_pool1d", "avg_pool2d")}
    | {f"aten.{name}" for name in ("avg_pool3d", "adaptive_avg_pool2d", "mean", "index", "unflatten")}
    | {f"onnx.{name}" for name in ("Reshape", "Transpose", "Flatten", "Pad", "Unsqueeze", "Squeeze", "Slice")}
    | {f"onnx.{name}" for name in ("Expand", "Concat", "Split", "AveragePool", "GlobalAveragePool", "Gather")}
    | {"aten.batch_norm", "onnx.BatchNormalization", "getitem", "onnx.ReduceMean"}
)
"""Linear, but not element by element; no weights to multiply by (a batch norm's scale apart)."""


def is_pointwise(node: fx.Node) -> bool:
    """Whether ``node`` maps each element by itself."""
    return op_name(node) in AFFINE or op_name(node) in CURVED


def is_affine(node: fx.Node, data: frozenset[fx.Node]) -> bool:
    """Whether ``node`` is affine in its operands that are in ``data``, jointly (stored operands are known).

    Matrix products by stored weights are not looked at here (``graph.affine`` is).
    """
    name = op_name(node)
    if name in MOVES:
        return True
    if name not in AFFINE:
        return False
    if name in ("aten.mul", "onnx.Mul"):
        return sum(isinstance(value, fx.Node) and value in data for value in node.args) <= 1
    if name in ("aten.div", "onnx.Div"):
        return len(node.args) < 2 or node.args[1] not in data
    return True
