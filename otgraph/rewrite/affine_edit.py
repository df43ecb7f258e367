"""Editing the weight and bias of an affine node, whatever its dialect and spelling."""

from __future__ import annotations

import torch

from otgraph.graph.affine import Affine, is_shared
from otgraph.graph.graph import op_name
from otgraph.rewrite.rewriter import Rewriter

BIAS_POSITION = {
    "aten.conv1d": 2,
    "aten.conv2d": 2,
    "aten.conv3d": 2,
    "aten.convolution": 2,
    "aten.linear": 2,
    "aten.addmm": 0,
    "onnx.Conv": 2,
    "onnx.Gemm": 2,
}
"""Where an operator takes its bias; those that are missing take none."""


def write_weight(rewriter: Rewriter, affine: Affine, weight: torch.Tensor) -> None:
    """Store ``weight``, laid (out, in/groups, *kernel) as ``read_weight`` gives it; sizes may change."""
    as_stored = affine.layout == "oi" or affine.transposed
    rewriter.set_tensor(affine.weight, weight if as_stored else weight.transpose(0, 1))


def takes_bias(affine: Affine) -> bool:
    """Whether ``write_bias`` can work: there is a bias, or the operator has a place for one."""
    return affine.bias is not None or op_name(affine.node) in BIAS_POSITION


def write_bias(rewriter: Rewriter, affine: Affine, bias: torch.Tensor) -> None:
    """Make ``bias``, shape (out,), the bias; a tensor is added where there is none or others read it too.

    Raises:
        ValueError: the operator takes no bias (see ``takes_bias``).
    """
    if affine.bias is not None and not is_shared(rewriter.graph, affine.bias):
        rewriter.set_tensor(affine.bias, bias)
        return
    weight = rewriter.graph.tensor(affine.weight)
    owner, _, _ = affine.weight.rpartition(".")
    name = affine.bias or (f"{owner}.bias" if owner else f"{affine.weight}_bias")
    if affine.output is not affine.node:
        node = affine.output
        position = next(i for i, value in enumerate(node.args) if value is not affine.node)
    elif op_name(affine.node) in BIAS_POSITION:
        node, position = affine.node, BIAS_POSITION[op_name(affine.node)]
    else:
        raise ValueError(
            f"{affine.node.name}: {op_name(affine.node)} takes no bias; add it in a node of its own"
        )
    stored = rewriter.add_tensor(name, bias.to(dtype=weight.dtype, device=weight.device))
    if "b" in node.kwargs or "bias" in node.kwargs:
        rewriter.set_argument(node, "b" if "b" in node.kwargs else "bias", stored)
    else:
        rewriter.set_argument(node, position, stored)
