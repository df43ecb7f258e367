"""Normalizations: batch statistics belong to a channel; layer and group statistics mix the channels."""

from __future__ import annotations

from otgraph.graph.axes.call import Builder, Call, axes
from otgraph.graph.axes.rule import AxisRule


def batch_norm(call: Call) -> AxisRule:
    """``(x, weight?, bias?, mean?, var?, …) -> (y, saved mean, saved rstd)``; the saved ones may be empty."""
    x, weight, bias = call.operands[0], call.argument(1, "weight"), call.argument(2, "bias")
    vectors = ", c" * (len(call.operands) - 1)
    mixed = "!" if _of_the_batch(call) else ""
    whole = " ".join([f"n{mixed}", "c", *axes("h", x.dim() - 2, mixed)])
    saved = "".join(", c" if r.shape == (x.shape[1],) else ", z" for r in call.results[1:])
    text = f"{whole}{vectors} -> {whole}{saved}"
    if weight is None:  # a difference to the mean, which is the next operand
        return call.rule(text, combine="product", times=(0,), added=(1,))
    return call.rule(text, combine="product", times=(1,), added=() if bias is None else (2,))


def _of_the_batch(call: Call) -> bool:
    """Whether the statistics are those of the batch, as in training and in instance norms."""
    if call.name.endswith("no_training"):
        return False
    has_no_running_ones = isinstance(call.argument(3, "running_mean"), bool)  # the overload without them
    return has_no_running_ones or bool(call.argument(5, "training"))


def _bias(call: Call, place: int) -> tuple[int, ...]:
    """The operand that is added: the last one, if the argument at ``place`` is given."""
    return () if call.argument(place, "bias") is None else (len(call.operands) - 1,)


def layer_norm(call: Call) -> AxisRule:
    """``(x, normalized_shape, weight?, bias?, eps) -> (y, mean, rstd)``."""
    x, shape = call.operands[0], call.argument(1, "normalized_shape")
    outer, inner = axes("n", x.dim() - len(shape)), axes("c", len(shape))
    affine = f", {' '.join(inner)}" * (len(call.operands) - 1)
    whole = " ".join(outer + inner)
    saved = ", " + " ".join(outer + ["1"] * len(inner))
    text = f"{whole}{affine} -> {whole}{saved * (len(call.results) - 1)}"
    return call.rule(text, normalized=tuple(inner), combine="product", added=_bias(call, 3))


def group_norm(call: Call) -> AxisRule:
    """``(x, weight?, bias?, N, C, HxW, group, eps) -> (y, mean, rstd)``: whole groups are free."""
    x, groups = call.operands[0], int(call.argument(6, "group"))
    whole = " ".join(["n", "g*c", *axes("h", x.dim() - 2, "!")])
    text = f"{whole}{', g*c' * (len(call.operands) - 1)} -> {whole}, n g, n g"
    sizes = {"g": groups, "c": int(x.shape[1]) // groups}
    return call.rule(text, sizes=sizes, normalized=("c",), combine="product", added=_bias(call, 2))


RULES: dict[str, Builder] = {
    "native_batch_norm": batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm,
    "_native_batch_norm_legit": batch_norm,
    "cudnn_batch_norm": batch_norm,
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
}
