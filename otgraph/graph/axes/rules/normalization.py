"""Normalisations: batch statistics belong to a channel; layer and group statistics mix the channels."""

from __future__ import annotations

from otgraph.graph.axes.call import Builder, Call, axes
from otgraph.graph.axes.rule import AxisRule


def batch_norm(call: Call) -> AxisRule:
    """``(x, weight?, bias?, mean?, var?, …) -> (y, saved mean, saved rstd)``; the saved ones may be empty."""
    x = call.operands[0]
    vectors = ", c" * (len(call.operands) - 1)
    space = " ".join(axes("h", x.dim() - 2))
    saved = "".join(", c" if r.shape == (x.shape[1],) else ", z" for r in call.results[1:])
    return call.rule(f"n c {space}{vectors} -> n c {space}{saved}", combine="numeric")


def _bias(call: Call, weight: int) -> tuple[int, ...]:
    """The operand that is added: the last one, unless that is the weight at argument ``weight``."""
    return (len(call.operands) - 1,) if call.argument(weight + 1, "bias") is not None else ()


def layer_norm(call: Call) -> AxisRule:
    """``(x, normalized_shape, weight?, bias?, eps) -> (y, mean, rstd)``."""
    x, shape = call.operands[0], call.argument(1, "normalized_shape")
    outer, inner = axes("n", x.dim() - len(shape)), axes("c", len(shape))
    affine = f", {' '.join(inner)}" * (len(call.operands) - 1)
    whole = " ".join(outer + inner)
    saved = ", " + " ".join(outer + ["1"] * len(inner))
    text = f"{whole}{affine} -> {whole}" + saved * (len(call.results) - 1)
    return call.rule(text, normalised=tuple(inner), combine="product", added=_bias(call, 1))


def group_norm(call: Call) -> AxisRule:
    """``(x, weight?, bias?, N, C, HxW, group, eps) -> (y, mean, rstd)``: whole groups are free."""
    x, groups = call.operands[0], int(call.argument(6, "group"))
    space = " ".join(axes("h", x.dim() - 2))
    affine = ", g*c" * (len(call.operands) - 1)
    text = f"n g*c {space}{affine} -> n g*c {space}, n g, n g"
    sizes = {"g": groups, "c": int(x.shape[1]) // groups}
    return call.rule(text, sizes=sizes, normalised=("c",), combine="product", added=_bias(call, 1))


RULES: dict[str, Builder] = {
    "native_batch_norm": batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm,
    "_native_batch_norm_legit": batch_norm,
    "cudnn_batch_norm": batch_norm,
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
}
