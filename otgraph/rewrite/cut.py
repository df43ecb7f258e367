"""Cutting: the one edit of width. Every stored tensor loses the removed positions, every literal follows."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from otgraph.graph.axes.axis_map import AxisMap, Keep
from otgraph.graph.axes.expression import Expression
from otgraph.graph.literals import RULES as ATEN_RULES
from otgraph.graph.literals import rewrite_literals
from otgraph.graph.notes import KEPT, kept_of
from otgraph.graph.onnx.literals import RULES as ONNX_RULES
from otgraph.rewrite.rewriter import Rewriter


def cut_channels(rewriter: Rewriter, axes: AxisMap, keep: Keep) -> None:
    """Cut the dims in ``keep`` to their masks, everywhere.

    Args:
        axes: the axes of ``rewriter.graph`` as it is now.
        keep: dim name → mask, at least one index of each dim stays.

    Afterwards every node whose value lost positions notes (``KEPT``) per axis the positions that stayed, in
    terms of the axis before the first cut.
    """
    rewriter.record_cut(keep, axes)
    program = rewriter.graph.module.graph
    rules = ONNX_RULES if rewriter.graph.dialect == "onnx" else ATEN_RULES
    rewrite_literals(rewriter.graph, axes, keep, rewriter, rules)
    for name, tensor in rewriter.graph.tensors().items():
        shorter = _cut_tensor(tensor.detach(), axes.tensors.get(name, ()), keep)
        if shorter is not None:
            rewriter.set_tensor(name, shorter)
    for node in program.nodes:
        _note_kept(rewriter, node, axes, keep)


def _cut_tensor(tensor: torch.Tensor, shape: tuple[Expression, ...], keep: Keep) -> torch.Tensor | None:
    changed = False
    for number, axis in enumerate(shape):
        mask = axis.mask(keep)
        if not mask.all():
            stays = torch.tensor(np.flatnonzero(mask).tolist(), device=tensor.device)
            tensor = tensor.index_select(number, stays)
            changed = True
    return tensor if changed else None


def _note_kept(rewriter: Rewriter, node: fx.Node, axes: AxisMap, keep: Keep) -> None:
    results = axes.values.get(node.name, ())
    if node.op == "get_attr" or len(results) != 1:
        return
    before = kept_of(node)
    kept = dict(before)
    for number, axis in enumerate(results[0]):
        mask = axis.mask(keep)
        if not mask.all():
            kept[number] = before[number][mask] if number in before else np.flatnonzero(mask)
    if kept != before:
        rewriter.annotate(node, KEPT, kept)
