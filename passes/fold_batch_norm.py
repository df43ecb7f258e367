"""``fold-batch-norm``: inference batch norms become part of the layer that feeds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import fx

from otgraph.graph.affine import Affine, BatchNorm, is_shared, read_affine, read_batch_norm, read_weight
from otgraph.graph.channelwise import norm_factor_and_shift
from otgraph.graph.graph import Graph, label, op_name
from otgraph.rewrite.affine_edit import write_bias, write_weight
from otgraph.rewrite.contract import Context, Exactness, TransformPass
from otgraph.rewrite.rewriter import Rewriter
from otgraph.rewrite.shapes import value_infos


@final
@dataclass(frozen=True)
class FoldBatchNorm(TransformPass):
    """Fold inference batch norms into the convolution or linear layer that directly feeds them.

    What it does
        With s = gamma / sqrt(var + eps), each output channel of the layer is scaled by s and its bias becomes
        (bias - mean) * s + beta; the batch norm goes. The composition is made in float64 and rounded once.

    When it applies
        The layer feeds nothing but the batch norm, its weight is used nowhere else, and the batch norm has
        stored statistics. Everything else stays, with the reason: a batch norm after an activation, an addition
        or a concatenation, a fan-out, a shared weight. Run it after the passes that need batch norms (moment
        repair), so last but for `cleanup`.

    Exactness
        Exact up to rounding.

    Before and after
        >>> graph = capture(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)), example(2, 3, 9, 9))
        >>> print(program_text(graph))
        input input_1
        conv2d = aten.conv2d(input_1, 0.weight[8, 3, 3, 3])
        batch_norm_default = aten.batch_norm(conv2d, 1.weight[8], 1.bias[8], 1.running_mean[8], 1.running_var[8], False, 0.1, 1e-05, False)
        return batch_norm_default
        >>> print(program_text(rewrite("fold-batch-norm", graph)))
        input input_1
        conv2d = aten.conv2d(input_1, 0.weight[8, 3, 3, 3], 0.bias[8])
        return conv2d

    Remarks
        *applied* per batch norm with the layer it went into; *missed* with the reason.

    Options
        None.
    """  # noqa: E501  (a program line is as long as it is)

    name: ClassVar[str] = "fold-batch-norm"
    exactness: ClassVar[Exactness] = Exactness.EXACT

    def run(self, rewriter: Rewriter, context: Context) -> None:
        """Fold every batch norm that can be folded, in program order (so that a chain folds whole)."""
        for node in list(rewriter.graph.module.graph.nodes):
            norm = read_batch_norm(rewriter.graph, node)
            if norm is None:
                if "batch_norm" in op_name(node) or op_name(node).endswith("BatchNormalization"):
                    rewriter.remark("missed", label(node), "its statistics are computed, not stored")
                continue
            found = _feeding_layer(rewriter.graph, norm)
            if isinstance(found, str):
                rewriter.remark("missed", label(node), found)
            else:
                _fold(rewriter, norm, found)


def _feeding_layer(graph: Graph, norm: BatchNorm) -> Affine | str:
    """The layer that can take the batch norm in, or why there is none."""
    affine = _affine_with_output(graph, norm.data)
    if affine is None:
        return f"is fed by {op_name(norm.data)}, which is no convolution or linear layer with a stored weight"
    feeder = label(affine.node)
    if len(norm.data.users) > 1:
        others = ", ".join(label(user) for user in norm.data.users if user is not norm.node)
        return f"{feeder} also feeds {others}"
    if is_shared(graph, affine.weight):
        return f"the weight {affine.weight} of {feeder} is used by other layers too"
    if affine.kind == "linear" and len(value_infos(graph)[norm.data].shape) != 2:
        return f"normalizes axis 1, which is not the channel axis of {feeder}"
    weight, bias = _composed(graph, norm, affine)
    dtype = graph.tensor(affine.weight).dtype
    if not (weight.to(dtype).isfinite().all() and bias.to(dtype).isfinite().all()):
        return f"the folded weights of {feeder} would not be finite"
    return affine


def _affine_with_output(graph: Graph, output: fx.Node) -> Affine | None:
    """The affine map whose whole result is ``output``: the node itself, or the product before its bias."""
    for node in (output, *output.all_input_nodes):
        affine = read_affine(graph, node) if node.op == "call_function" else None
        if affine is not None and affine.output is output:
            return affine
    return None


def _composed(graph: Graph, norm: BatchNorm, affine: Affine) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of batch norm ∘ layer in float64."""
    factor, shift = norm_factor_and_shift(graph, norm)
    weight = read_weight(graph, affine).double()
    bias = torch.zeros_like(shift) if affine.bias is None else graph.tensor(affine.bias).double()
    return weight * factor.reshape(-1, *[1] * (weight.dim() - 1)), bias * factor + shift


def _fold(rewriter: Rewriter, norm: BatchNorm, affine: Affine) -> None:
    weight, bias = _composed(rewriter.graph, norm, affine)
    write_weight(rewriter, affine, weight)
    output = write_bias(rewriter, affine, bias)
    where = label(norm.node)
    rewriter.replace(norm.node, output)
    rewriter.erase(norm.node)
    rewriter.remark("applied", where, f"folded into {label(affine.node)}", channels=int(bias.numel()))
