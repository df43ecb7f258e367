"""Editing the weight and bias of an affine node, whatever its dialect and spelling."""

from __future__ import annotations

import torch
from torch import fx

from otgraph.graph.affine import Affine, is_shared, lay_weight
from otgraph.graph.graph import op_name
from otgraph.graph.onnx.ops.arithmetic import Add
from otgraph.rewrite.rewriter import Rewriter

_BIAS_POSITION = {
    "aten.conv1d": 2,
    "aten.conv2d": 2,
    "aten.conv3d": 2,
    "aten.convolution": 2,
    "aten.linear": 2,
    "onnx.Conv": 2,
    "onnx.Gemm": 2,
}
"""Operators that take a bias, and where; plain products get an addition of their own."""


def write_weight(rewriter: Rewriter, affine: Affine, weight: torch.Tensor) -> None:
    """Store ``weight``, laid (out, in/groups, *kernel) as ``read_weight`` gives it; sizes may change."""
    rewriter.set_tensor(affine.weight, lay_weight(affine, weight))


def write_bias(rewriter: Rewriter, affine: Affine, bias: torch.Tensor) -> fx.Node:
    """Make ``bias``, shape (out,), the bias; a tensor is added where there is none or others read it too.

    Returns:
        The node whose value is now the whole ``W x + b`` (a new one, already in use, where an addition had to
        be inserted).
    """
    if affine.bias is not None and not is_shared(rewriter.graph, affine.bias):
        rewriter.set_tensor(affine.bias, bias)
        return affine.output
    weight = rewriter.graph.tensor(affine.weight)
    stored = rewriter.add_tensor(_name(affine), bias.to(dtype=weight.dtype, device=weight.device))
    if affine.bias is not None:
        _redirect(rewriter, affine, stored)
    elif op_name(affine.node) in _BIAS_POSITION:
        _set_bias(rewriter, affine, stored)
    else:
        add = Add if rewriter.graph.dialect == "onnx" else torch.ops.aten.add.Tensor
        added = rewriter.insert_after(affine.node, add, (affine.node, stored))
        rewriter.replace(affine.node, added)
        return added
    return affine.output


def _name(affine: Affine) -> str:
    owner, _, _ = affine.weight.rpartition(".")
    return affine.bias or (f"{owner}.bias" if owner else f"{affine.weight}_bias")


def _redirect(rewriter: Rewriter, affine: Affine, stored: fx.Node) -> None:
    """Let the one reader of a shared bias read ``stored`` instead."""
    node = affine.output
    for position, value in enumerate(node.args):
        if isinstance(value, fx.Node) and value.op == "get_attr" and value.target == affine.bias:
            rewriter.set_argument(node, position, stored)
    for key, value in node.kwargs.items():
        if isinstance(value, fx.Node) and value.op == "get_attr" and value.target == affine.bias:
            rewriter.set_argument(node, key, stored)


def _set_bias(rewriter: Rewriter, affine: Affine, stored: fx.Node) -> None:
    position = _BIAS_POSITION[op_name(affine.node)]
    named = [key for key in ("bias", "b", "c") if key in affine.node.kwargs]
    rewriter.set_argument(affine.node, named[0] if named else position, stored)
