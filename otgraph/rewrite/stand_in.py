"""The node that takes a span's place, in either dialect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from otgraph.graph.onnx.ops.arithmetic import Add, Mul
from otgraph.graph.onnx.ops.convolution import Conv
from otgraph.graph.onnx.ops.matmul import MatMul
from otgraph.rewrite.rewriter import Rewriter
from otgraph.window import Window


@dataclass(frozen=True, eq=False)
class Numbers:
    """An affine map of the geometry ``window``, its kind told by the axes of ``weight``: (C,) a factor per
    channel of the last axis, (out, in) a product over the last axis, (out, in/groups, *kernel) a convolution
    over axis 1. ``bias``: (out,)."""

    weight: torch.Tensor
    bias: torch.Tensor
    window: Window

    def shape(self, entry: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape of the result for an entry of this shape; None where the map takes no such entry."""
        window = self.window
        if window.axis == -1:
            return (*entry[:-1], window.outputs) if entry[-1] == window.inputs else None
        if entry[1] != window.inputs or len(entry) != 2 + len(window.kernel):
            return None
        return (entry[0], window.outputs, *window.positions(entry[2:]))


def make_stand_in(
    rewriter: Rewriter, numbers: Numbers, entry: fx.Node, replaced: fx.Node, dtype: torch.dtype
) -> fx.Node:
    """Insert ``numbers`` as nodes that read ``entry``, after ``replaced`` and named after it; nothing reads
    them yet. ONNX writes a product with a bias as two nodes, every dialect a factor and a shift per channel.

    Returns:
        The node with the map's value.
    """
    name = f"{replaced.name}_map"
    laid = numbers.weight
    if rewriter.graph.dialect == "onnx" and laid.dim() == 2:
        laid = laid.transpose(0, 1)
    weight = rewriter.add_tensor(f"{name}.weight", laid.to(dtype))
    bias = rewriter.add_tensor(f"{name}.bias", numbers.bias.to(dtype))
    make = _make_onnx if rewriter.graph.dialect == "onnx" else _make_aten
    return make(_Insertion(rewriter, replaced, name), numbers, entry, weight, bias)


@dataclass
class _Insertion:
    """Inserts one node after the other, the last under the name that is wanted."""

    rewriter: Rewriter
    after: fx.Node
    name: str

    def call(self, function: Callable[..., Any], *args: Any, name: str = "", **kwargs: Any) -> fx.Node:
        self.after = self.rewriter.insert_after(self.after, function, args, kwargs, name=name or self.name)
        return self.after


def _make_aten(
    insertion: _Insertion, numbers: Numbers, entry: fx.Node, weight: fx.Node, bias: fx.Node
) -> fx.Node:
    aten = torch.ops.aten
    if numbers.weight.dim() == 1:
        scaled = insertion.call(aten.mul.Tensor, entry, weight, name=f"{insertion.name}_scaled")
        return insertion.call(aten.add.Tensor, scaled, bias)
    if numbers.weight.dim() == 2:
        return insertion.call(aten.linear.default, entry, weight, bias)
    functions = {1: aten.conv1d.default, 2: aten.conv2d.default, 3: aten.conv3d.default}
    window = numbers.window
    n = len(window.kernel)
    padding = [before for before, _ in window.padding]
    if any(before != after for before, after in window.padding):
        amounts = [amount for pair in reversed(window.padding) for amount in pair]
        entry = insertion.call(aten.pad.default, entry, amounts, name=f"{insertion.name}_padded")
        padding = [0] * n
    spaces = list(window.stride), padding, list(window.dilation)
    return insertion.call(functions[n], entry, weight, bias, *spaces, window.groups)


def _make_onnx(
    insertion: _Insertion, numbers: Numbers, entry: fx.Node, weight: fx.Node, bias: fx.Node
) -> fx.Node:
    if numbers.weight.dim() <= 2:
        function, part = (Mul, "scaled") if numbers.weight.dim() == 1 else (MatMul, "product")
        product = insertion.call(function, entry, weight, name=f"{insertion.name}_{part}")
        return insertion.call(Add, product, bias)
    window = numbers.window
    return insertion.call(
        Conv,
        entry,
        weight,
        bias,
        dilations=list(window.dilation),
        group=window.groups,
        kernel_shape=list(window.kernel),
        pads=list(window.onnx_pads),
        strides=list(window.stride),
    )
